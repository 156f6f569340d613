"""The scheduler: makes the tasks of schedules when their times have come.

One node at a time has the duty, under the lease `scheduler`. What is due is decided by the
database's clock. A time is carried out in two writes, the task and then the schedule:

    insert the task under the identifier of (schedule, time)  ->  move the schedule on, guarded

Whoever comes again after a kill between them, or beside another scheduler, finds the task under its
identifier, makes no other one, and moves the schedule on. It wakes at the next time, when a
schedule changes and when one of the tasks ends (at commit here, by the event from other nodes).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from hive import schedules as machine
from hive import task_machine
from hive.changes import Actor, Change
from hive.errors import HiveError, IllegalTransition, ScheduleNotFound, TaskNotFound, Unavailable
from hive.events import Event
from hive.fire_times import FireTimes
from hive.ports import Submissions, Tasks
from hive.schedule_ports import ScheduleQueue
from hive.schedules import LABEL, Overlap, Schedule
from hive.tasks import ENDED, Task
from server.identifiers import scheduled_task_id

DUTY: Final = "scheduler"
ACTOR: Final = Actor("system:scheduler")
BATCH: Final = 200
AT_ONCE: Final = 16
STEPS: Final = 20
"""Times of one schedule in one turn: others are due, too."""
LOOK_AGAIN_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 0.5
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Runs:
    """The earlier tasks of a schedule: those that have not ended, and those that have."""

    open: Sequence[str]
    ended: frozenset[str]


class Scheduler:
    """Fires in turns, for as long as this node holds the duty."""

    def __init__(
        self, schedules: ScheduleQueue, tasks: Tasks, submissions: Submissions, times: FireTimes
    ) -> None:
        self._schedules = schedules
        self._tasks = tasks
        self._submissions = submissions
        self._times = times
        self._wake = asyncio.Event()

    def schedule_committed(self, _schedule: Schedule, event_type: str) -> None:
        """Called at each commit of a schedule on this node."""
        if event_type not in ("schedule.fired", "schedule.skipped", "schedule.buffered"):
            self._wake.set()

    def task_committed(self, task: Task, _event_type: str) -> None:
        """Called at each commit of a task on this node."""
        if task.status in ENDED and LABEL in task.spec.labels:
            self._wake.set()

    def heard(self, events: Sequence[Event]) -> None:
        """Take events of the hub: schedules change and tasks end on other nodes, too."""
        for event in events:
            noun, _, _ = event.type.partition(".")
            # Its own events, too: a time that was decided has a next one behind it.
            if noun == "schedule" or (
                noun == "task"
                and event.data.get("status") in ENDED
                and LABEL in event.data.get("labels", {})
            ):
                self._wake.set()

    async def work(self, term: int) -> None:
        """Fire until cancelled."""
        while True:
            self._wake.clear()
            try:
                seconds = await self.turn()
            except Unavailable as error:
                log.warning("scheduler.store_unavailable", term=term, cause=str(error))
                seconds = PAUSE_SECONDS
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wake.wait()

    async def turn(self) -> float:
        """Decide the times that have come; after how many seconds to look again."""
        found = await self._schedules.due(limit=BATCH)
        buffered = await self._schedules.buffered(limit=BATCH)
        due = {one.schedule_id for one in found.schedules}
        # One that has both decides the waiting time first.
        waiting = [one for one in buffered if one.schedule_id not in due]
        left = False
        everything = [*found.schedules, *waiting]
        for start in range(0, len(everything), AT_ONCE):
            some = everything[start : start + AT_ONCE]
            outcomes = await asyncio.gather(
                *(self._advance(one, found.now) for one in some), return_exceptions=True
            )
            for schedule, outcome in zip(some, outcomes, strict=True):
                if isinstance(outcome, Unavailable | asyncio.CancelledError):
                    raise outcome
                if isinstance(outcome, BaseException):
                    # One that can't be carried out must not keep the others waiting.
                    log.error(
                        "scheduler.failed", schedule_id=schedule.schedule_id, exc_info=outcome
                    )
                    continue
                left = left or outcome
        if left:
            return 0.0
        seconds = found.next_in_seconds
        return LOOK_AGAIN_SECONDS if seconds is None else min(LOOK_AGAIN_SECONDS, seconds)

    async def _advance(self, schedule: Schedule, now: datetime) -> bool:
        """Decide what is due of one schedule; True when more of it is left."""
        try:
            for _ in range(STEPS):
                moved = await self._step(schedule, now)
                if moved is None:
                    return False
                schedule = moved
        except ScheduleNotFound:
            return False
        return True

    async def _step(self, schedule: Schedule, now: datetime) -> Schedule | None:
        """Decide one time; None when none is due."""
        if schedule.buffered_at is not None and not schedule.paused:
            runs = await self._runs(schedule)
            if not runs.open:
                return await self._make(schedule, schedule.buffered_at, runs)
        if schedule.next_run_at is None or not machine.is_due(schedule, now):
            return None
        if machine.miss(schedule, now, self._times) is not None:
            return await self._change(schedule, lambda one: machine.miss(one, now, self._times))
        return await self._decide(schedule, schedule.next_run_at)

    async def _decide(self, schedule: Schedule, time: datetime) -> Schedule:
        times = self._times
        runs = await self._runs(schedule)
        overlap = schedule.spec.overlap
        # A task that is there already was made by whoever was killed before the second write.
        if not runs.open or overlap is Overlap.ALLOW or await self._is_made(schedule, time):
            return await self._make(schedule, time, runs)
        if overlap is Overlap.CANCEL_OTHER:
            for task_id in runs.open:
                with suppress(IllegalTransition, TaskNotFound):
                    await self._tasks.change(
                        task_id, lambda task: task_machine.cancel(task, "replaced"), ACTOR
                    )
            return await self._make(schedule, time, runs)
        if overlap is Overlap.BUFFER_ONE:
            return await self._change(schedule, lambda one: machine.buffer(one, time, times))
        return await self._change(schedule, lambda one: machine.skip(one, time, times))

    async def _make(self, schedule: Schedule, time: datetime, runs: _Runs) -> Schedule:
        times = self._times
        wanted = scheduled_task_id(schedule.schedule_id, time)
        try:
            task = await self._submissions.submit(wanted, machine.task_of(schedule), ACTOR)
        except Unavailable:
            raise
        except HiveError as error:
            # As it would be refused to the owner. The next time is another chance.
            log.warning(
                "scheduler.refused", schedule_id=schedule.schedule_id, time=time, cause=str(error)
            )
            return await self._change(schedule, lambda one: machine.skip(one, time, times))
        task_id = task.task_id
        return await self._change(
            schedule, lambda one: machine.made(one, time, task_id, times, ended=runs.ended)
        )

    async def _is_made(self, schedule: Schedule, time: datetime) -> bool:
        task_id = scheduled_task_id(schedule.schedule_id, time)
        return task_id in await self._tasks.statuses([task_id])

    async def _runs(self, schedule: Schedule) -> _Runs:
        if not schedule.open_runs:
            return _Runs((), frozenset())
        statuses = await self._tasks.statuses(schedule.open_runs)
        open_runs = [one for one, status in statuses.items() if status not in ENDED]
        return _Runs(open_runs, frozenset(schedule.open_runs).difference(open_runs))

    async def _change(
        self, schedule: Schedule, decide: Callable[[Schedule], Change | None]
    ) -> Schedule:
        return await self._schedules.change(schedule.schedule_id, decide, ACTOR)
