"""Tells tasks that wait on a task that it has ended, however deep the chain is.

Woken at each commit of an ended task on this node, at once; the reaper hands it what a crash left
behind (`release_pending`). Every step is idempotent, so two nodes may do the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence

import structlog

from hive import task_machine as machine
from hive.changes import Actor, Change
from hive.duty_ports import Sweeps
from hive.errors import Unavailable
from hive.ports import Tasks
from hive.task_spec import DependencyPolicy
from hive.tasks import ENDED, Task, TaskStatus
from server.cancelling import cancel_and_wait

ACTOR = Actor("system:releaser")
AT_ONCE = 16
"""Dependents that are ended at the same time: each costs a read and a write."""
DROPPED_AT_ONCE = 200
NAMED_AT_ONCE = 500
MOMENT_SECONDS = 0.005
"""Between two rounds: the first end of a quiet time is carried on at once."""
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
        await self._release_ended(task.waiting_on)
        settled = await self._sweeps.settled(task.task_id)
        if settled.status is TaskStatus.BLOCKED and not settled.waiting_on:
            # Another one took the last dependency off the list, and queues the task, too.
            return await self._tasks.change(task.task_id, machine.unblock, ACTOR)
        return settled

    async def settle_all(self, task_ids: Sequence[str], waiting_on: Collection[str]) -> None:
        """Settle many new tasks at once; `waiting_on` is what they all together wait for."""
        await self._release_ended(waiting_on)
        await self._sweeps.all_settled(task_ids)

    async def _release_ended(self, dependencies: Collection[str]) -> None:
        statuses = await self._tasks.statuses(list(dependencies))
        await self.release({one: status for one, status in statuses.items() if status in ENDED})

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._ended = self._ended, {}
            try:
                await self._sweeps.released(await self._release_each(batch))
            except Unavailable as error:
                # The marks are still there: the reaper brings them back.
                log.warning("releaser.store_unavailable", cause=str(error), tasks=len(batch))
            except Exception:
                log.exception("releaser.failed", tasks=list(batch)[:20])
            # What ends until then costs no more than one.
            await asyncio.sleep(MOMENT_SECONDS)

    async def _release_each(self, ended: Mapping[str, TaskStatus]) -> list[str]:
        """Release all; those of which the dependents were told."""
        try:
            await self.release(ended)
        except Unavailable:
            raise
        except Exception:
            log.exception("releaser.failed", tasks=list(ended)[:20])
            # One task that can't be told must not keep the others of its batch waiting.
            alone = [{one: status} for one, status in ended.items()] if len(ended) > 1 else []
            return [task_id for one in alone for task_id in await self._release_each(one)]
        return list(ended)

    async def release(self, ended: Mapping[str, TaskStatus]) -> None:
        """Tell all that waits on these tasks that they have ended, many at once."""
        well = [one for one, status in ended.items() if status is TaskStatus.COMPLETED]
        badly = [one for one, status in ended.items() if status is not TaskStatus.COMPLETED]
        for some in _in_parts(well):
            await self._drop(some, frozenset(DependencyPolicy))
        for some in _in_parts(badly):
            await self._drop(some, frozenset({DependencyPolicy.RUN}))
            await self._end(some, ended)

    async def _drop(self, ended: Sequence[str], policies: Collection[DependencyPolicy]) -> None:
        while task_ids := await self._sweeps.drop_ended(ended, policies, limit=DROPPED_AT_ONCE):
            # What another one changes meanwhile stays behind; the reaper unblocks it.
            await self._sweeps.change_all(task_ids, machine.unblock, ACTOR)

    async def _end(self, ended: Sequence[str], statuses: Mapping[str, TaskStatus]) -> None:
        ending = frozenset(DependencyPolicy) - {DependencyPolicy.RUN}
        while dependents := await self._sweeps.to_end(ended, ending, limit=AT_ONCE):
            told = await asyncio.gather(
                *(self._end_one(dependent, statuses) for dependent in dependents),
                return_exceptions=True,
            )
            for outcome in told:
                if outcome is not None:
                    raise outcome

    async def _end_one(self, dependent: Task, statuses: Mapping[str, TaskStatus]) -> None:
        first = next((one for one in dependent.waiting_on if one in statuses), None)
        if first is None:
            return
        await self._tasks.change(
            dependent.task_id, lambda task: _end_only(task, first, statuses[first]), ACTOR
        )


def _end_only(task: Task, dependency: str, status: TaskStatus) -> Change | None:
    verdict = machine.dependency_ended(task, dependency, status)
    return verdict if isinstance(verdict, Change) else None


def _in_parts(task_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """So many that one query can name them."""
    for start in range(0, len(task_ids), NAMED_AT_ONCE):
        yield task_ids[start : start + NAMED_AT_ONCE]
