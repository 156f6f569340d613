"""Schedules: what they are, and the decisions about them. Their times are in `hive/fire_times.py`.

A schedule makes a task at each of its times. Its document says which time comes next; a time is
decided once (made, skipped or missed), by one guarded change that moves the schedule on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from hive.changes import ABSENT, NOW, Change
from hive.errors import Invalid
from hive.fire_times import FireTimes, Trigger, due_at
from hive.task_bodies import read_task_body
from hive.task_machine import submit


class ScheduleStatus(StrEnum):
    """`ended`: no time is left to come."""

    ACTIVE = "active"
    PAUSED = "paused"
    ENDED = "ended"


class Overlap(StrEnum):
    """What becomes of a time whose task would run beside one that has not ended."""

    SKIP = "skip"
    BUFFER_ONE = "buffer-one"
    ALLOW = "allow"
    CANCEL_OTHER = "cancel-other"


OVERLAP_MEANINGS: Final[Mapping[Overlap, str]] = {
    Overlap.SKIP: "No task is made for it; it counts as skipped.",
    Overlap.BUFFER_ONE: "One of them waits until the others have ended; more are skipped.",
    Overlap.ALLOW: "Its task is made all the same.",
    Overlap.CANCEL_OTHER: "The others are cancelled, or asked to stop; its task is made at once.",
}
MAX_PER_OWNER: Final = 1000
OPEN_RUNS_KEPT: Final = 100
LABEL: Final = "schedule_id"
"""The label of the tasks that a schedule makes."""
SUMMARY_FIELDS: Final = (
    "name", "description", "owner", "status", "cron", "time_zone", "interval_seconds", "anchor",
    "overlap", "catch_up_seconds", "jitter_seconds", "starts_at", "ends_at", "paused", "counts",
    "last_run", "next_run_at", "buffered_at", "version", "created_at", "updated_at",
)  # fmt: skip
"""What lists and events tell of a schedule, besides `schedule_id`: all but the task."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the times so far; `made` includes the tasks that were made by hand."""

    made: int = 0
    skipped: int = 0
    missed: int = 0


@dataclass(frozen=True, slots=True)
class LastRun:
    """The newest task, and the time that it stands for."""

    task_id: str
    time: datetime


@dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """What somebody asks for. `task` is the body of the submission, `parameters` as RawJson."""

    name: str
    task: Mapping[str, Any]
    trigger: Trigger
    description: str | None = None
    overlap: Overlap = Overlap.SKIP
    catch_up_seconds: int = 60
    jitter_seconds: int = 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as it is stored.

    `origin` is when it was made: intervals without an anchor count from there. `decided_until` is
    the newest time that was decided by the clock. `open_runs` are its tasks that were not seen to
    have ended, the newest last.
    """

    schedule_id: str
    spec: ScheduleSpec
    owner: str
    paused: bool
    version: int
    created_at: datetime
    updated_at: datetime
    origin: datetime
    counts: Counts = field(default_factory=Counts)
    last_run: LastRun | None = None
    next_run_at: datetime | None = None
    buffered_at: datetime | None = None
    decided_until: datetime | None = None
    open_runs: tuple[str, ...] = ()

    @property
    def status(self) -> ScheduleStatus:
        """What others see."""
        return status_of(paused=self.paused, waits=bool(self.next_run_at or self.buffered_at))


def status_of(*, paused: bool, waits: bool) -> ScheduleStatus:
    """The status of a schedule that is paused or not, and has something to come or not."""
    if paused:
        return ScheduleStatus.PAUSED
    return ScheduleStatus.ACTIVE if waits else ScheduleStatus.ENDED


def create(
    schedule_id: str,
    spec: ScheduleSpec,
    owner: str,
    now: datetime,
    times: FireTimes,
    *,
    paused: bool = False,
) -> Change:
    """Make a schedule; its first time is the first one after `now`."""
    schedule = Schedule(schedule_id, spec, owner, paused, 0, now, now, origin=now)
    fields: dict[str, Any] = {
        **_configuration(spec),
        "owner": owner,
        "origin": now,
        "counts": Counts(),
        "open_runs": [],
        "created_at": NOW,
        "deleted": False,
    }
    return Change("schedule.created", fields | _waiting(schedule, _first(schedule, now, times)))


def update(
    schedule: Schedule, spec: ScheduleSpec, now: datetime, times: FireTimes
) -> Change | None:
    """Replace the configuration; the same one changes nothing. The next time is after `now`."""
    if spec == schedule.spec:
        return None
    replaced = replace(schedule, spec=spec)
    return Change(
        "schedule.updated",
        {**_configuration(spec), **_waiting(replaced, _first(replaced, now, times))},
    )


def delete(_schedule: Schedule) -> Change:
    """Leave a tombstone: the event needs a document. The name is free at once."""
    return Change(
        "schedule.deleted",
        {
            "deleted": True,
            "deleted_at": NOW,
            "place": ABSENT,
            "next_run_at": ABSENT,
            "due_at": ABSENT,
            "buffered_at": ABSENT,
        },
    )


def pause(schedule: Schedule) -> Change | None:
    """Make no more tasks by the clock. Times that pass meanwhile are not made up for."""
    if schedule.paused:
        return None
    return Change("schedule.paused", _waiting(replace(schedule, paused=True), None))


def resume(schedule: Schedule, now: datetime, times: FireTimes) -> Change | None:
    """Go on with the first time after `now`."""
    if not schedule.paused:
        return None
    resumed = replace(schedule, paused=False)
    return Change("schedule.resumed", _waiting(resumed, _first(resumed, now, times)))


def made(
    schedule: Schedule,
    time: datetime,
    task_id: str,
    times: FireTimes,
    *,
    ended: Collection[str] = (),
) -> Change | None:
    """Note the task of a time. None when it is noted already. `ended` are tasks to forget.

    A schedule that was changed meanwhile keeps the next time that it has now: the task is there
    all the same.
    """
    moved = schedule.next_run_at
    if schedule.buffered_at == time:
        schedule = replace(schedule, buffered_at=None)
    elif schedule.decided_until is not None and time <= schedule.decided_until:
        return None
    elif moved == time:
        moved = _following(schedule, time, times)
    open_runs = tuple(one for one in schedule.open_runs if one not in ended)
    schedule = replace(schedule, open_runs=open_runs)
    fields = _noted(schedule, task_id, time) | _passed(schedule, time, moved)
    return Change("schedule.fired", fields)


def is_due(schedule: Schedule, now: datetime) -> bool:
    """Tell whether the task of the next time is to be made, jitter included."""
    time = schedule.next_run_at
    if time is None:
        return False
    return due_at(schedule.schedule_id, time, schedule.spec.jitter_seconds) <= now


def made_by_hand(schedule: Schedule, now: datetime, task_id: str) -> Change | None:
    """Note a task that somebody asked for. None when it is noted already."""
    if task_id in schedule.open_runs:
        return None
    return Change("schedule.fired", _noted(schedule, task_id, now))


def skip(schedule: Schedule, time: datetime, times: FireTimes) -> Change | None:
    """Pass a time over: one that overlaps, or whose task was refused. None when it is decided."""
    moved = schedule.next_run_at
    if schedule.buffered_at == time:
        schedule = replace(schedule, buffered_at=None)
    elif moved == time:
        moved = _following(schedule, time, times)
    else:
        return None
    counts = replace(schedule.counts, skipped=schedule.counts.skipped + 1)
    return Change("schedule.skipped", {"counts": counts, **_passed(schedule, time, moved)})


def buffer(schedule: Schedule, time: datetime, times: FireTimes) -> Change | None:
    """Keep a time that overlaps for later; a second one is skipped. None when it is decided."""
    if schedule.next_run_at != time:
        return None
    if schedule.buffered_at is not None:
        return skip(schedule, time, times)
    moved = _following(schedule, time, times)
    buffered = replace(schedule, buffered_at=time)
    return Change("schedule.buffered", _passed(buffered, time, moved))


def miss(schedule: Schedule, now: datetime, times: FireTimes) -> Change | None:
    """Pass over the times that are too long ago to be made up for. None when there are none."""
    spec = schedule.spec
    if schedule.next_run_at is None:
        return None
    before = now - timedelta(seconds=spec.catch_up_seconds + spec.jitter_seconds)
    missed = times.missed(spec.trigger, schedule.origin, schedule.next_run_at, before)
    if missed is None:
        return None
    counts = replace(schedule.counts, missed=schedule.counts.missed + missed.count)
    passed = _passed(schedule, missed.last, missed.following)
    return Change("schedule.skipped", {"counts": counts, **passed})


def task_of(schedule: Schedule) -> Change:
    """The submission of the schedule's task: its owner's, with the schedule among its labels.

    Raises Invalid.
    """
    labels = {**schedule.spec.task.get("labels", {}), LABEL: schedule.schedule_id}
    spec = read_task_body({**schedule.spec.task, "labels": labels})
    return submit(spec, schedule.owner, ())


def check(spec: ScheduleSpec) -> None:
    """Raise Invalid for what the contract can't express."""
    trigger = spec.trigger
    if (trigger.cron is None) == (trigger.interval_seconds is None):
        raise Invalid("Give one of cron and interval_seconds.", pointer="/cron")
    if trigger.cron is None and trigger.time_zone is not None:
        raise Invalid("A time zone belongs to cron.", pointer="/time_zone")
    if trigger.interval_seconds is None and trigger.anchor is not None:
        raise Invalid("An anchor belongs to interval_seconds.", pointer="/anchor")
    starts_at, ends_at = trigger.starts_at, trigger.ends_at
    if starts_at is not None and ends_at is not None and ends_at < starts_at:
        raise Invalid("The end is before the start.", pointer="/ends_at")


def _first(schedule: Schedule, now: datetime, times: FireTimes) -> datetime | None:
    if schedule.paused:
        return None
    return times.first(schedule.spec.trigger, schedule.origin, now)


def _following(schedule: Schedule, time: datetime, times: FireTimes) -> datetime | None:
    return times.first(schedule.spec.trigger, schedule.origin, time)


def _waiting(schedule: Schedule, next_run_at: datetime | None) -> dict[str, Any]:
    """The fields that say what comes next, and the status that follows."""
    waits = next_run_at is not None or schedule.buffered_at is not None
    due = next_run_at and due_at(schedule.schedule_id, next_run_at, schedule.spec.jitter_seconds)
    fields = {
        "status": status_of(paused=schedule.paused, waits=waits),
        "paused": schedule.paused,
        "next_run_at": next_run_at,
        "due_at": due,
        "buffered_at": schedule.buffered_at,
    }
    return {name: ABSENT if value is None else value for name, value in fields.items()}


def _passed(schedule: Schedule, time: datetime, next_run_at: datetime | None) -> dict[str, Any]:
    """As `_waiting`, once a time is decided; a buffered one is decided later than newer ones."""
    until = max(time, schedule.decided_until or time)
    return {"decided_until": until, **_waiting(schedule, next_run_at)}


def _noted(schedule: Schedule, task_id: str, time: datetime) -> dict[str, Any]:
    return {
        "counts": replace(schedule.counts, made=schedule.counts.made + 1),
        "last_run": LastRun(task_id, time),
        "open_runs": [*schedule.open_runs, task_id][-OPEN_RUNS_KEPT:],
    }


def _configuration(spec: ScheduleSpec) -> dict[str, Any]:
    trigger = spec.trigger
    optional = {
        "description": spec.description,
        "cron": trigger.cron,
        "time_zone": trigger.time_zone,
        "interval_seconds": trigger.interval_seconds,
        "anchor": trigger.anchor,
        "starts_at": trigger.starts_at,
        "ends_at": trigger.ends_at,
    }
    return {
        "name": spec.name,
        "task": spec.task,
        "overlap": spec.overlap,
        "catch_up_seconds": spec.catch_up_seconds,
        "jitter_seconds": spec.jitter_seconds,
        **{name: ABSENT if value is None else value for name, value in optional.items()},
    }
