"""Times of cron expressions in time zones, with cronsim: five fields, as Debian's cron has them.

Where clocks are set forward or back, an expression with a fixed minute and hour fires once: at the
first minute behind the gap, and at the first of two. One in which either is `*` or a step of it
follows the time that passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from hive.errors import Invalid

FIELDS: Final = 5
_OF_A_MACHINE: Final = frozenset({"localtime", "posixrules", "Factory"})
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class CronTimes:
    """The port `hive.fire_times.Cron`."""

    def check(self, expression: str, time_zone: str) -> None:
        """Raise Invalid for an expression or a zone that there is not, or that has no time."""
        if _find_zone(time_zone) is None:
            raise Invalid("There is no time zone of this name.", pointer="/time_zone")
        if len(expression.split()) != FIELDS:
            raise Invalid("Cron has five fields here.", pointer="/cron")
        try:
            found = next(CronSim(expression, _EPOCH), None)
        except CronSimError as error:
            raise Invalid(f"This is no cron expression: {error}.", pointer="/cron") from error
        if found is None:
            raise Invalid("This cron expression has no time.", pointer="/cron")

    def after(self, expression: str, time_zone: str, after: datetime) -> Iterator[datetime]:
        """The times behind `after`, strictly ascending, in UTC."""
        zone = _find_zone(time_zone)
        if zone is None:
            # It was there when the schedule was made: this machine knows fewer of them.
            return
        try:
            for local in CronSim(expression, after.astimezone(zone)):
                # Within an hour that comes twice, and behind a gap, it may give the past again.
                time = local.astimezone(UTC)
                if time > after:
                    after = time
                    yield time
        except (OverflowError, ValueError):
            # The calendar ends.
            return


def _find_zone(name: str) -> ZoneInfo | None:
    try:
        return None if name in _OF_A_MACHINE else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
