"""`agentzero serve` with a clock that is wrong by AGENTZERO_TEST_SKEW_SECONDS.

Only the monotonic clock goes as it should. It is the first thing that is imported, so that nobody
has taken the right clock before.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from typing import Any

SKEW_SECONDS = float(os.environ.pop("AGENTZERO_TEST_SKEW_SECONDS"))
_True = dt.datetime
_true_time, _true_time_ns = time.time, time.time_ns


class _AnyDatetime(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, _True)


class Skewed(dt.datetime, metaclass=_AnyDatetime):
    """Makes plain datetimes, of which only now is wrong: subclasses are not JSON for orjson."""

    def __new__(cls, *args: Any, **named: Any) -> Any:  # noqa: D102 - a datetime's
        return _True(*args, **named)

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Any:
        """The wrong now."""
        return _True.fromtimestamp(time.time(), tz)

    fromtimestamp = _True.fromtimestamp  # type: ignore[assignment]
    fromisoformat = _True.fromisoformat  # type: ignore[assignment]
    combine = _True.combine  # type: ignore[assignment]


def main() -> None:
    """Serve."""
    time.time = lambda: _true_time() + SKEW_SECONDS
    time.time_ns = lambda: _true_time_ns() + int(SKEW_SECONDS * 1e9)
    dt.datetime = Skewed  # type: ignore[misc]
    from server import cli  # noqa: PLC0415 - behind the clock

    cli.main()


if __name__ == "__main__":
    main()
