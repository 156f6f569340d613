"""The log lines of tasks in MongoDB: a collection of their own, counted in the task.

The count is taken in the task's document under the lease, so that the numbers of lines are dense
and a lost lease writes nothing. A kill between the two leaves numbers without lines, never lines
twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument

from hive.attempts import HEARTBEAT
from hive.changes import NOW, Actor, After, Change, Plus
from hive.errors import LeaseLost
from hive.leases import LeaseProof
from hive.ports import LogLine
from hive.tasks import Task
from storage.mongo.changes import expression
from storage.mongo.client import Database, Document, guarded, make_indexes
from storage.mongo.task_documents import read_task
from storage.mongo.tasks import WITHOUT_FREE_FORM, MongoTasks, current

LOG_EVENT_EVERY_MS = 1000
LINES_KEPT = 100_000
DROP_SHARE = 100
"""Old lines go when a hundredth of what is kept has come: a deletion for each write costs more."""
QUIET = {
    "$lt": [
        {"$ifNull": ["$logged_at", datetime(1970, 1, 1, tzinfo=UTC)]},
        {"$subtract": ["$$NOW", LOG_EVENT_EVERY_MS]},
    ]
}
"""True while the last `task.log` event of the task is over a second old."""


class MongoTaskLogs:
    """The port `hive.ports.TaskLogs`."""

    def __init__(self, database: Database, tasks: MongoTasks, *, keep: int = LINES_KEPT) -> None:
        self._lines = database["task_logs"]
        self._tasks = tasks
        self._keep = keep

    async def prepare(self) -> None:
        """Make the indexes. Idempotent."""
        line = IndexModel(
            [("task_id", ASCENDING), ("line", ASCENDING)], name="line_unique", unique=True
        )
        await make_indexes(self._lines, [line])

    @guarded
    async def append(
        self,
        proof: LeaseProof,
        lines: Sequence[Mapping[str, str]],
        actor: Actor,
        *,
        agent_id: str | None,
        seconds: float | None = None,
    ) -> Task:
        counted: dict[str, Any] = {"log_count": Plus("log_count", len(lines))}
        if seconds is not None:
            counted["lease.expires_at"] = After(seconds, at_most=HEARTBEAT)
        task = await self._count(proof, counted, actor, agent_id)
        first = task.log_count - len(lines) + 1
        written_at = datetime.now(UTC)
        await self._lines.insert_many(
            [
                {
                    "task_id": task.task_id,
                    "line": first + index,
                    "time": written_at,
                    "level": line["level"],
                    "message": line["message"],
                    "attempt": task.attempt,
                }
                for index, line in enumerate(lines)
            ]
        )
        await self._drop_old(task, first)
        return task

    @guarded
    async def dropped(self, task_id: str) -> int:
        oldest = await self._lines.find_one(
            {"task_id": task_id}, {"line": True}, sort=[("line", ASCENDING)]
        )
        return oldest["line"] - 1 if oldest else 0

    @guarded
    async def read(self, task_id: str, *, after: int | None, limit: int) -> Sequence[LogLine]:
        query: Document = {"task_id": task_id}
        if after is not None:
            query["line"] = {"$gt": after}
        direction = DESCENDING if after is None else ASCENDING
        cursor = self._lines.find(query, {"_id": False, "task_id": False})
        found = [LogLine(**row) async for row in cursor.sort("line", direction).limit(limit)]
        return found if after is not None else found[::-1]

    async def _drop_old(self, task: Task, first: int) -> None:
        step = max(1, self._keep // DROP_SHARE)
        last = task.log_count - self._keep
        if last > 0 and (first - 1) // step != task.log_count // step:
            await self._lines.delete_many({"task_id": task.task_id, "line": {"$lte": last}})

    async def _count(
        self, proof: LeaseProof, counted: Mapping[str, Any], actor: Actor, agent_id: str | None
    ) -> Task:
        query = current(proof, agent_id)
        announced = Change("task.log", {**counted, "logged_at": NOW, "logs_held": False})
        made = await self._tasks.resources.save({**query, "$expr": QUIET}, announced, actor)
        if made is not None:
            return made
        held = {name: expression(value) for name, value in counted.items()} | {"logs_held": True}
        document = await self._tasks.collection.find_one_and_update(
            query,
            [{"$set": held}],
            projection=WITHOUT_FREE_FORM,
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            await self._tasks.find_leased(proof, agent_id)
            raise LeaseLost(lease_id=proof.lease_id, fence=proof.fence)
        return read_task(document)
