"""Makes the number that orders the queue, and the head start of preferred agents.

Both are worked out just before the write by which a task becomes queued.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pymongo.asynchronous.collection import AsyncCollection

from hive.changes import ABSENT, After, Change
from hive.queue_order import DEFAULT_AGE_SECONDS, Climb, HeadStart, Place, lead_ms
from storage.mongo.changes import Expression
from storage.mongo.client import Database, Document
from storage.mongo.fairness import NOW_MS, FairTurns


class QueuePlaces:
    """What a change that queues a task needs, besides the task's own document."""

    def __init__(
        self,
        tasks: AsyncCollection[Document],
        turns: FairTurns,
        *,
        priority_age_seconds: float,
    ) -> None:
        self._tasks = tasks
        self._turns = turns
        self._age_seconds = priority_age_seconds

    async def complete(self, change: Change) -> Change:
        """The change with numbers in the place of the marks of `hive.queue_order`.

        A turn that was taken for a write that did not come about is lost: a quantum of the key.
        """
        made: dict[str, Any] = {}
        order, reserved = change.fields.get("queue_order"), change.fields.get("reserved")
        if isinstance(order, Place):
            made["queue_order"] = await self._place(order)
        elif isinstance(order, Climb):
            gained = lead_ms(order.ranks, self._age_seconds)
            made["queue_order"] = Expression({"$subtract": ["$queue_order", gained]})
        if isinstance(reserved, HeadStart):
            made["reserved"] = await self._reserve(reserved)
        return replace(change, fields={**change.fields, **made}) if made else change

    async def _place(self, place: Place) -> Any:
        lead = lead_ms(place.rank, self._age_seconds)
        if place.fairness is not None:
            return await self._turns.take(place.fairness) - lead
        return Expression({"$subtract": [NOW_MS, lead]})

    async def _reserve(self, start: HeadStart) -> Any:
        agent_id = start.agent_id
        if agent_id is None and start.task_id is not None:
            ran = await self._tasks.find_one({"_id": {"$eq": start.task_id}}, {"agent_id": True})
            agent_id = (ran or {}).get("agent_id")
        if agent_id is None and not start.labels:
            return ABSENT
        wanted: dict[str, Any] = {"labels": list(start.labels)} if start.labels else {}
        if agent_id is not None:
            wanted["agent_id"] = agent_id
        return {"until": After(start.seconds), **wanted}


async def give_places(database: Database) -> None:
    """Give tasks that were submitted before there were places one by their age. Idempotent."""
    lead = {"$multiply": ["$rank", lead_ms(1, DEFAULT_AGE_SECONDS)]}
    await database["tasks"].update_many(
        {"lane": {"$exists": False}},
        [
            {
                "$set": {
                    "lane": {"$ifNull": ["$concurrency.key", ""]},
                    "queue_order": {"$subtract": [{"$toLong": "$created_at"}, lead]},
                }
            }
        ],
    )


def open_to(agent_id: str, labels: Sequence[str]) -> Mapping[str, Any]:
    """An expression of whether this agent may take a task now; `labels` are its words."""
    # No word has a space in it: who is not preferred by label has none of these.
    preferred = {"$ifNull": ["$reserved.labels", [" "]]}
    return {
        "$or": [
            {"$lte": [{"$ifNull": ["$reserved.until", "$$NOW"]}, "$$NOW"]},
            {"$eq": ["$reserved.agent_id", {"$literal": agent_id}]},
            {"$setIsSubset": [preferred, {"$literal": list(labels)}]},
        ]
    }
