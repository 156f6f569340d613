"""The hive as a whole in MongoDB: what is decided about it, and what there is of everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pymongo.errors import DuplicateKeyError

from hive.changes import Actor
from hive.coordination import HIVE, SUMMARY_FIELDS, HiveControl, HiveState
from hive.coordination_ports import CapabilityUse, DecideHive, Leader, QueueDepth
from hive.errors import NotFound, WriteConflict
from hive.tasks import TaskStatus
from storage.mongo.client import Database, Document, guarded
from storage.mongo.resources import ATTEMPTS, Committed, Resources

COLLECTION: Final = "hive"
_CAPABILITIES: Final = {"$arrayElemAt": [{"$split": ["$capability_key", "?"]}, 0]}
"""The key of a queue without the labels that its tasks require."""


class MongoHive:
    """The port `hive.coordination_ports.Hive`: one document, which the first decision makes."""

    def __init__(self, database: Database) -> None:
        self._resources: Resources[HiveControl] = Resources(
            database[COLLECTION],
            identifier="hive_id",
            summary=SUMMARY_FIELDS,
            read=read_hive,
            missing=NotFound,
            alive={},
        )

    def on_commit(self, callback: Committed) -> None:
        """Call back after each change made by this node."""
        self._resources.on_commit(callback)

    @guarded
    async def get(self) -> HiveControl:
        document = await self._resources.collection.find_one({"_id": HIVE}, {"event": False})
        return HiveControl() if document is None else read_hive(document)

    @guarded
    async def change(self, decide: DecideHive, actor: Actor) -> HiveControl:
        for _ in range(ATTEMPTS):
            hive = await self.get()
            change = decide(hive)
            if change is None:
                return hive
            at = {"_id": HIVE, "version": hive.version}
            try:
                saved = await self._resources.save(at, change, actor, upsert=hive.version == 0)
            except DuplicateKeyError:
                # Another one made it at the same time: no document has version 0.
                continue
            if saved is not None:
                return saved
        raise WriteConflict(hive=HIVE)


class MongoTopology:
    """The port `hive.coordination_ports.Topology`."""

    def __init__(self, database: Database) -> None:
        self._tasks = database["tasks"]
        self._agents = database["agents"]
        self._leaders = database["leaders"]

    @guarded
    async def capabilities(self, *, limit: int) -> Sequence[CapabilityUse]:
        counted = await self._agents.aggregate(
            [
                {"$match": {"deleted": False}},
                {"$unwind": "$capabilities"},
                {
                    "$group": {
                        "_id": {"capability": "$capabilities", "status": "$status"},
                        "n": {"$sum": 1},
                    }
                },
                {
                    "$group": {
                        "_id": "$_id.capability",
                        "agents": {"$push": {"k": "$_id.status", "v": "$n"}},
                    }
                },
                {"$sort": {"_id": 1}},
                {"$limit": limit},
            ]
        )
        return [
            CapabilityUse(row["_id"], {each["k"]: each["v"] for each in row["agents"]})
            async for row in counted
        ]

    @guarded
    async def queue_depths(self, *, limit: int) -> Sequence[QueueDepth]:
        counted = await self._tasks.aggregate(
            [
                {"$match": {"status": TaskStatus.QUEUED.value}},
                {
                    "$group": {
                        "_id": {"key": _CAPABILITIES, "priority": "$priority"},
                        "required": {"$first": "$required_capabilities"},
                        "tasks": {"$sum": 1},
                        "oldest": {"$min": "$queued_at"},
                    }
                },
                {"$sort": {"oldest": 1}},
                {"$limit": limit},
                {"$set": {"waited": {"$subtract": ["$$NOW", "$oldest"]}}},
            ]
        )
        return [_read_depth(row) async for row in counted]

    @guarded
    async def leaders(self) -> Sequence[Leader]:
        found = await self._leaders.aggregate(
            [
                {"$match": {"holder": {"$exists": True}}},
                {"$set": {"is_current": {"$gt": ["$expires_at", "$$NOW"]}}},
                {"$project": {"checkpoint": False}},
                {"$sort": {"_id": 1}},
            ]
        )
        return [
            Leader(
                row["_id"],
                row["holder"],
                row["term"],
                row["expires_at"],
                is_current=row["is_current"],
            )
            async for row in found
        ]


def read_hive(document: Mapping[str, Any]) -> HiveControl:
    """What the document says."""
    return HiveControl(
        hive_id=document["_id"],
        state=HiveState(document["state"]),
        reason=document.get("reason"),
        version=document["version"],
        updated_at=document["updated_at"],
    )


def _read_depth(row: Document) -> QueueDepth:
    return QueueDepth(
        required_capabilities=tuple(row["required"]),
        priority=row["_id"]["priority"],
        tasks=row["tasks"],
        # A moment between two clocks of a replica set is no time before the beginning.
        oldest_seconds=max(0.0, row["waited"] / 1000),
    )
