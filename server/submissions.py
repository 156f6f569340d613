"""Takes new tasks in: within the bound of their owner, and once under a deduplication key."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from hive.changes import Actor, Change
from hive.errors import HiveError, Unavailable
from hive.open_tasks import OwnerRoom, TooManyTasks
from hive.ports import OpenTasks, Tasks
from hive.submission import DuplicateTask
from hive.task_spec import Deduplication, OnDuplicate
from hive.tasks import Task

OWNERS_KEPT: Final = 10_000


@dataclass(slots=True)
class _Owner:
    room: OwnerRoom
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class NodeSubmissions:
    """The port `hive.ports.Submissions` for the submissions that come to this node."""

    def __init__(
        self,
        tasks: Tasks,
        open_tasks: OpenTasks,
        *,
        most: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tasks = tasks
        self._open_tasks = open_tasks
        self._most = most
        self._clock = clock
        self._owners: OrderedDict[str, _Owner] = OrderedDict()

    async def submit(self, task_id: str, change: Change, actor: Actor) -> Task:
        """As the port says."""
        try:
            async with self.room(change.fields["owner"]):
                return await self._tasks.insert(task_id, change, actor)
        except TooManyTasks:
            standing = await self._find(task_id, change)
            if standing is None:
                raise
        except DuplicateTask as duplicate:
            if not _returns_existing(change):
                raise
            standing = duplicate.task_id
        return await self._tasks.get(standing)

    def room(self, owner: str, tasks: int = 1) -> AbstractAsyncContextManager[None]:
        """As the port says."""
        return self._room(owner, tasks)

    @asynccontextmanager
    async def _room(self, owner: str, tasks: int) -> AsyncIterator[None]:
        known = self._know(owner)
        async with known.lock:
            if known.room.needs_count(self._clock(), tasks):
                known.room.begin_count()
                counted = await self._open_tasks.count(owner, most=self._most)
                known.room.end_count(counted, self._clock())
            known.room.take(tasks)
        made = tasks
        try:
            yield
        except Unavailable:
            # They may be there.
            raise
        except HiveError:
            made = 0
            raise
        finally:
            known.room.settle(tasks, made)

    def _know(self, owner: str) -> _Owner:
        known = self._owners.get(owner)
        if known is None:
            known = self._owners[owner] = _Owner(OwnerRoom(self._most))
            self._forget()
        self._owners.move_to_end(owner)
        return known

    def _forget(self) -> None:
        """Those who have not submitted for the longest time are counted anew when they do."""
        for owner in list(self._owners)[: max(0, len(self._owners) - OWNERS_KEPT)]:
            if not self._owners[owner].room.in_flight and not self._owners[owner].lock.locked():
                del self._owners[owner]

    async def _find(self, task_id: str, change: Change) -> str | None:
        """What makes no new task needs no room: one that is there, or stands for this one."""
        if await self._tasks.statuses([task_id]):
            return task_id
        wanted: Deduplication | None = change.fields.get("deduplication")
        if wanted is None:
            return None
        standing = await self._open_tasks.find(change.fields["owner"], wanted.key)
        if standing is not None and wanted.on_duplicate is OnDuplicate.REJECT:
            raise DuplicateTask(standing)
        return standing


def _returns_existing(change: Change) -> bool:
    wanted: Deduplication | None = change.fields.get("deduplication")
    return wanted is not None and wanted.on_duplicate is OnDuplicate.RETURN_EXISTING
