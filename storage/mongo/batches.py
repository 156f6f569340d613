"""Batches that were accepted and are not finished: one document each, which is what was meant.

`tasks` holds, as BSON within one binary value, the identifier, the event and the assignments of
each task in the order in which they are made; a document may not have fields like theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import bson
from bson.codec_options import CodecOptions

from hive.batches import Meant, Planned
from hive.changes import Actor, Change
from storage.mongo.changes import Expression, expression
from storage.mongo.client import Database, Document, guarded
from storage.mongo.orders import Orders, actor_of
from storage.mongo.tasks import WITHOUT_FREE_FORM, MongoTasks

CHUNK: Final = 100
"""Tasks in one write: it has to end within the time of one operation."""

GIVEN_UP_MS: Final = 5_000
"""After so long, whoever accepted a batch is taken for gone."""

_AWARE: Final[CodecOptions[Document]] = CodecOptions(tz_aware=True)


class MongoBatches:
    """The port `hive.batches.BatchLog`."""

    def __init__(self, database: Database, tasks: MongoTasks) -> None:
        self._orders = Orders(database["batches"], unattended_ms=GIVEN_UP_MS)
        self._tasks = tasks.resources

    async def prepare(self) -> None:
        """Make the index. Idempotent."""
        await self._orders.prepare()

    @guarded
    async def accept(self, batch_id: str, tasks: Sequence[Planned], actor: Actor) -> None:
        meant = [_plain(one, await self._tasks.prepared(one.change)) for one in tasks]
        waiting_on = {name for one in tasks for name in one.change.fields["waiting_on"]}
        fields = {"waiting_on": sorted(waiting_on), "tasks": bson.encode({"tasks": meant})}
        await self._orders.accept(batch_id, fields, actor)

    async def carry_out(self, batch_id: str) -> Meant | None:
        """As the port says."""
        batch = await self._orders.find(batch_id)
        if batch is None:
            return None
        tasks = bson.decode(batch["tasks"], _AWARE)["tasks"]
        actor = actor_of(batch)
        for start in range(0, len(tasks), CHUNK):
            await self._make(tasks[start : start + CHUNK], actor)
        return Meant(tuple(one["task_id"] for one in tasks), frozenset(batch["waiting_on"]))

    async def finish(self, batch_id: str) -> None:
        """As the port says."""
        await self._orders.finish(batch_id)

    async def unfinished(self, *, limit: int) -> Sequence[str]:
        """As the port says."""
        found = await self._orders.unattended(limit=limit, shown={"_id": True})
        return [row["_id"] for row in found]

    @guarded
    async def _make(self, tasks: Sequence[Document], actor: Actor) -> None:
        writes = [
            (
                {"_id": one["task_id"], "version": 0},
                Change(
                    one["event"],
                    {name: Expression(value) for name, value in one["assigned"].items()},
                ),
            )
            for one in tasks
        ]
        await self._tasks.save_all(writes, actor, upsert=True, without=WITHOUT_FREE_FORM)


def _plain(one: Planned, change: Change) -> Document:
    assigned = {name: expression(value) for name, value in change.fields.items()}
    return {"task_id": one.task_id, "event": change.event, "assigned": assigned}
