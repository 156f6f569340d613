"""Takes leases back from agents that should not hold them: offline ones, and drained ones.

The reaper does it for drains whose deadline is over; a request does it at once for both. Each lease
is one guarded change, so whoever comes second changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from hive import task_machine as machine
from hive.changes import Actor
from hive.coordination import TakeBack
from hive.coordination_ports import Holders, TakenBack
from hive.ports import DecideTask, Tasks
from server.moved_on import unless_moved_on

MOST: Final = 1_000
"""Leases that one request takes back."""
ACTOR: Final = Actor("system:reaper")


class Rebalancer:
    """The port `hive.coordination_ports.Rebalancing`; for the reaper, a part of its turn."""

    def __init__(self, tasks: Tasks, holders: Holders) -> None:
        self._tasks = tasks
        self._holders = holders

    async def rebalance(self, actor: Actor) -> Sequence[TakenBack]:
        """As the port says."""
        drained = await self._holders.drained(limit=MOST)
        named = {one.task_id for one in drained}
        offline = await self._holders.offline(limit=MOST)
        found = [*drained, *(one for one in offline if one.task_id not in named)]
        return await self._take(found[:MOST], actor)

    async def carry_on(self, *, limit: int) -> None:
        """Take back what agents hold whose drain is over; the reaper calls it."""
        await self._take(await self._holders.drained(limit=limit), ACTOR)

    async def _take(self, found: Sequence[TakenBack], actor: Actor) -> list[TakenBack]:
        taken = []
        for one in found:
            change = self._tasks.change(one.task_id, _decide(one), actor)
            task = await unless_moved_on("rebalancing", change)
            if task and (task.lease is None or task.lease.agent_id != one.agent_id):
                taken.append(one)
        return taken


def _decide(one: TakenBack) -> DecideTask:
    chance = random.random()  # noqa: S311 - jitter  # nosec B311
    return lambda task: machine.take_back(
        task, one.agent_id, is_drained=one.reason is TakeBack.DRAINED, chance=chance
    )
