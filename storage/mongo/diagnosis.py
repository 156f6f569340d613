"""What diagnoses are made of, in MongoDB: the tasks that wait, and the hive around them."""

from __future__ import annotations

from collections.abc import Sequence

from pymongo import ASCENDING

from hive.agents import DesiredState
from hive.coordination_ports import Hive
from hive.diagnosis import AgentOutlook, Snapshot
from hive.tasks import WAITING, Task, TaskStatus
from storage.mongo.client import Database, guarded
from storage.mongo.task_documents import read_task
from storage.mongo.tasks import WITHOUT_FREE_FORM


class MongoDiagnoses:
    """The port `hive.coordination_ports.Diagnoses`."""

    def __init__(self, database: Database, hive: Hive) -> None:
        self._tasks = database["tasks"]
        self._agents = database["agents"]
        self._hive = hive

    @guarded
    async def waiting(self, *, after: str | None, limit: int) -> Sequence[Task]:
        query = {"status": {"$in": [status.value for status in WAITING]}}
        behind = {} if after is None else {"_id": {"$gt": after}}
        found = self._tasks.find({**query, **behind}, WITHOUT_FREE_FORM).sort("_id", ASCENDING)
        return [read_task(document) async for document in found.limit(limit)]

    @guarded
    async def snapshot(self, tasks: Sequence[Task]) -> Snapshot:
        queued = [task for task in tasks if task.status is TaskStatus.QUEUED]
        if not queued:
            return Snapshot()
        keys = {task.spec.concurrency.key for task in queued if task.spec.concurrency}
        return Snapshot(
            hive=await self._hive.get(),
            agents=await self._outlooks(),
            key_slots=await self._key_slots(sorted(keys)) if keys else {},
        )

    async def _outlooks(self) -> list[AgentOutlook]:
        held = await self._tasks.aggregate(
            [
                {"$match": {"lease.agent_id": {"$exists": True}}},
                {"$group": {"_id": "$lease.agent_id", "n": {"$sum": 1}}},
            ]
        )
        used = {row["_id"]: row["n"] async for row in held}
        shown = ("capabilities", "labels", "slots", "online", "desired_state")
        found = self._agents.find({"deleted": False}, dict.fromkeys(shown, True))
        return [
            AgentOutlook(
                capabilities=frozenset(row["capabilities"]),
                labels=row["labels"],
                online=row["online"],
                takes_work=row["desired_state"] == DesiredState.ACTIVE.value,
                free_slots=row["slots"] - used.get(row["_id"], 0),
            )
            async for row in found
        ]

    async def _key_slots(self, keys: Sequence[str]) -> dict[str, frozenset[int]]:
        held = self._tasks.find(
            {"lease.key": {"$in": list(keys)}}, {"lease.key": True, "lease.key_slot": True}
        )
        slots: dict[str, set[int]] = {}
        async for row in held:
            slots.setdefault(row["lease"]["key"], set()).add(row["lease"]["key_slot"])
        return {key: frozenset(used) for key, used in slots.items()}
