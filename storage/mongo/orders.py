"""Orders: work of several steps that was promised, one document each until all of it is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from hive.changes import Actor
from storage.mongo.client import Document, guarded, make_indexes

INDEXES: Final = (IndexModel([("accepted_at", ASCENDING)], name="age"),)


class Orders:
    """The orders of one collection. Nobody works on one that is older than `unattended_ms`."""

    def __init__(self, collection: AsyncCollection[Document], *, unattended_ms: int) -> None:
        self._collection = collection
        self._unattended_ms = unattended_ms

    async def prepare(self) -> None:
        """Make the index. Idempotent."""
        await make_indexes(self._collection, INDEXES)

    @guarded
    async def accept(self, order_id: str, fields: Mapping[str, Any], actor: Actor) -> None:
        """Write the order down, with who gave it; one that is there under the identifier stays."""
        given = {
            **fields,
            "actor_id": actor.actor_id,
            "request_id": actor.request_id,
            "call_id": actor.call_id,
        }
        assigned: Document = {name: {"$literal": value} for name, value in given.items()}
        try:
            await self._collection.update_one(
                {"_id": order_id, "accepted_at": {"$exists": False}},
                [{"$set": {**assigned, "accepted_at": "$$NOW"}}],
                upsert=True,
            )
        except DuplicateKeyError:
            return

    @guarded
    async def find(self, order_id: str) -> Document | None:
        """The order, unless it is finished."""
        return await self._collection.find_one({"_id": order_id})

    @guarded
    async def finish(self, order_id: str) -> None:
        """Forget the order. Idempotent."""
        await self._collection.delete_one({"_id": order_id})

    @guarded
    async def unattended(
        self, *, limit: int, shown: Mapping[str, bool] | None = None
    ) -> list[Document]:
        """Orders that nobody works on, oldest first; all of each, or the fields `shown`."""
        oldest = {"$subtract": ["$$NOW", self._unattended_ms]}
        found = self._collection.find({"$expr": {"$lt": ["$accepted_at", oldest]}}, shown)
        return [row async for row in found.sort("accepted_at", ASCENDING).limit(limit)]


def actor_of(order: Document) -> Actor:
    """Who gave the order."""
    return Actor(order["actor_id"], order["request_id"], order["call_id"])
