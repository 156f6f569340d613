"""How a submitter goes about it: one task at a time, or some at once."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from benchmarks.dispatch.figures import Plan
from benchmarks.dispatch.marks import Marks

TICK_SECONDS = 0.002
START_SECONDS = 30.0
STALL_SECONDS = 60.0
LOOK_SECONDS = 0.02

Work = Callable[[], Awaitable[None]]


async def until(
    condition: Callable[[], Awaitable[bool]],
    what: str,
    seconds: float,
    tick_seconds: float = TICK_SECONDS,
) -> None:
    """Return once it is so; stop after so many seconds."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(tick_seconds)


async def all_started(marks: Marks, count: int) -> None:
    """Return once so many tasks have started; stop when for a minute none did."""
    seen, since = marks.look(), time.monotonic()
    while seen < count:
        await asyncio.sleep(LOOK_SECONDS)
        if (now := marks.look()) > seen:
            seen, since = now, time.monotonic()
        assert time.monotonic() - since < STALL_SECONDS, f"{seen} of {count} tasks have started"


async def one_at_a_time(plan: Plan, marks: Marks, submit: Work) -> list[float]:
    """Milliseconds to the start of each task; the next one comes when all is idle again.

    The first ones, for which connections are made, don't count.
    """
    first = min(plan.warm_up, plan.latencies)
    for number in range(1, first + plan.latencies + 1):
        await submit()

        async def started(number: int = number) -> bool:
            return marks.look() >= number

        await until(started, "the task has started", START_SECONDS)
        # Not in step with anything that looks again and again.
        await asyncio.sleep(plan.pause_seconds * (0.5 + random.random()))  # noqa: S311  # No secret.
    return list(marks.take(first + plan.latencies))[first:]


async def at_once(plan: Plan, submit: Work) -> None:
    """All tasks, so many submissions at a time."""
    left = iter(range(plan.tasks))

    async def go_on() -> None:
        for _ in left:
            await submit()

    await asyncio.gather(*(go_on() for _ in range(plan.at_once)))
