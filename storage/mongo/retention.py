"""Old tasks and agents in MongoDB, and the two steps in which a task goes.

1. `retired_at` is set: from then on no new task can depend on it (`MongoTasks.statuses`).
2. An hour later whatever was submitted meanwhile has been written. A task that is waited for is
   brought back, and its dependents are told; the others are deleted, log lines and files before the
   task, so that a kill between the two leaves nothing that nobody finds again.

Neither step is visible: no event, no new version.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from pymongo import ASCENDING, IndexModel

from hive.retention import DAY_SECONDS, RETIRED_SECONDS, TOMBSTONE_DAYS, WalkPosition
from hive.tasks import ENDED, TaskStatus
from storage.mongo.artifacts import MongoArtifactFiles
from storage.mongo.client import Database, Document, guarded, make_indexes

LINES_AT_ONCE: Final = 5000
TOKEN_TIME_CHARACTERS: Final = 10
RECORDED_MARGIN: Final = timedelta(minutes=1)
_ENDED: Final = [status.value for status in TaskStatus if status in ENDED]
_UNENDED: Final = [status.value for status in TaskStatus if status not in ENDED]
_THERE: Final = {"$exists": True}
TASK_INDEXES: Final = (
    IndexModel(
        [("ended_at", ASCENDING), ("_id", ASCENDING)],
        name="ended",
        partialFilterExpression={"ended_at": _THERE},
    ),
    IndexModel(
        [("retired_at", ASCENDING)],
        name="retired",
        partialFilterExpression={"retired_at": _THERE},
    ),
    IndexModel(
        [("dependencies", ASCENDING)],
        name="depended_upon",
        partialFilterExpression={"dependencies.0": _THERE},
    ),
)
AGENT_INDEXES: Final = (
    IndexModel(
        [("deleted_at", ASCENDING)],
        name="tombstones",
        partialFilterExpression={"deleted_at": _THERE},
    ),
)


class MongoOldData:
    """The port `hive.retention.OldData`."""

    def __init__(self, database: Database, *, retired_seconds: float = RETIRED_SECONDS) -> None:
        self._tasks = database["tasks"]
        self._lines = database["task_logs"]
        self._files = MongoArtifactFiles(database)
        self._agents = database["agents"]
        self._schedules = database["schedules"]
        self._leaders = database["leaders"]
        self._retired_seconds = retired_seconds

    async def prepare(self) -> None:
        """Make the indexes. Idempotent."""
        await make_indexes(self._tasks, TASK_INDEXES)
        await make_indexes(self._agents, AGENT_INDEXES)

    @guarded
    async def retire(
        self, days: int, *, after: WalkPosition | None, limit: int
    ) -> WalkPosition | None:
        query: Document = {
            "ended_at": _THERE,
            "status": {"$in": _ENDED},
            "retired_at": {"$exists": False},
            "release_pending": {"$ne": True},
            "logs_held": {"$ne": True},
            "updated_at": {"$lt": await self._recorded_until()},
            "$expr": _older("$ended_at", days * DAY_SECONDS),
        }
        if after is not None:
            behind = {"ended_at": after.ended_at, "_id": {"$gt": after.task_id}}
            query["$or"] = [{"ended_at": {"$gt": after.ended_at}}, behind]
        found = self._tasks.find(query, {"ended_at": True}).limit(limit)
        old = [row async for row in found.sort([("ended_at", ASCENDING), ("_id", ASCENDING)])]
        ids = [row["_id"] for row in old]
        kept = await self._depended_upon(ids)
        await self._tasks.update_many(
            {"_id": {"$in": [each for each in ids if each not in kept]}, "status": {"$in": _ENDED}},
            [{"$set": {"retired_at": "$$NOW"}}],
        )
        return WalkPosition(old[-1]["ended_at"], old[-1]["_id"]) if len(old) == limit else None

    @guarded
    async def delete_retired(self, *, limit: int) -> int:
        # A retry by hand began it again.
        again = {"$expr": {"$gt": ["$ended_at", "$retired_at"]}}
        await self._tasks.update_many(
            {"retired_at": _THERE, "$or": [{"status": {"$in": _UNENDED}}, again]},
            {"$unset": {"retired_at": ""}},
        )
        due = {
            "retired_at": _THERE,
            "status": {"$in": _ENDED},
            "$expr": _older("$retired_at", self._retired_seconds),
        }
        found = self._tasks.find(due, {"_id": True}).sort("retired_at", ASCENDING).limit(limit)
        ids = [row["_id"] async for row in found]
        kept = await self._bring_back(ids)
        going = [each for each in ids if each not in kept]
        await self._delete_lines(going)
        await self._files.delete_of(going)
        await self._tasks.delete_many({"_id": {"$in": going}, **due})
        return len(ids)

    async def sweep_files(self, *, limit: int) -> int:
        return await self._files.sweep(limit=limit)

    @guarded
    async def delete_tombstones(self, *, limit: int) -> int:
        old: Document = {
            "deleted_at": _THERE,
            "deleted": True,
            "updated_at": {"$lt": await self._recorded_until()},
            "$expr": _older("$deleted_at", TOMBSTONE_DAYS * DAY_SECONDS),
        }
        gone = 0
        for collection in (self._agents, self._schedules):
            if gone == limit:
                break
            found = collection.find(old, {"_id": True}).limit(limit - gone)
            ids = [row["_id"] async for row in found]
            gone += (await collection.delete_many({"_id": {"$in": ids}})).deleted_count
        return gone

    async def _recorded_until(self) -> datetime:
        """All that was changed before this is in the log."""
        leader = await self._leaders.find_one({"_id": "recorder"}, {"checkpoint": True})
        checkpoint = (leader or {}).get("checkpoint")
        data = str(checkpoint["token"]["_data"]) if checkpoint else ""
        if len(data) < TOKEN_TIME_CHARACTERS:
            return datetime.fromtimestamp(0, UTC)
        # 82, then the seconds of the cluster's time in hexadecimal.
        return datetime.fromtimestamp(int(data[2:TOKEN_TIME_CHARACTERS], 16), UTC) - RECORDED_MARGIN

    async def _depended_upon(self, ids: Sequence[str]) -> set[str]:
        """Those that a task names that has not ended."""
        query = {
            "dependencies.0": _THERE,
            "dependencies": {"$in": list(ids)},
            "status": {"$in": _UNENDED},
        }
        found = self._tasks.find(query, {"dependencies": True})
        return {each async for row in found for each in row["dependencies"]} & set(ids)

    async def _bring_back(self, ids: Sequence[str]) -> set[str]:
        kept = await self._depended_upon(ids)
        # The dependents of these read the end of it as if it had just come.
        await self._tasks.update_many(
            {"_id": {"$in": list(kept)}},
            {"$unset": {"retired_at": ""}, "$set": {"release_pending": True}},
        )
        return kept

    async def _delete_lines(self, task_ids: Sequence[str]) -> None:
        query = {"task_id": {"$in": list(task_ids)}}
        while lines := [
            row["_id"] async for row in self._lines.find(query, {"_id": True}).limit(LINES_AT_ONCE)
        ]:
            await self._lines.delete_many({"_id": {"$in": lines}})


def _older(since: str, seconds: float) -> Document:
    return {"$lt": [since, {"$subtract": ["$$NOW", round(seconds * 1000)]}]}
