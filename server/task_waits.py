"""Lets callers wait for the end of a task, or for another version of it.

Nothing is polled: a commit on this node wakes who waits for that task, an event those who wait on
other nodes. However many wait for one task, it is read once. Who waits costs a future and a timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from hive.errors import HiveError
from hive.events import Event
from hive.ports import Tasks
from hive.submission import is_awaited
from hive.tasks import Task

log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class _Waiter:
    seen: frozenset[int] | None
    answered: asyncio.Future[Task | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def awaits(self, status: str, version: int) -> bool:
        return not self.answered.done() and is_awaited(status, version, self.seen)

    def answer(self, task: Task | None) -> None:
        if not self.answered.done():
            self.answered.set_result(task)


class NodeTaskWaits:
    """The port `hive.ports.TaskWaits` for those who ask this node."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._waiters: dict[str, set[_Waiter]] = {}
        self._readings: dict[str, asyncio.Task[None]] = {}
        self._stale: set[str] = set()
        self._newest: dict[str, int] = {}
        self._stopped = False

    def start(self) -> None:
        """Nothing runs before somebody waits."""

    async def stop(self) -> None:
        """Answer everybody with the task as it is; from now on nobody waits. Idempotent."""
        self._stopped = True
        for waiting in self._waiters.values():
            for waiter in waiting:
                waiter.answer(None)
        await asyncio.gather(*self._readings.values())

    async def wait(self, task_id: str, *, seconds: float, seen: frozenset[int] | None) -> Task:
        """As the port says."""
        waiter = _Waiter(seen)
        # First there, then looking: what happens in between wakes.
        waiting = self._waiters.setdefault(task_id, set())
        waiting.add(waiter)
        try:
            task = await self._tasks.get(task_id)
            if self._stopped or is_awaited(task.status, task.version, seen):
                return task
            await asyncio.wait({waiter.answered}, timeout=seconds)
            told = waiter.answered.result() if waiter.answered.done() else None
            return await self._tasks.get(task_id) if told is None else told
        finally:
            waiting.discard(waiter)
            if not waiting and self._waiters.get(task_id) is waiting:
                del self._waiters[task_id]

    def committed(self, task: Task, _event_type: str) -> None:
        """Called at each commit of a task on this node."""
        self._look(task.task_id, task.status, task.version)

    def heard(self, events: Sequence[Event]) -> None:
        """Take events of the hub: other nodes change tasks, too."""
        for event in events:
            if event.subject in self._waiters:
                data = event.data
                self._look(event.subject, data.get("status", ""), data.get("version", 0))

    def _look(self, task_id: str, status: str, version: int) -> None:
        waiting = self._waiters.get(task_id, ())
        if not any(waiter.awaits(status, version) for waiter in waiting):
            return
        newest = self._newest.get(task_id, 0)
        if 0 < version <= newest:
            # A commit and its event: what is read, or about to be, is as new as that.
            return
        self._newest[task_id] = max(newest, version)
        # What is being read now may be older than this.
        self._stale.add(task_id)
        if task_id not in self._readings:
            reading = asyncio.create_task(self._read(task_id), name="task-wait")
            self._readings[task_id] = reading

    async def _read(self, task_id: str) -> None:
        """Read the task once for all who wait for it. When that fails they look themselves."""
        try:
            while task_id in self._stale:
                self._stale.discard(task_id)
                task = await self._tasks.get(task_id)
                for waiter in self._waiters.get(task_id, ()):
                    if waiter.awaits(task.status, task.version):
                        waiter.answer(task)
        except HiveError as error:
            log.info("task_waits.not_read", task_id=task_id, cause=str(error))
            for waiter in self._waiters.get(task_id, ()):
                waiter.answer(None)
        finally:
            self._stale.discard(task_id)
            del self._readings[task_id], self._newest[task_id]
