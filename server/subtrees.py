"""Cancels a task with all that depends on it: a bounded part at once, the rest in the background.

An order is written down first. Leaves come first: when a task is cancelled, everything that waits
for it has ended already, and no policy has a say. Every step is idempotent.
"""

from __future__ import annotations

import asyncio
from typing import Final

from hive import task_machine as machine
from hive.changes import Actor
from hive.errors import TaskNotFound
from hive.graphs import (
    Direction,
    Graphs,
    Node,
    SubtreeOrder,
    SubtreeOrders,
    SubtreeOutcome,
    leaves_first,
)
from hive.ports import Tasks
from hive.tasks import TaskStatus
from server.moved_on import unless_moved_on

AT_ONCE: Final = 16
PER_REQUEST: Final = 200
PER_TURN: Final = 500
ORDERS_PER_TURN: Final = 10
MOST_EDGES: Final = 100_000
"""What is behind so many edges is left to the policies of its tasks."""

DEEP: Final = 1_000_000


class NodeSubtrees:
    """The port `hive.graphs.Subtrees` for the orders that come to this node."""

    def __init__(self, orders: SubtreeOrders, graphs: Graphs, tasks: Tasks) -> None:
        self._orders = orders
        self._graphs = graphs
        self._tasks = tasks

    async def cancel(self, order: SubtreeOrder, actor: Actor) -> SubtreeOutcome:
        """As the port says."""
        await self._orders.accept(order, actor)
        return await self._work(order, actor, PER_REQUEST)

    async def carry_on(self, *, limit: int) -> None:
        """Do a part of what remains of the oldest orders. Idempotent."""
        for order, actor in await self._orders.unfinished(limit=min(limit, ORDERS_PER_TURN)):
            try:
                await self._work(order, actor, PER_TURN)
            except TaskNotFound:
                # It has been deleted meanwhile, and so had all that depends on it.
                await self._orders.finish(order.order_id)

    async def _work(self, order: SubtreeOrder, actor: Actor, most: int) -> SubtreeOutcome:
        graph = await self._graphs.read(
            order.task_id, Direction.DOWN, depth=DEEP, most_edges=MOST_EDGES
        )
        cancelled = stopping = of_others = left = 0
        for layer in leaves_first(graph):
            wanted = [node for node in layer if node.can_be_cancelled]
            own = [node for node in wanted if order.principal_id in (None, node.owner)]
            of_others += len(wanted) - len(own)
            now = own[: max(0, most - cancelled - stopping)]
            left += len(own) - len(now)
            for start in range(0, len(now), AT_ONCE):
                told = await asyncio.gather(
                    *(self._cancel(node, actor) for node in now[start : start + AT_ONCE])
                )
                cancelled += told.count(TaskStatus.CANCELLED)
                stopping += told.count(TaskStatus.RUNNING)
        if not left:
            await self._orders.finish(order.order_id)
        return SubtreeOutcome(cancelled, stopping, of_others, left)

    async def _cancel(self, node: Node, actor: Actor) -> TaskStatus | None:
        change = self._tasks.change(node.task_id, machine.cancel, actor)
        # It may have ended by itself meanwhile.
        task = await unless_moved_on("subtrees", change)
        return task.status if task else None
