"""What schedules need of the world, as guarantees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from hive.changes import Actor, Change
from hive.fire_times import FireTimes
from hive.schedules import Schedule, ScheduleStatus

DecideSchedule = Callable[[Schedule], Change | None]


@dataclass(frozen=True, slots=True)
class ScheduleFilter:
    """Which schedules a list shows; None is any."""

    status: ScheduleStatus | None = None
    owner: str | None = None
    name: str | None = None


class Schedules(Protocol):
    """The schedules.

    Every change is one atomic update of one document with its event, majority-committed.
    """

    async def now(self) -> datetime:
        """The time of the database: the only one that decides what is due."""

    async def insert(self, schedule_id: str, change: Change, actor: Actor) -> Schedule:
        """Add a schedule under the identifier, or give the one that is there.

        Raises NameTaken when its owner has one of this name, TooManySchedules when its owner has
        `MAX_PER_OWNER`; exact, whoever else inserts at the same time.
        """

    async def get(self, schedule_id: str) -> Schedule:
        """Raise ScheduleNotFound when there is none (a tombstone is none)."""

    async def list(
        self, wanted: ScheduleFilter, *, after: str | None, limit: int, newest_first: bool = False
    ) -> Sequence[Schedule]:
        """By identifier; `after` is the last one of the page before."""

    async def change(self, schedule_id: str, decide: DecideSchedule, actor: Actor) -> Schedule:
        """Load, decide, save, as `Tasks.change`.

        Raises ScheduleNotFound, NameTaken, WriteConflict.
        """


@dataclass(frozen=True, slots=True)
class DueSchedules:
    """Schedules whose time has come at `now`, and in how many seconds the next one is due.

    None when none is.
    """

    now: datetime
    schedules: Sequence[Schedule]
    next_in_seconds: float | None


class ScheduleQueue(Schedules, Protocol):
    """The schedules as the scheduler sees them. Time is the database's."""

    async def due(self, *, limit: int) -> DueSchedules:
        """Those whose next time has come, longest ago first."""

    async def buffered(self, *, limit: int) -> Sequence[Schedule]:
        """Those that have a time waiting for the end of earlier tasks and are not paused."""


@dataclass(frozen=True, slots=True)
class Scheduling:
    """What handlers need of schedules: where they are kept, and when they fire."""

    store: Schedules
    times: FireTimes
