"""Schedules on a store, and a scheduler that can be killed between its two writes.

    python -m tests.duties.scheduling URI DATABASE

carries one turn out, and dies as by a power cut when the first task is there and its schedule has
not moved on.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hive import schedules as machine
from hive.changes import Actor
from hive.fire_times import FireTimes, Trigger
from hive.schedule_ports import DecideSchedule
from hive.schedules import Overlap, Schedule, ScheduleSpec
from hive.tasks import Task
from server.cron import CronTimes
from server.scheduler import Scheduler
from server.submissions import NodeSubmissions
from storage.mongo.open_tasks import MongoOpenTasks
from storage.mongo.schedules import MongoSchedules
from tests.storage.store import ME, Store, open_store

TIMES = FireTimes(CronTimes())
MINUTE = timedelta(minutes=1)


@dataclass
class Scheduled:
    """A store with schedules."""

    store: Store
    schedules: MongoSchedules

    def scheduler(self) -> Scheduler:
        """A new one."""
        tasks = self.store.tasks
        submissions = NodeSubmissions(tasks, MongoOpenTasks(tasks.collection), most=1000)
        return Scheduler(self.schedules, tasks, submissions, TIMES)

    async def make(self, *, ago: timedelta = MINUTE, every: int = 60, **fields: Any) -> Schedule:
        """A schedule that was made so long ago, and was left alone since then."""
        spec_fields = {"overlap": Overlap.ALLOW, "catch_up_seconds": 86_400, **fields}
        schedule_id = self.store.new("sch")
        task = spec_fields.pop("task", {"name": "work"})
        trigger = Trigger(interval_seconds=every, ends_at=spec_fields.pop("ends_at", None))
        spec = ScheduleSpec(schedule_id, task, trigger, **spec_fields)
        now = await self.schedules.now()
        created = machine.create(schedule_id, spec, "usr_me", now - ago, TIMES)
        return await self.schedules.insert(schedule_id, created, ME)

    async def seen(self, schedule: Schedule) -> Schedule:
        """The schedule as it is now."""
        return await self.schedules.get(schedule.schedule_id)

    async def tasks(self, schedule: Schedule) -> list[Task]:
        """The tasks that it made, the oldest first."""
        label = {"labels.schedule_id": schedule.schedule_id}
        cursor = self.store.database["tasks"].find(label, {"_id": True}).sort("_id", 1)
        return [await self.store.tasks.get(row["_id"]) async for row in cursor]


class _Dying(MongoSchedules):
    async def change(self, schedule_id: str, decide: DecideSchedule, actor: Actor) -> Schedule:
        del schedule_id, decide, actor
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still alive")


async def _die(uri: str, name: str) -> None:
    async with open_store(uri, name) as store:
        await Scheduled(store, _Dying(store.database)).scheduler().turn()


def until(time: datetime | None) -> datetime:
    """The time, which is there."""
    assert time is not None
    return time


if __name__ == "__main__":
    asyncio.run(_die(*sys.argv[1:]))
