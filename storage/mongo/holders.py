"""Agents that hold leases and should not, in MongoDB. Times are compared by the database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from pymongo import ASCENDING, DESCENDING, IndexModel

from hive.agents import DesiredState
from hive.coordination import TakeBack
from hive.coordination_ports import TakenBack
from storage.mongo.client import Database, Document, guarded, make_indexes

MOST_AGENTS: Final = 1_000
INDEXES: Final = (
    IndexModel(
        [("drain_deadline", ASCENDING)],
        name="drain_deadline",
        partialFilterExpression={"drain_deadline": {"$exists": True}},
    ),
)


class MongoHolders:
    """The port `hive.coordination_ports.Holders`."""

    def __init__(self, database: Database) -> None:
        self._tasks = database["tasks"]
        self._agents = database["agents"]

    async def prepare(self) -> None:
        """Make the index. Idempotent."""
        await make_indexes(self._agents, INDEXES)

    @guarded
    async def drained(self, *, limit: int) -> Sequence[TakenBack]:
        overdue = self._agents.find(
            {
                "drain_deadline": {"$exists": True},
                "desired_state": DesiredState.DRAINING.value,
                "$expr": {"$lt": ["$drain_deadline", "$$NOW"]},
            },
            {"_id": True},
        )
        # The newest first: those that were drained long ago hold nothing any more.
        newest = overdue.sort("drain_deadline", DESCENDING).limit(MOST_AGENTS)
        agents = [row["_id"] async for row in newest]
        if not agents:
            return []
        held = self._tasks.find({"lease.agent_id": {"$in": agents}}, {"lease.agent_id": True})
        return await _read(held.limit(limit), TakeBack.DRAINED)

    @guarded
    async def offline(self, *, limit: int) -> Sequence[TakenBack]:
        # From the leases: there are more agents that are gone than agents that hold something.
        held = await self._tasks.aggregate(
            [
                {"$match": {"lease.agent_id": {"$exists": True}}},
                {"$project": {"lease.agent_id": True}},
                {
                    "$lookup": {
                        "from": "agents",
                        "localField": "lease.agent_id",
                        "foreignField": "_id",
                        "as": "agent",
                        "pipeline": [{"$project": {"online": True}}],
                    }
                },
                {"$match": {"agent.online": False}},
                {"$limit": limit},
            ]
        )
        return await _read(held, TakeBack.AGENT_OFFLINE)


async def _read(rows: AsyncIterator[Document] | Any, reason: TakeBack) -> list[TakenBack]:
    return [TakenBack(row["_id"], row["lease"]["agent_id"], reason) async for row in rows]
