"""Takes batches of tasks on, and carries on what a crash or an outage interrupted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hive.batches import BatchLog, Planned
from hive.changes import Actor
from hive.ports import Tasks
from hive.tasks import TaskStatus
from server.releaser import Releaser


class NodeBatches:
    """The port `hive.batches.Batches` for the batches that come to this node."""

    def __init__(self, accepted: BatchLog, tasks: Tasks, releaser: Releaser) -> None:
        self._accepted = accepted
        self._tasks = tasks
        self._releaser = releaser

    async def submit(
        self, batch_id: str, tasks: Sequence[Planned], actor: Actor
    ) -> Mapping[str, TaskStatus]:
        """As the port says."""
        await self._accepted.accept(batch_id, tasks, actor)
        await self._carry_out(batch_id)
        return await self._tasks.statuses([one.task_id for one in tasks])

    async def carry_on(self, *, limit: int) -> None:
        """Finish batches of which nobody has been heard for a while. Idempotent."""
        for batch_id in await self._accepted.unfinished(limit=limit):
            await self._carry_out(batch_id)

    async def _carry_out(self, batch_id: str) -> None:
        meant = await self._accepted.carry_out(batch_id)
        if meant is not None:
            # Inserted first, looked at second, as with a single task.
            await self._releaser.settle_all(meant.task_ids, meant.waiting_on)
            await self._accepted.finish(batch_id)
