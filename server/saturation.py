"""How many requests a node can run at once, found out from what waits in it.

Requests queue in two places. In the event loop: whatever becomes ready waits for everything that
was ready before; that delay is measured beside the requests. And in front of the stores: what is
more than their connections only waits there. A queue that stands (during a whole interval it is
never short, as in RFC 8289) lowers the limit in proportion (a gradient, as in Netflix's
concurrency-limits); without one the limit rises again. See docs/adr/0015-load-shedding.md.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

TARGET_SECONDS = 0.003
INTERVAL_SECONDS = 0.1
MIN_SAMPLES = 4
STEEPEST = 0.5
LEAST = 16
USEFUL = 48
"""About the connections to MongoDB: what runs beyond that waits for one of them."""
CROWDED_INTERVALS = 2
START = 256
MOST = 512
PROBE_SECONDS = 0.01
STALE_SECONDS = 1.0


class AdaptiveLimit:
    """The limit between `LEAST` and `most`; no clock of its own, no I/O."""

    def __init__(self, most: int = MOST, *, target_seconds: float = TARGET_SECONDS) -> None:
        self._most = most
        self._least = min(LEAST, most)
        self._start = min(START, most)
        self._target = target_seconds
        self._limit = float(self._start)
        self._began = float("-inf")
        self._samples = 0
        self._delay = math.inf
        self._peak = 0
        self._trough = most
        self._crowded = 0

    @property
    def value(self) -> int:
        """How many may run."""
        return int(self._limit)

    def begin(self, now: float) -> None:
        """Begin to measure again: what was known of earlier load no longer counts."""
        self._limit = max(self._limit, float(self._start))
        self._crowded = 0
        self._open(now)

    def observe(self, now: float, delay_seconds: float, running: int) -> None:
        """Take one measurement of the loop's delay, and how many requests ran."""
        self._samples += 1
        self._delay = min(self._delay, delay_seconds)
        self._peak = max(self._peak, running)
        self._trough = min(self._trough, running)
        # One long callback is one late sample: it is not yet a queue.
        if now - self._began >= INTERVAL_SECONDS and self._samples >= MIN_SAMPLES:
            self._close()
            self._open(now)

    def _open(self, now: float) -> None:
        self._began, self._samples, self._delay = now, 0, math.inf
        self._peak, self._trough = 0, self._most

    def _close(self) -> None:
        self._crowded = self._crowded + 1 if self._trough > USEFUL else 0
        # With less running than half, something else makes the loop late: refusing won't help.
        if self._delay > self._target and 2 * self._peak >= self._limit:
            self._lower(self._target / self._delay, self._least)
        elif self._crowded >= CROWDED_INTERVALS:
            self._lower(USEFUL / self._trough, min(USEFUL, self._most))
        elif (
            self._delay <= self._target
            and not self._crowded
            and (self._limit < self._start or self._peak >= self.value)
        ):
            self._limit = min(self._limit + math.sqrt(self._limit), float(self._most))

    def _lower(self, gradient: float, least: int) -> None:
        lower = min(self._limit, self._peak) * max(STEEPEST, gradient)
        self._limit = min(self._limit, max(lower, float(least)))


class LoopProbe:
    """Measures the delay of the running event loop while there is enough going on to matter."""

    def __init__(
        self, observe: Callable[[float, float], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._observe = observe
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_running(self) -> bool:
        """Whether it measures."""
        return self._timer is not None

    def start(self) -> None:
        """Measure until `observe(now, delay_seconds)` says that it has seen enough."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PROBE_SECONDS, self._tick)

    def stop(self) -> None:
        """Measure no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        # Twice around: the second callback runs in the turn of the loop after the next poll.
        loop, began = asyncio.get_running_loop(), self._clock()
        loop.call_soon(loop.call_soon, self._arrived, began)

    def _arrived(self, began: float) -> None:
        if self._timer is None:
            return
        now = self._clock()
        if self._observe(now, now - began):
            self._timer = asyncio.get_running_loop().call_later(PROBE_SECONDS, self._tick)
        else:
            self._timer = None


__all__ = ["AdaptiveLimit", "LoopProbe"]
