"""Orders to cancel a part of the graph: one document each, gone when nothing remains to be done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pymongo import ASCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from hive.changes import Actor
from hive.graphs import SubtreeOrder
from storage.mongo.client import Database, guarded, make_indexes

INDEXES = (IndexModel([("accepted_at", ASCENDING)], name="age"),)
UNATTENDED_MS: Final = 1_000
"""After so long, the request that brought an order has done its part."""


class MongoSubtreeOrders:
    """The port `hive.graphs.SubtreeOrders`."""

    def __init__(self, database: Database) -> None:
        self._orders = database["subtree_orders"]

    async def prepare(self) -> None:
        """Make the index. Idempotent."""
        await make_indexes(self._orders, INDEXES)

    @guarded
    async def accept(self, order: SubtreeOrder, actor: Actor) -> None:
        fields: dict[str, Any] = {
            "task_id": order.task_id,
            "principal_id": order.principal_id,
            "actor_id": actor.actor_id,
            "request_id": actor.request_id,
            "call_id": actor.call_id,
        }
        assigned: dict[str, Any] = {name: {"$literal": value} for name, value in fields.items()}
        try:
            await self._orders.update_one(
                {"_id": order.order_id, "accepted_at": {"$exists": False}},
                [{"$set": {**assigned, "accepted_at": "$$NOW"}}],
                upsert=True,
            )
        except DuplicateKeyError:
            return

    @guarded
    async def finish(self, order_id: str) -> None:
        await self._orders.delete_one({"_id": order_id})

    @guarded
    async def unfinished(self, *, limit: int) -> Sequence[tuple[SubtreeOrder, Actor]]:
        old = {"$expr": {"$lt": ["$accepted_at", {"$subtract": ["$$NOW", UNATTENDED_MS]}]}}
        found = self._orders.find(old).sort("accepted_at", ASCENDING).limit(limit)
        return [
            (
                SubtreeOrder(row["_id"], row["task_id"], row["principal_id"]),
                Actor(row["actor_id"], row["request_id"], row["call_id"]),
            )
            async for row in found
        ]
