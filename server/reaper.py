"""The reaper: does what time demands and mends what a crash left behind.

One node at a time has the duty, under the lease `reaper`. Each sweep is a query by the database's
clock and, for each task found, one guarded change: a second reaper does no harm. A new reaper, and
one after an outage of the store or a stop of its own process, waits one lease period before it
takes leases back: agents could not renew while nobody was there to hear them.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from hive import task_machine as machine
from hive.changes import Actor, Change
from hive.duty_ports import Sweeps
from hive.errors import Unavailable
from hive.ports import Presence, Tasks
from hive.tasks import Task
from server.moved_on import unless_moved_on
from server.releaser import Releaser

DUTY = "reaper"
ACTOR = Actor("system:reaper")
BATCH = 200
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Periods:
    """Seconds. `turn` is how often the reaper looks; `lease` and `grace` what agents get."""

    lease: float
    grace: float
    agent_timeout: float
    turn: float = 0.5


class Interrupted(Protocol):
    """Work of several steps that somebody may have died in."""

    async def carry_on(self, *, limit: int) -> None:
        """Finish up to so many of them. Idempotent."""


class Reaper:
    """Sweeps in turns, for as long as this node holds the duty."""

    def __init__(
        self,
        tasks: Tasks,
        sweeps: Sweeps,
        presence: Presence,
        releaser: Releaser,
        periods: Periods,
        *,
        interrupted: Sequence[Interrupted] = (),
    ) -> None:
        self._tasks = tasks
        self._sweeps = sweeps
        self._presence = presence
        self._releaser = releaser
        self._periods = periods
        self._interrupted = interrupted
        self._patient_until = 0.0

    async def work(self, term: int) -> None:
        """Sweep until cancelled."""
        self._be_patient()
        while True:
            try:
                await self.turn()
            except Unavailable as error:
                log.warning("reaper.store_unavailable", term=term, cause=str(error))
                self._be_patient()
            slept_from = time.monotonic()
            await asyncio.sleep(self._periods.turn)
            if time.monotonic() - slept_from > self._periods.turn + self._periods.lease:
                # The whole process was stopped: it could not hear renewals meanwhile.
                self._be_patient()

    def _be_patient(self) -> None:
        self._patient_until = time.monotonic() + self._periods.lease

    async def turn(self) -> None:
        """One look at everything."""
        sweeps = self._sweeps
        await self._each(await sweeps.due(limit=BATCH), machine.promote)
        await self._each(await sweeps.unblocked(limit=BATCH), machine.unblock)
        await self._each(await sweeps.unobedient(self._periods.grace, limit=BATCH), machine.revoke)
        for task_id, version, what in await sweeps.timed_out(limit=BATCH):
            await self._each([task_id], _time_out(version, what))
        for task in await sweeps.settle_pending(limit=BATCH):
            await unless_moved_on(DUTY, self._releaser.settle(task))
        for work in self._interrupted:
            await work.carry_on(limit=BATCH)
        for task_id, status in await sweeps.release_pending(limit=BATCH):
            self._releaser.add(task_id, status)
        await sweeps.supersede(ACTOR, limit=BATCH)
        await sweeps.announce_logs(ACTOR, limit=BATCH)
        for agent_id in await sweeps.silent_agents(self._periods.agent_timeout, limit=BATCH):
            await unless_moved_on(DUTY, self._presence.refresh(agent_id, online=False))
        if time.monotonic() >= self._patient_until:
            for task_id in await sweeps.expired(limit=BATCH):
                await unless_moved_on(DUTY, sweeps.expire(task_id, self._expire, ACTOR))

    def _expire(self, task: Task) -> Change | None:
        if task.lease is None:
            return None
        chance = random.random()  # noqa: S311 - jitter  # nosec B311
        return machine.expire(task, chance, self._periods.lease)

    async def _each(self, task_ids: Sequence[str], decide: Callable[[Task], Change | None]) -> None:
        for task_id in task_ids:
            await unless_moved_on(DUTY, self._tasks.change(task_id, decide, ACTOR))


def _time_out(version: int, what: str) -> Callable[[Task], Change | None]:
    def decide(task: Task) -> Change | None:
        # One that moved on since the sweep is looked at again in the next turn.
        if task.version != version:
            return None
        return machine.time_out(task, what, random.random())  # noqa: S311 - jitter  # nosec B311

    return decide
