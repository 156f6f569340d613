"""Batches that were accepted and are not finished: one document each, which is what was meant.

`tasks` holds, as BSON within one binary value, the identifier, the event and the assignments of
each task in the order in which they are made; a document may not have fields like theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import bson
from bson.codec_options import CodecOptions
from pymongo import ASCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from hive.batches import Meant, Planned
from hive.changes import Actor, Change
from storage.mongo.changes import Expression, expression
from storage.mongo.client import Database, Document, guarded, make_indexes
from storage.mongo.tasks import WITHOUT_FREE_FORM, MongoTasks

CHUNK: Final = 100
"""Tasks in one write: it has to end within the time of one operation."""

GIVEN_UP_MS: Final = 5_000
"""After so long, whoever accepted a batch is taken for gone."""

INDEXES = (IndexModel([("accepted_at", ASCENDING)], name="age"),)
_AWARE: Final[CodecOptions[Document]] = CodecOptions(tz_aware=True)


class MongoBatches:
    """The port `hive.batches.BatchLog`."""

    def __init__(self, database: Database, tasks: MongoTasks) -> None:
        self._batches = database["batches"]
        self._tasks = tasks.resources

    async def prepare(self) -> None:
        """Make the index. Idempotent."""
        await make_indexes(self._batches, INDEXES)

    @guarded
    async def accept(self, batch_id: str, tasks: Sequence[Planned], actor: Actor) -> None:
        meant = [_plain(one, await self._tasks.prepared(one.change)) for one in tasks]
        fields = {
            "actor_id": actor.actor_id,
            "request_id": actor.request_id,
            "call_id": actor.call_id,
            "waiting_on": sorted(
                {name for one in tasks for name in one.change.fields["waiting_on"]}
            ),
            "tasks": bson.encode({"tasks": meant}),
        }
        assigned: dict[str, Any] = {name: {"$literal": value} for name, value in fields.items()}
        try:
            await self._batches.update_one(
                {"_id": batch_id, "accepted_at": {"$exists": False}},
                [{"$set": {**assigned, "accepted_at": "$$NOW"}}],
                upsert=True,
            )
        except DuplicateKeyError:
            return

    async def carry_out(self, batch_id: str) -> Meant | None:
        """As the port says."""
        batch = await self._find(batch_id)
        if batch is None:
            return None
        tasks = bson.decode(batch["tasks"], _AWARE)["tasks"]
        actor = Actor(batch["actor_id"], batch["request_id"], batch["call_id"])
        for start in range(0, len(tasks), CHUNK):
            await self._make(tasks[start : start + CHUNK], actor)
        return Meant(tuple(one["task_id"] for one in tasks), frozenset(batch["waiting_on"]))

    @guarded
    async def finish(self, batch_id: str) -> None:
        await self._batches.delete_one({"_id": batch_id})

    @guarded
    async def unfinished(self, *, limit: int) -> Sequence[str]:
        old = {"$expr": {"$lt": ["$accepted_at", {"$subtract": ["$$NOW", GIVEN_UP_MS]}]}}
        found = self._batches.find(old, {"_id": True}).sort("accepted_at", ASCENDING)
        return [row["_id"] async for row in found.limit(limit)]

    @guarded
    async def _find(self, batch_id: str) -> Document | None:
        return await self._batches.find_one({"_id": batch_id})

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
