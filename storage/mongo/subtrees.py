"""Orders to cancel a part of the graph: one document each, gone when nothing remains to be done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hive.changes import Actor
from hive.graphs import SubtreeOrder
from storage.mongo.client import Database
from storage.mongo.orders import Orders, actor_of

UNATTENDED_MS: Final = 1_000
"""After so long, the request that brought an order has done its part."""


class MongoSubtreeOrders:
    """The port `hive.graphs.SubtreeOrders`."""

    def __init__(self, database: Database) -> None:
        self._orders = Orders(database["subtree_orders"], unattended_ms=UNATTENDED_MS)

    async def prepare(self) -> None:
        """Make the index. Idempotent."""
        await self._orders.prepare()

    async def accept(self, order: SubtreeOrder, actor: Actor) -> None:
        """As the port says."""
        fields = {"task_id": order.task_id, "principal_id": order.principal_id}
        await self._orders.accept(order.order_id, fields, actor)

    async def finish(self, order_id: str) -> None:
        """As the port says."""
        await self._orders.finish(order_id)

    async def unfinished(self, *, limit: int) -> Sequence[tuple[SubtreeOrder, Actor]]:
        """As the port says."""
        return [
            (SubtreeOrder(row["_id"], row["task_id"], row["principal_id"]), actor_of(row))
            for row in await self._orders.unattended(limit=limit)
        ]
