"""The adaptive limit under a clock of the test."""

from __future__ import annotations

import asyncio

from server.saturation import (
    INTERVAL_SECONDS,
    LEAST,
    MIN_SAMPLES,
    MOST,
    PROBE_SECONDS,
    START,
    TARGET_SECONDS,
    USEFUL,
    AdaptiveLimit,
    LoopProbe,
)


class Measured:
    """A limit and the time."""

    def __init__(self, limit: AdaptiveLimit | None = None) -> None:
        self.limit = limit or AdaptiveLimit()
        self.now = 0.0
        self.limit.begin(self.now)

    def interval(self, *delays: float, running: int | None = None, peak: int = 0) -> int:
        """One interval with these delays, one after the other; the limit after it.

        The limit runs, or `running`; it begins with `peak`.
        """
        running = self.limit.value if running is None else running
        self.limit.observe(self.now, delays[0], max(peak, running))
        for n in range(11):
            self.now += INTERVAL_SECONDS / 10
            self.limit.observe(self.now, delays[n % len(delays)], running)
        return self.limit.value


def test_starts_with_room_for_a_burst() -> None:
    """Nothing is known yet, so nothing is refused for it."""
    assert AdaptiveLimit().value == START
    assert AdaptiveLimit(most=20).value == 20


def test_standing_delay_lowers_it_to_the_floor_within_a_second() -> None:
    """Each interval at most halves it; the floor stays."""
    measured = Measured()
    seen = [measured.interval(0.1) for _ in range(10)]
    assert seen[0] == START // 2
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == LEAST


def test_a_burst_is_no_standing_delay() -> None:
    """One short delay in the interval says that the queue was empty in between."""
    measured = Measured()
    assert measured.interval(0.1, 0.1, 0.1, 0.0001, 0.1) >= START


def test_one_long_callback_is_no_standing_delay() -> None:
    """A single late sample does not end an interval."""
    measured = Measured()
    measured.now += 1.0
    measured.limit.observe(measured.now, 1.0, START)
    assert measured.limit.value == START
    for _ in range(MIN_SAMPLES):
        measured.now += PROBE_SECONDS
        measured.limit.observe(measured.now, 0.0001, START)
    assert measured.limit.value >= START


def test_delay_that_few_requests_see_does_not_lower_it() -> None:
    """Something else keeps the loop busy; to refuse requests would help nobody."""
    measured = Measured()
    for _ in range(20):
        measured.interval(0.1, running=USEFUL)
    assert measured.limit.value == START


def test_rises_again_without_delay() -> None:
    """From the floor back to where it began within 5 s, whether it is used or not."""
    measured = Measured()
    for _ in range(20):
        measured.interval(0.1)
    assert measured.limit.value == LEAST
    began = measured.now
    while measured.limit.value < START:
        measured.interval(0.0001, running=1)
    assert measured.now - began < 5


def test_rises_beyond_the_start_only_while_it_is_used() -> None:
    """What nobody asked for has not been shown to work."""
    measured = Measured()
    measured.interval(0.0001, running=1)
    assert measured.limit.value == START
    for _ in range(100):
        measured.interval(0.0001, peak=measured.limit.value, running=USEFUL)
    assert measured.limit.value == MOST


def test_settles_where_the_delay_is_the_target() -> None:
    """With a delay in proportion to what runs it stays near the target, neither shut nor open."""
    measured = Measured()
    per_request = TARGET_SECONDS / 50
    seen = [measured.interval(measured.limit.value * per_request) for _ in range(100)][20:]
    assert min(seen) >= 40
    assert max(seen) <= 65


def test_crowd_that_stands_lowers_it_to_what_is_of_use() -> None:
    """The loop is free, but there is more under way than the stores have connections, for long."""
    measured = Measured()
    assert measured.interval(0.0001, running=200) >= START
    seen = [measured.interval(0.0001) for _ in range(10)]
    assert min(seen) == USEFUL
    assert max(seen[4:]) < 65


def test_crowd_that_shrinks_is_a_burst() -> None:
    """A burst that is worked off in the interval leaves the limit where it is."""
    measured = Measured()
    for _ in range(10):
        measured.interval(0.0001, running=USEFUL, peak=200)
    assert measured.limit.value >= START


def test_waves_are_no_crowd_that_stands() -> None:
    """Once in each interval the last wave was worked off; the next one is there already."""
    measured = Measured()
    for n in range(101):
        measured.now += INTERVAL_SECONDS / 10
        measured.limit.observe(measured.now, 0.0001, 10 if n % 10 == 5 else 200)
    assert measured.limit.value >= START


def test_begins_anew_after_a_pause() -> None:
    """What was known of an earlier load is forgotten."""
    measured = Measured()
    for _ in range(20):
        measured.interval(0.1)
    measured.limit.begin(measured.now)
    assert measured.limit.value == START


async def test_probe_sees_what_keeps_the_loop_from_turning() -> None:
    """Work of other callbacks is the delay that it tells, and it ends when it is told to."""
    seen: list[float] = []
    done = asyncio.Event()
    clock = iter(range(1_000))

    def observe(_now: float, delay: float) -> bool:
        seen.append(delay)
        if len(seen) < 3:
            return True
        done.set()
        return False

    # Each look at this clock takes a second, and nothing else does.
    probe = LoopProbe(observe, lambda: float(next(clock)))
    probe.start()
    probe.start()
    await asyncio.wait_for(done.wait(), 10)
    assert seen == [1.0, 1.0, 1.0]
    states = [probe.is_running]
    probe.start()
    states.append(probe.is_running)
    probe.stop()
    probe.stop()
    states.append(probe.is_running)
    assert states == [False, True, False]
