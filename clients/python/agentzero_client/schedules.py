"""What the contract's schemas of schedules look like in Python. Times are aware datetimes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

ScheduleStatus = Literal["active", "paused", "ended"]
Overlap = Literal["skip", "buffer-one", "allow", "cancel-other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleCounts:
    """Tasks that were made, times that were passed over, times that were too long ago."""

    made: int
    skipped: int
    missed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRun:
    """The newest task, and the time that it stands for."""

    task_id: str
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSummary:
    """A schedule without the task that it makes: what lists and events tell."""

    schedule_id: str
    name: str
    owner: str
    status: ScheduleStatus
    overlap: Overlap
    catch_up_seconds: int
    jitter_seconds: int
    paused: bool
    counts: ScheduleCounts
    version: int
    created_at: datetime
    updated_at: datetime
    description: str | None = None
    cron: str | None = None
    time_zone: str | None = None
    interval_seconds: int | None = None
    anchor: datetime | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    last_run: ScheduleRun | None = None
    next_run_at: datetime | None = None
    buffered_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule(ScheduleSummary):
    """One schedule; `task` is the body that it submits."""

    task: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleTimes:
    """The next times of a schedule."""

    schedule_id: str
    times: list[datetime]
