"""`agentzero serve` with a clock that is wrong by AGENTZERO_TEST_SKEW_SECONDS.

Only the monotonic clock goes as it should. The first thing that is imported, so that nobody has
taken the right clock before.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from typing import Self

SKEW_SECONDS = float(os.environ.pop("AGENTZERO_TEST_SKEW_SECONDS"))
_true_time, _true_time_ns = time.time, time.time_ns


class Skewed(dt.datetime):
    """A datetime whose now is wrong."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Self:
        """The wrong now."""
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> Self:
        """The wrong now, without a zone."""
        return cls.fromtimestamp(time.time(), dt.UTC).replace(tzinfo=None)


def main() -> None:
    """Serve."""
    time.time = lambda: _true_time() + SKEW_SECONDS
    time.time_ns = lambda: _true_time_ns() + int(SKEW_SECONDS * 1e9)
    dt.datetime = Skewed  # type: ignore[misc]
    from server import cli  # noqa: PLC0415 - behind the clock

    cli.main()


if __name__ == "__main__":
    main()
