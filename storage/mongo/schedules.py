"""Schedules in MongoDB: one document a schedule; a tombstone stays for a week.

The name of a schedule is its owner's once, and so is its `place`, a number up to `MAX_PER_OWNER`:
unique partial indexes keep both exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from pymongo import ASCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from hive.changes import Actor, Change
from hive.errors import NameTaken, ScheduleNotFound, TooManySchedules, WriteConflict
from hive.fire_times import Trigger
from hive.raw_json import RawJson
from hive.schedule_ports import DecideSchedule, DueSchedules, ScheduleFilter
from hive.schedules import (
    MAX_PER_OWNER,
    SUMMARY_FIELDS,
    Counts,
    LastRun,
    Overlap,
    Schedule,
    ScheduleSpec,
)
from storage.mongo.client import Database, Document, guarded, make_indexes
from storage.mongo.resources import ATTEMPTS, Committed, Resources

INDEXES = (
    IndexModel(
        [("owner", ASCENDING), ("name", ASCENDING)],
        name="name_unique",
        unique=True,
        partialFilterExpression={"deleted": False},
    ),
    IndexModel(
        [("owner", ASCENDING), ("place", ASCENDING)],
        name="place_unique",
        unique=True,
        partialFilterExpression={"place": {"$exists": True}},
    ),
    IndexModel([("status", ASCENDING), ("_id", ASCENDING)], name="status"),
    IndexModel([("owner", ASCENDING), ("_id", ASCENDING)], name="owner"),
    IndexModel(
        [("due_at", ASCENDING)],
        name="due",
        partialFilterExpression={"due_at": {"$exists": True}},
    ),
    IndexModel(
        [("buffered_at", ASCENDING)],
        name="buffered",
        partialFilterExpression={"buffered_at": {"$exists": True}},
    ),
    IndexModel(
        [("deleted_at", ASCENDING)],
        name="tombstones",
        partialFilterExpression={"deleted_at": {"$exists": True}},
    ),
)


class MongoSchedules:
    """The port `hive.schedule_ports.ScheduleQueue`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._resources: Resources[Schedule] = Resources(
            database["schedules"],
            identifier="schedule_id",
            summary=SUMMARY_FIELDS,
            read=read_schedule,
            missing=ScheduleNotFound,
            alive={"deleted": False},
        )
        self._collection = self._resources.collection

    async def prepare(self) -> None:
        """Make the indexes. Idempotent."""
        await make_indexes(self._collection, INDEXES)

    def on_commit(self, callback: Committed) -> None:
        """Call back after each change made by this node."""
        self._resources.on_commit(callback)

    @guarded
    async def now(self) -> datetime:
        cursor = await self._database.aggregate([{"$documents": [{"now": "$$NOW"}]}])
        (row,) = [row async for row in cursor]
        now: datetime = row["now"]
        return now

    @guarded
    async def insert(self, schedule_id: str, change: Change, actor: Actor) -> Schedule:
        owner = change.fields["owner"]
        for _ in range(ATTEMPTS):
            place = await self._free_place(owner)
            if place is None:
                found = await self._collection.find_one({"_id": schedule_id, "deleted": False})
                if found is not None:
                    return read_schedule(found)
                raise TooManySchedules(f"You have {MAX_PER_OWNER} schedules. Delete one first.")
            placed = replace(change, fields={**change.fields, "place": place})
            try:
                return await self._resources.insert(schedule_id, placed, actor)
            except DuplicateKeyError as error:
                if "place" not in (error.details or {}).get("keyPattern", {}):
                    raise _name_taken(change) from error
        raise WriteConflict(owner=owner)

    async def get(self, schedule_id: str) -> Schedule:
        return await self._resources.get(schedule_id)

    @guarded
    async def list(
        self, wanted: ScheduleFilter, *, after: str | None, limit: int, newest_first: bool = False
    ) -> Sequence[Schedule]:
        query: Document = {"deleted": False}
        if wanted.status is not None:
            query["status"] = wanted.status.value
        for name in ("owner", "name"):
            value = getattr(wanted, name)
            if value is not None:
                query[name] = {"$eq": value}
        hidden = {"event": False, "task.parameters": False}
        return await self._resources.page(
            query, after=after, limit=limit, newest_first=newest_first, projection=hidden
        )

    @guarded
    async def change(self, schedule_id: str, decide: DecideSchedule, actor: Actor) -> Schedule:
        return await self._resources.change_unique(schedule_id, decide, actor, taken=_name_taken)

    @guarded
    async def due(self, *, limit: int) -> DueSchedules:
        # The first one that is not due yet comes with the others: it says when to look again.
        cursor = await self._collection.aggregate(
            [
                {"$match": {"due_at": {"$exists": True}}},
                {"$sort": {"due_at": 1}},
                {"$limit": limit},
                {"$set": {"now": "$$NOW"}},
                {"$unset": "event"},
            ]
        )
        found = [row async for row in cursor]
        if not found:
            return DueSchedules(await self.now(), (), None)
        now: datetime = found[0]["now"]
        due = [read_schedule(row) for row in found if row["due_at"] <= now]
        following = found[len(due)]["due_at"] - now if len(due) < len(found) else None
        if following is not None:
            return DueSchedules(now, due, following.total_seconds())
        return DueSchedules(now, due, 0.0 if len(found) == limit else None)

    @guarded
    async def buffered(self, *, limit: int) -> Sequence[Schedule]:
        query = {"buffered_at": {"$exists": True}, "paused": False}
        cursor = self._collection.find(query, {"event": False}).sort("buffered_at", ASCENDING)
        return [read_schedule(document) async for document in cursor.limit(limit)]

    async def _free_place(self, owner: str) -> int | None:
        taken = self._collection.find(
            {"owner": {"$eq": owner}, "place": {"$exists": True}}, {"place": True, "_id": False}
        )
        places = {row["place"] async for row in taken}
        return next((place for place in range(1, MAX_PER_OWNER + 1) if place not in places), None)


def read_schedule(document: Mapping[str, Any]) -> Schedule:
    """The schedule that a document holds; `task.parameters` as far as the projection has it."""
    task = dict(document["task"])
    if "parameters" in task:
        task["parameters"] = RawJson(bytes(task["parameters"]))
    last_run = document.get("last_run")
    return Schedule(
        schedule_id=document["_id"],
        spec=ScheduleSpec(
            name=document["name"],
            task=task,
            trigger=Trigger(
                cron=document.get("cron"),
                time_zone=document.get("time_zone"),
                interval_seconds=document.get("interval_seconds"),
                anchor=document.get("anchor"),
                starts_at=document.get("starts_at"),
                ends_at=document.get("ends_at"),
            ),
            description=document.get("description"),
            overlap=Overlap(document["overlap"]),
            catch_up_seconds=document["catch_up_seconds"],
            jitter_seconds=document["jitter_seconds"],
        ),
        owner=document["owner"],
        paused=document["paused"],
        version=document["version"],
        created_at=document["created_at"],
        updated_at=document["updated_at"],
        origin=document["origin"],
        counts=Counts(**document["counts"]),
        last_run=None if last_run is None else LastRun(**last_run),
        next_run_at=document.get("next_run_at"),
        buffered_at=document.get("buffered_at"),
        decided_until=document.get("decided_until"),
        open_runs=tuple(document["open_runs"]),
    )


def _name_taken(change: Change) -> NameTaken:
    return NameTaken(f"You have another schedule named {change.fields.get('name')!r}.")
