"""Leases of background duties in MongoDB: one document a duty, compared by the database's clock."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pymongo import ReturnDocument

from hive.changes import After, Plus
from storage.mongo.changes import expression
from storage.mongo.client import Database, Document, guarded

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class MongoLeadership:
    """The port `hive.duty_ports.Leadership`."""

    def __init__(self, database: Database) -> None:
        self._leaders = database["leaders"]

    @guarded
    async def acquire(self, duty: str, node_id: str, seconds: float) -> int | None:
        free = {"$or": [{"$eq": ["$holder", node_id]}, {"$lte": ["$expires_at", "$$NOW"]}]}
        taken = {
            "holder": {"$literal": node_id},
            "term": expression(Plus("term")),
            "expires_at": expression(After(seconds)),
        }
        # All nodes but one ask again and again: a look costs no write in the journal.
        seen = await self._leaders.find_one({"_id": duty}, {"is_free": free})
        if seen is None:
            # `$expr` can't stand in an upsert: make the document first, held by nobody.
            await self._leaders.update_one(
                {"_id": duty}, {"$setOnInsert": {"term": 0, "expires_at": EPOCH}}, upsert=True
            )
        elif not seen["is_free"]:
            return None
        leader = await self._take({"_id": duty, "$expr": free}, taken)
        if leader is None:
            return None
        term: int = leader["term"]
        return term

    @guarded
    async def renew(self, duty: str, node_id: str, term: int, seconds: float) -> bool:
        return await self._update(duty, node_id, term, {"expires_at": After(seconds)})

    @guarded
    async def release(self, duty: str, node_id: str, term: int) -> None:
        await self._update(duty, node_id, term, {"expires_at": After(0)})

    @guarded
    async def load_checkpoint(self, duty: str) -> Mapping[str, Any] | None:
        leader = await self._leaders.find_one({"_id": duty}, {"checkpoint": True})
        return leader.get("checkpoint") if leader else None

    @guarded
    async def save_checkpoint(
        self, duty: str, node_id: str, term: int, checkpoint: Mapping[str, Any]
    ) -> bool:
        return await self._update(duty, node_id, term, {"checkpoint": checkpoint})

    async def _take(self, query: Document, fields: Document) -> Document | None:
        return await self._leaders.find_one_and_update(
            query, [{"$set": fields}], return_document=ReturnDocument.AFTER
        )

    async def _update(self, duty: str, node_id: str, term: int, fields: Mapping[str, Any]) -> bool:
        assigned = {name: expression(value) for name, value in fields.items()}
        done = await self._leaders.update_one(
            {"_id": duty, "holder": node_id, "term": term}, [{"$set": assigned}]
        )
        return done.matched_count == 1
