"""How many requests a node can run at once, found out from how long its event loop lets work wait.

A node runs on one event loop, so its queue is the loop's: whatever becomes ready waits for
everything that was ready before. That wait is measured beside the requests. A delay that stands (it
never falls below the target during a whole interval, as in RFC 8289) lowers the limit in proportion
(a gradient, as in Netflix's concurrency-limits); without one the limit rises again. See
docs/adr/0015-load-shedding.md.
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

    @property
    def value(self) -> int:
        """How many may run."""
        return int(self._limit)

    def begin(self, now: float) -> None:
        """Begin to measure again: what was known of earlier load no longer counts."""
        self._limit = max(self._limit, float(self._start))
        self._open(now)

    def observe(self, now: float, delay_seconds: float, running: int) -> None:
        """Take one measurement of the loop's delay, and how many requests ran."""
        self._samples += 1
        self._delay = min(self._delay, delay_seconds)
        self._peak = max(self._peak, running)
        # One long callback is one late sample: it is not yet a queue.
        if now - self._began >= INTERVAL_SECONDS and self._samples >= MIN_SAMPLES:
            self._close()
            self._open(now)

    def _open(self, now: float) -> None:
        self._began, self._samples, self._delay, self._peak = now, 0, math.inf, 0

    def _close(self) -> None:
        is_used = self._peak >= self.value
        if self._delay <= self._target:
            if is_used or self._limit < self._start:
                self._limit = min(self._limit + math.sqrt(self._limit), float(self._most))
        elif 2 * self._peak >= self._limit:
            # With less running than that, something else makes the loop late: refusing won't help.
            gradient = max(STEEPEST, self._target / self._delay)
            self._limit = max(min(self._limit, self._peak) * gradient, float(self._least))


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
