"""Ending background tasks for certain."""

from __future__ import annotations

import asyncio

import pytest

from server.cancelling import cancel_and_wait


async def test_lost_cancellation_is_repeated() -> None:
    """A task that swallows the first cancellation is ended by the next."""
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed > 1:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await cancel_and_wait(task, None)
    assert task.cancelled()
    assert swallowed == 2


async def test_waiting_that_is_cancelled_leaves_nothing_behind() -> None:
    """Whoever is cancelled while it waits still waits for the end, then is cancelled."""
    ended = asyncio.Event()

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            ended.set()

    task = asyncio.create_task(slow())
    await asyncio.sleep(0)
    waiting = asyncio.create_task(cancel_and_wait(task))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert task.done()


async def test_exception_of_an_ended_task_is_taken() -> None:
    """A task that had failed before is nobody's unretrieved exception."""

    async def fail() -> None:
        raise RuntimeError("on purpose")

    task = asyncio.create_task(fail())
    await asyncio.wait({task})
    await cancel_and_wait(task)
