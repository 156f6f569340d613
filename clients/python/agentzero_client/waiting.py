"""Waiting for tasks to end: one watch of a client serves all its waiters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from agentzero_client.errors import AgentZeroError, ConnectionFailedError, ProblemError
from agentzero_client.events import Gap
from agentzero_client.models import Task
from agentzero_client.retrying import PASSING_STATUSES
from agentzero_client.watch import AsyncWatch

END_EVENTS = ("task.completed", "task.failed", "task.cancelled")
LOOK_SECONDS = 15.0
FIRST_POLL_SECONDS = 0.5
POLL_SECONDS = 5.0
LINGER_SECONDS = 30.0


class TaskEnds:
    """Tells waiters that their task has ended. The watch is closed 30 s after the last one left."""

    def __init__(self, watch: Callable[[tuple[str, ...]], AsyncWatch]) -> None:
        self._open = watch
        self._waiters: dict[str, set[asyncio.Event]] = {}
        self._live = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._linger: asyncio.TimerHandle | None = None

    async def wait(
        self,
        task_id: str,
        get: Callable[[str], Awaitable[Task]],
        timeout: float | None,  # noqa: ASYNC109  # Kept with asyncio.timeout below.
    ) -> Task:
        """Give the task once it has ended; raise TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            task = await _look(task_id, get)
            if task is not None and task.has_ended:
                return task
            told = asyncio.Event()
            self._enter(task_id, told)
            try:
                return await self._wait(task_id, get, told)
            finally:
                self._leave(task_id, told)

    async def close(self) -> None:
        """Close the watch. Waiters go on by asking."""
        if self._linger is not None:
            self._linger.cancel()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait({self._reader})

    async def _wait(
        self, task_id: str, get: Callable[[str], Awaitable[Task]], told: asyncio.Event
    ) -> Task:
        poll = FIRST_POLL_SECONDS
        while True:
            was_live = self._live.is_set()
            told.clear()
            task = await _look(task_id, get)
            if task is not None and task.has_ended:
                return task
            if was_live and task is not None:
                await _first(told.wait(), seconds=LOOK_SECONDS)
            else:
                # The subscription that comes now may have missed the end: look again then.
                await _first(told.wait(), self._live.wait(), seconds=poll)
                poll = min(poll * 2, POLL_SECONDS)

    def _enter(self, task_id: str, told: asyncio.Event) -> None:
        self._waiters.setdefault(task_id, set()).add(told)
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read(), name="agentzero task ends")

    def _leave(self, task_id: str, told: asyncio.Event) -> None:
        waiters = self._waiters[task_id]
        waiters.discard(told)
        if not waiters:
            del self._waiters[task_id]
        if not self._waiters and self._reader is not None:
            loop = asyncio.get_running_loop()
            self._linger = loop.call_later(LINGER_SECONDS, self._reader.cancel)

    async def _read(self) -> None:
        watch = self._open(END_EVENTS)
        try:
            # Refused: who waits asks instead.
            with suppress(AgentZeroError):
                await watch.started()
                self._live.set()
                async for event in watch:
                    missed = isinstance(event, Gap)
                    for task_id in list(self._waiters) if missed else [event.subject]:
                        for told in self._waiters.get(task_id, ()):
                            told.set()
        finally:
            self._live.clear()
            # Nobody will be told any more: look, and go on by asking.
            for told in set().union(*self._waiters.values()):
                told.set()
            await watch.close()


async def _look(task_id: str, get: Callable[[str], Awaitable[Task]]) -> Task | None:
    """Give the task, or None while the server is away."""
    try:
        return await get(task_id)
    except ConnectionFailedError:
        return None
    except ProblemError as error:
        if error.status not in PASSING_STATUSES:
            raise
        return None


async def _first(*conditions: Awaitable[object], seconds: float) -> None:
    tasks = [asyncio.ensure_future(condition) for condition in conditions]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
