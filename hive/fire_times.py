"""The times of a schedule: cron or an interval, between a start and an end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import takewhile
from typing import Final, Protocol

UTC_ZONE: Final = "UTC"
MISSED_AT_ONCE: Final = 1000
"""Times of cron that are passed over by one change; it costs 20 us to find one."""
_INSTANT: Final = timedelta(milliseconds=1)
_FRACTIONS: Final = 2**32


@dataclass(frozen=True, slots=True)
class Trigger:
    """When a schedule fires: `cron` in a time zone (None: UTC), or every `interval_seconds`.

    Intervals are counted from `anchor`, else from `starts_at`, else from when the schedule was
    made. No time is before `starts_at` or after `ends_at`.
    """

    cron: str | None = None
    time_zone: str | None = None
    interval_seconds: int | None = None
    anchor: datetime | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Missed:
    """Times that nobody was there for, up to `last`, and the one that follows them."""

    count: int
    last: datetime
    following: datetime | None


class Cron(Protocol):
    """What knows calendars and time zones."""

    def check(self, expression: str, time_zone: str) -> None:
        """Raise Invalid for an expression or a zone that there is not, or that has no time."""

    def after(self, expression: str, time_zone: str, after: datetime) -> Iterator[datetime]:
        """The times behind `after`, strictly ascending, in UTC."""


class FireTimes:
    """The times of triggers."""

    def __init__(self, cron: Cron) -> None:
        self._cron = cron

    def check(self, trigger: Trigger) -> None:
        """Raise Invalid for a trigger that has no times."""
        if trigger.cron is not None:
            self._cron.check(trigger.cron, trigger.time_zone or UTC_ZONE)

    def after(self, trigger: Trigger, origin: datetime, after: datetime) -> Iterator[datetime]:
        """The times behind `after`, strictly ascending; none behind the end."""
        if trigger.starts_at is not None and trigger.starts_at > after:
            after = trigger.starts_at - _INSTANT
        times = self._endless(trigger, origin, after)
        ends_at = trigger.ends_at
        return times if ends_at is None else takewhile(lambda time: time <= ends_at, times)

    def first(self, trigger: Trigger, origin: datetime, after: datetime) -> datetime | None:
        """The first time behind `after`, if there is one."""
        return next(self.after(trigger, origin, after), None)

    def missed(
        self, trigger: Trigger, origin: datetime, first: datetime, before: datetime
    ) -> Missed | None:
        """The times from `first` on that are before `before`; None when there are none.

        Of cron at most `MISSED_AT_ONCE` of them: the others follow.
        """
        if first >= before:
            return None
        if trigger.interval_seconds is not None:
            return self._missed_intervals(trigger, origin, first, before)
        count, last, following = 1, first, None
        for time in self.after(trigger, origin, first):
            if time >= before or count == MISSED_AT_ONCE:
                following = time
                break
            count, last = count + 1, time
        return Missed(count, last, following)

    def _missed_intervals(
        self, trigger: Trigger, origin: datetime, first: datetime, before: datetime
    ) -> Missed:
        step = timedelta(seconds=trigger.interval_seconds or 0)
        more = (before - first - _INSTANT) // step
        if trigger.ends_at is not None:
            more = min(more, (trigger.ends_at - first) // step)
        last = first + more * step
        return Missed(more + 1, last, self.first(trigger, origin, last))

    def _endless(self, trigger: Trigger, origin: datetime, after: datetime) -> Iterator[datetime]:
        if trigger.cron is not None:
            return self._cron.after(trigger.cron, trigger.time_zone or UTC_ZONE, after)
        start = trigger.anchor or trigger.starts_at or origin
        return _every(timedelta(seconds=trigger.interval_seconds or 1), start, after)


def due_at(schedule_id: str, time: datetime, jitter_seconds: int) -> datetime:
    """When the task of a time is made: up to `jitter_seconds` later, always the same."""
    digest = sha256(f"{schedule_id}/{time.astimezone(UTC).isoformat()}".encode()).digest()
    share = int.from_bytes(digest[:4]) / _FRACTIONS
    with suppress(OverflowError):
        return time + timedelta(milliseconds=int(jitter_seconds * 1000 * share))
    return time


def _every(step: timedelta, start: datetime, after: datetime) -> Iterator[datetime]:
    number = (after - start) // step
    # The calendar ends.
    with suppress(OverflowError):
        while True:
            number += 1
            yield start + number * step
