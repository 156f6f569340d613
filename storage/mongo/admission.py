"""Carries out the concurrency strategies that cancel. Both are exact under races.

A number of a key is one task's under a unique partial index. Which tasks are the newest is a total
order, so that nobody who looks earlier cancels one that a later look would keep.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from hive import task_machine as machine
from hive.admission import REASON, admit, turn_away
from hive.changes import Actor, Change
from hive.errors import HiveError, IllegalTransition, TaskNotFound
from hive.task_spec import Concurrency, ConcurrencyStrategy
from hive.tasks import ENDED, Task, TaskStatus
from storage.mongo.resources import Resources

SUPERSEDING = "supersede_pending"
INDEXES = (
    IndexModel(
        [("admission.key", ASCENDING), ("admission.number", ASCENDING)],
        name="admission_unique",
        unique=True,
        partialFilterExpression={"admission.key": {"$exists": True}},
    ),
    IndexModel(
        [("created_at", ASCENDING)],
        name="superseding",
        partialFilterExpression={SUPERSEDING: True},
    ),
)
OPEN = [status.value for status in TaskStatus if status not in ENDED]
Insert = Callable[[Change], Awaitable[Task]]


class Admission:
    """Lets new tasks in, or doesn't, or has older ones go."""

    def __init__(self, resources: Resources[Task]) -> None:
        self._resources = resources
        self._tasks = resources.collection

    async def insert(self, submitted: Change, insert: Insert, actor: Actor) -> Task:
        """Insert the task as the strategy of its key has it."""
        concurrency: Concurrency | None = submitted.fields.get("concurrency")
        if concurrency is None or concurrency.strategy is ConcurrencyStrategy.QUEUE:
            return await insert(submitted)
        if concurrency.strategy is ConcurrencyStrategy.CANCEL_NEWEST:
            return await self._admit(submitted, concurrency, insert)
        task = await insert(submitted)
        # The task is durable: what fails now is the reaper's.
        with suppress(HiveError):
            await self._supersede(task.task_id, concurrency, actor)
        return task

    async def finish(self, actor: Actor, *, limit: int) -> None:
        """Do what a crash kept from being done after an insert."""
        pending = self._tasks.find({SUPERSEDING: True}, {"concurrency": True}).limit(limit)
        for row in [row async for row in pending]:
            kept = Concurrency(row["concurrency"]["key"], row["concurrency"]["limit"])
            await self._supersede(row["_id"], kept, actor)

    async def _admit(self, submitted: Change, concurrency: Concurrency, insert: Insert) -> Task:
        holders = self._tasks.find(
            {"admission.key": {"$eq": concurrency.key}}, {"admission.number": True}
        )
        held = {row["admission"]["number"] async for row in holders}
        for number in range(1, concurrency.limit + 1):
            if number in held:
                continue
            try:
                return await insert(admit(submitted, concurrency.key, number))
            except DuplicateKeyError as error:
                if "admission.key" not in (error.details or {}).get("keyPattern", {}):
                    raise
        return await insert(turn_away(submitted))

    async def _supersede(self, task_id: str, concurrency: Concurrency, actor: Actor) -> None:
        others = self._tasks.find(
            {
                "status": {"$in": OPEN},
                "concurrency.key": {"$eq": concurrency.key},
                "concurrency.strategy": ConcurrencyStrategy.CANCEL_OLDEST.value,
                "cancel_requested": {"$ne": True},
            },
            {"_id": True},
        )
        newest_first = others.sort([("created_at", DESCENDING), ("_id", DESCENDING)])
        over = [row["_id"] async for row in newest_first.skip(concurrency.limit)]
        for other in over:
            # One that has ended meanwhile is out of the way.
            with suppress(IllegalTransition, TaskNotFound):
                await self._resources.change(
                    {"_id": other}, lambda task: machine.cancel(task, REASON), actor
                )
        await self._tasks.update_one({"_id": task_id}, {"$unset": {SUPERSEDING: ""}})
