"""Tells tasks that wait on a task that it has ended, however deep the chain is.

Woken at each commit of an ended task on this node, at once; the reaper hands it what a crash left
behind (`release_pending`). Every step is idempotent, so two nodes may do the same.
"""

from __future__ import annotations

import asyncio

import structlog

from hive import task_machine as machine
from hive.changes import Actor, Change, Without
from hive.duty_ports import Sweeps
from hive.errors import Unavailable
from hive.ports import Tasks
from hive.tasks import ENDED, Task, TaskStatus
from server.cancelling import cancel_and_wait

ACTOR = Actor("system:releaser")
AT_ONCE = 16
"""Dependents of a task that are told at the same time: each costs two or three writes."""
log = structlog.get_logger(__name__)


class Releaser:
    """Carries the end of tasks on to their dependents."""

    def __init__(self, tasks: Tasks, sweeps: Sweeps) -> None:
        self._tasks = tasks
        self._sweeps = sweeps
        self._ended: dict[str, TaskStatus] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to release."""
        self._task = asyncio.create_task(self._run(), name="releaser")

    async def stop(self) -> None:
        """End; what is left is found by the reaper of another node, or after the restart."""
        await cancel_and_wait(self._task)

    def committed(self, task: Task, event_type: str) -> None:
        """Called at each commit of a task on this node."""
        if task.status in ENDED and event_type != "task.log":
            self.add(task.task_id, task.status)

    def add(self, task_id: str, status: TaskStatus) -> None:
        """Release the dependents of an ended task soon."""
        self._ended[task_id] = status
        self._wake.set()

    async def settle(self, task: Task) -> Task:
        """As `hive.ports.Dependencies` says."""
        statuses = await self._tasks.statuses(task.waiting_on)
        for dependency, status in statuses.items():
            if status in ENDED:
                await self.tell(task, dependency, status)
        settled = await self._sweeps.settled(task.task_id)
        if settled.status is TaskStatus.BLOCKED and not settled.waiting_on:
            # Another one took the last dependency off the list, and queues the task, too.
            return await self._tasks.change(task.task_id, machine.unblock, ACTOR)
        return settled

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._ended = self._ended, {}
            try:
                released = [
                    task_id
                    for task_id, status in batch.items()
                    if await self._release_whole(task_id, status)
                ]
                await self._sweeps.released(released)
            except Unavailable as error:
                # The marks are still there: the reaper brings them back.
                log.warning("releaser.store_unavailable", cause=str(error), tasks=len(batch))
            except Exception:
                log.exception("releaser.failed", tasks=list(batch)[:20])

    async def _release_whole(self, task_id: str, status: TaskStatus) -> bool:
        try:
            await self._release(task_id, status)
        except Unavailable:
            raise
        except Exception:
            # One task that can't be told must not keep the others of its batch waiting.
            log.exception("releaser.failed", task_id=task_id)
            return False
        return True

    async def _release(self, task_id: str, status: TaskStatus) -> None:
        while dependents := await self._sweeps.dependents_of(task_id, limit=AT_ONCE):
            told = await asyncio.gather(
                *(self.tell(dependent, task_id, status) for dependent in dependents),
                return_exceptions=True,
            )
            for outcome in told:
                if outcome is not None:
                    raise outcome

    async def tell(self, dependent: Task, dependency: str, status: TaskStatus) -> None:
        """Let one task know that one of its dependencies has ended."""
        verdict = machine.dependency_ended(dependent, dependency, status)
        if isinstance(verdict, Change):
            await self._tasks.change(
                dependent.task_id, lambda task: _end_only(task, dependency, status), ACTOR
            )
        elif verdict is not None:
            left = await self._sweeps.drop_dependency(dependent.task_id, verdict)
            if left is not None:
                await self.unblock(left.task_id)
        else:
            # It has ended by itself meanwhile and waits on nothing.
            await self._sweeps.drop_dependency(dependent.task_id, Without("waiting_on", dependency))

    async def unblock(self, task_id: str) -> None:
        """Queue the task if it waits on nothing any more."""
        await self._tasks.change(task_id, machine.unblock, ACTOR)


def _end_only(task: Task, dependency: str, status: TaskStatus) -> Change | None:
    verdict = machine.dependency_ended(task, dependency, status)
    return verdict if isinstance(verdict, Change) else None
