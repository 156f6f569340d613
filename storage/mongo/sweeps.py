"""What the reaper and the releaser look for in MongoDB.

All times are compared by the database (`$$NOW`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pymongo import ASCENDING, ReturnDocument

from hive.changes import NOW, Actor, Change
from hive.errors import TaskNotFound
from hive.ports import DecideTask
from hive.task_spec import DependencyPolicy
from hive.tasks import Task, TaskStatus
from storage.mongo.agents import MongoAgents
from storage.mongo.attempts import BUDGET_OVER
from storage.mongo.client import Document, guarded
from storage.mongo.logs import QUIET
from storage.mongo.task_documents import read_task
from storage.mongo.tasks import WITHOUT_FREE_FORM, MongoTasks

_OVER = {"$expr": {"$lt": ["$lease.expires_at", "$$NOW"]}}


class MongoSweeps:
    """The port `hive.duty_ports.Sweeps`."""

    def __init__(self, tasks: MongoTasks, agents: MongoAgents) -> None:
        self._resources = tasks.resources
        self._tasks = tasks.collection
        self._agents = agents
        self._admission = tasks.admission

    @guarded
    async def release_pending(self, *, limit: int) -> Sequence[tuple[str, TaskStatus]]:
        pending = self._tasks.find({"release_pending": True}, {"status": True})
        found = pending.sort("ended_at", ASCENDING).limit(limit)
        return [(row["_id"], TaskStatus(row["status"])) async for row in found]

    @guarded
    async def released(self, task_ids: Sequence[str]) -> None:
        await self._tasks.update_many(
            {"_id": {"$in": list(task_ids)}}, {"$unset": {"release_pending": ""}}
        )

    @guarded
    async def drop_ended(
        self, ended: Sequence[str], policies: Collection[DependencyPolicy], *, limit: int
    ) -> Sequence[str]:
        waiting = {"waiting_on": {"$in": list(ended)}}
        if len(policies) < len(DependencyPolicy):
            waiting["on_dependency_failure"] = {"$in": [policy.value for policy in policies]}
        task_ids = await self._ids(waiting, limit)
        if task_ids:
            await self._tasks.update_many(
                {"_id": {"$in": task_ids}, **waiting}, {"$pullAll": {"waiting_on": list(ended)}}
            )
        return task_ids

    @guarded
    async def to_end(
        self, ended: Sequence[str], policies: Collection[DependencyPolicy], *, limit: int
    ) -> Sequence[Task]:
        waiting = {
            "waiting_on": {"$in": list(ended)},
            "on_dependency_failure": {"$in": [policy.value for policy in policies]},
        }
        return await self._read(waiting, limit)

    @guarded
    async def change_all(self, task_ids: Sequence[str], decide: DecideTask, actor: Actor) -> None:
        writes = []
        for task in await self._read({"_id": {"$in": list(task_ids)}}, len(task_ids)):
            change = decide(task)
            if change is not None:
                writes.append(({"_id": task.task_id, "version": task.version}, change))
        await self._resources.save_all(writes, actor, without=WITHOUT_FREE_FORM)

    @guarded
    async def settle_pending(self, *, limit: int) -> Sequence[Task]:
        pending = self._tasks.find({"settle_pending": True}, WITHOUT_FREE_FORM)
        found = pending.sort("created_at", ASCENDING).limit(limit)
        return [read_task(document) async for document in found]

    @guarded
    async def all_settled(self, task_ids: Sequence[str]) -> None:
        await self._tasks.update_many(
            {"_id": {"$in": list(task_ids)}, "settle_pending": True},
            {"$unset": {"settle_pending": ""}},
        )

    @guarded
    async def settled(self, task_id: str) -> Task:
        document = await self._tasks.find_one_and_update(
            {"_id": task_id},
            {"$unset": {"settle_pending": ""}},
            projection=WITHOUT_FREE_FORM,
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            raise TaskNotFound
        return read_task(document)

    @guarded
    async def supersede(self, actor: Actor, *, limit: int) -> None:
        await self._admission.finish(actor, limit=limit)

    @guarded
    async def unblocked(self, *, limit: int) -> Sequence[str]:
        return await self._ids({"status": TaskStatus.BLOCKED.value, "waiting_on": []}, limit)

    @guarded
    async def due(self, *, limit: int) -> Sequence[str]:
        due = {"$expr": {"$lte": ["$run_at", "$$NOW"]}, "run_at": {"$exists": True}}
        return await self._ids({"status": TaskStatus.SCHEDULED.value, **due}, limit)

    @guarded
    async def expired(self, *, limit: int) -> Sequence[str]:
        return await self._ids({"lease.lease_id": {"$exists": True}, **_OVER}, limit)

    @guarded
    async def unobedient(self, grace_seconds: float, *, limit: int) -> Sequence[str]:
        overdue = {"$lt": ["$cancel_requested_at", _ago(grace_seconds)]}
        running = {"lease.lease_id": {"$exists": True}, "cancel_requested": True}
        return await self._ids({**running, "$expr": overdue}, limit)

    @guarded
    async def timed_out(self, *, limit: int) -> Sequence[tuple[str, int, str]]:
        exists = {"$exists": True}
        over: dict[str, Document] = {
            "queue": {
                "status": TaskStatus.QUEUED.value,
                "queued_at": exists,
                "timeouts.queue_seconds": exists,
                "$expr": _longer_than("$queued_at", "$timeouts.queue_seconds"),
            },
            "execution": {
                "lease.lease_id": exists,
                "started_at": exists,
                "timeouts.execution_seconds": exists,
                "$expr": _longer_than("$started_at", "$timeouts.execution_seconds"),
            },
            "total": {
                "total_deadline": exists,
                "$expr": {"$lt": ["$total_deadline", "$$NOW"]},
            },
            "retry": BUDGET_OVER,
        }
        found: list[tuple[str, int, str]] = []
        for what, query in over.items():
            rows = self._tasks.find(query, {"version": True}).limit(limit)
            found += [(row["_id"], row["version"], what) async for row in rows]
        return found

    @guarded
    async def expire(self, task_id: str, decide: DecideTask, actor: Actor) -> Task | None:
        return await self._resources.change_if({"_id": task_id}, decide, actor, only_if=_OVER)

    @guarded
    async def announce_logs(self, actor: Actor, *, limit: int) -> int:
        held = {"logs_held": True, "$expr": QUIET}
        announced = Change("task.log", {"logs_held": False, "logged_at": NOW})
        made = 0
        for task_id in await self._ids(held, limit):
            saved = await self._resources.save({"_id": task_id, **held}, announced, actor)
            made += saved is not None
        return made

    @guarded
    async def silent_agents(self, timeout_seconds: float, *, limit: int) -> Sequence[str]:
        return await self._agents.ids_silent(timeout_seconds, limit=limit)

    async def _read(self, query: Document, limit: int) -> list[Task]:
        found = self._tasks.find(query, WITHOUT_FREE_FORM).limit(limit)
        return [read_task(document) async for document in found]

    async def _ids(self, query: Document, limit: int) -> list[str]:
        return [row["_id"] async for row in self._tasks.find(query, {"_id": True}).limit(limit)]


def _ago(seconds: float) -> Document:
    return {"$subtract": ["$$NOW", round(seconds * 1000)]}


def _longer_than(since: str, seconds: str) -> Document:
    return {"$gt": [{"$subtract": ["$$NOW", since]}, {"$multiply": [seconds, 1000]}]}
