"""The queue in MongoDB: which queued tasks there are, and how leases are put on them.

What spans documents is kept exact by unique partial indexes: a slot of an agent (`lease.agent_id`,
`lease.slot`) and a slot of a concurrency key (`lease.key`, `lease.key_slot`) belong to one lease
at most, and go with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from pymongo import ASCENDING, IndexModel
from pymongo.errors import DuplicateKeyError
from pymongo.read_concern import ReadConcern

from hive.changes import Actor, Change
from hive.errors import SlotTaken
from hive.leases import NewLease
from hive.tasks import Task, TaskStatus
from storage.mongo.attempts import WITHIN_BUDGET
from storage.mongo.client import Document, guarded
from storage.mongo.queue_places import open_to
from storage.mongo.resources import Resources

LANES, KEYED = "queue_lanes", "queue_keyed"
FIRST = [("queue_order", ASCENDING), ("_id", ASCENDING)]
RACES: Final = 8
"""How often in a row others may have been faster."""
INDEXES = (
    # A lane is a concurrency key, or "" for the tasks without one.
    IndexModel(
        [
            ("status", ASCENDING),
            ("capability_key", ASCENDING),
            ("lane", ASCENDING),
            ("queue_order", ASCENDING),
            ("_id", ASCENDING),
        ],
        name=LANES,
    ),
    # Keys whose slots are all in use are passed over in the index, without reading a task.
    IndexModel(
        [
            ("status", ASCENDING),
            ("capability_key", ASCENDING),
            ("queue_order", ASCENDING),
            ("_id", ASCENDING),
            ("concurrency.key", ASCENDING),
        ],
        name=KEYED,
        partialFilterExpression={"concurrency.key": {"$exists": True}},
    ),
    IndexModel(
        [("lease.agent_id", ASCENDING), ("lease.slot", ASCENDING)],
        name="slot_unique",
        unique=True,
        partialFilterExpression={"lease.agent_id": {"$exists": True}},
    ),
    IndexModel(
        [("lease.key", ASCENDING), ("lease.key_slot", ASCENDING)],
        name="key_slot_unique",
        unique=True,
        partialFilterExpression={"lease.key": {"$exists": True}},
    ),
)


class MongoQueue:
    """The port `hive.duty_ports.Queue`."""

    def __init__(self, resources: Resources[Task]) -> None:
        self._resources = resources
        self._tasks = resources.collection
        # A claim writes to what is there now; what it read first may not be older.
        self._now = self._tasks.with_options(read_concern=ReadConcern("local"))
        self._claiming: set[str] = set()
        # One look at a time: two at once would see the same heads.
        self._looking = asyncio.Lock()
        # Queued tasks with a concurrency key cost a claim one query more; most hives have none.
        self._has_keyed = True
        self._keyed_commits = 0
        resources.on_commit(self._note_key)

    @property
    def has_keyed(self) -> bool:
        """As the port says."""
        return self._has_keyed

    @guarded
    async def claim(
        self, lease: NewLease, capability_keys: Sequence[str], change: Change, actor: Actor
    ) -> Task | None:
        """As the port says."""
        # MongoDB merges the sorted ranges of the keys; the head of the queue costs one seek a key.
        query = in_queue(capability_keys, lease.agent_id, lease.labels)
        query["lane"] = {"$eq": lease.key or ""}
        try:
            return await self._resources.save(query, change, actor, sort=FIRST, hint=LANES)
        except DuplicateKeyError as error:
            raise _taken(lease) from error

    @guarded
    async def claim_many(
        self,
        leases: Sequence[NewLease],
        capability_keys: Sequence[str],
        start: Callable[[NewLease], Change],
        actor: Actor,
    ) -> Sequence[Task]:
        """As the port says."""
        claimed: list[Task] = []
        free, races = list(leases), 0
        while free and races < RACES:
            heads = await self._take_heads(capability_keys, free)
            if not heads:
                return claimed
            try:
                outcomes = await asyncio.gather(
                    *(
                        self._lease_head(head, lease, start(lease), actor)
                        for head, lease in zip(heads, free, strict=False)
                    ),
                    return_exceptions=True,
                )
            finally:
                self._claiming.difference_update(head["_id"] for head in heads)
            tasks = [one for one in outcomes if isinstance(one, Task)]
            claimed += tasks
            failed = [one for one in outcomes if isinstance(one, BaseException)]
            if failed and not claimed:
                raise failed[0]
            if failed:
                break
            if len(tasks) == len(heads) < len(free):
                # There were no more, and these need not wait for another look; what comes rings.
                break
            used = {task.lease.slot for task in tasks if task.lease}
            free = [lease for lease in free if lease.slot not in used]
            races = 0 if tasks else races + 1
        if not claimed:
            raise _taken(leases[0])
        return claimed

    @guarded
    async def queued_keys(self) -> Sequence[str]:
        """As the port says."""
        queued = {"status": TaskStatus.QUEUED.value}
        before = self._keyed_commits
        keyed = await self._tasks.find_one({**queued, "concurrency.key": {"$exists": True}}, {})
        # One that was queued while we asked may be too late for the answer.
        self._has_keyed = keyed is not None or self._keyed_commits != before
        keys: list[str] = await self._tasks.distinct("capability_key", queued)
        return keys

    @guarded
    async def keyed_head(
        self,
        capability_keys: Sequence[str],
        *,
        without: Sequence[str],
        agent_id: str = "",
        labels: Sequence[str] = (),
    ) -> tuple[str, int] | None:
        """As the port says."""
        if not self._has_keyed:
            return None
        query = in_queue(capability_keys, agent_id, labels)
        keyed = await self._tasks.find_one(
            # Only with `$exists` is the partial index one that may be used.
            {**query, "concurrency.key": {"$exists": True, "$nin": list(without)}},
            {"concurrency": True, "queue_order": True},
            sort=FIRST,
            hint=KEYED,
        )
        if keyed is None:
            return None
        plain = await self._tasks.find_one(
            {**query, "lane": ""}, {"queue_order": True}, sort=FIRST, hint=LANES
        )
        if plain is not None and _order(plain) < _order(keyed):
            return None
        return keyed["concurrency"]["key"], keyed["concurrency"]["limit"]

    @guarded
    async def slots_in_use(self, agent_id: str) -> set[int]:
        """As the port says."""
        held = self._tasks.find(
            {"lease.agent_id": agent_id}, {"_id": False, "lease.slot": True}, hint="slot_unique"
        )
        return {row["lease"]["slot"] async for row in held}

    @guarded
    async def key_slots(self, key: str) -> set[int]:
        """As the port says."""
        held = self._tasks.find({"lease.key": {"$eq": key}}, {"lease.key_slot": True})
        return {row["lease"]["key_slot"] async for row in held}

    async def _take_heads(
        self, capability_keys: Sequence[str], leases: Sequence[NewLease]
    ) -> list[Document]:
        """The first tasks of the queue, one a lease at most, that nobody here is about to lease."""
        query = in_queue(capability_keys, leases[0].agent_id, leases[0].labels)
        async with self._looking:
            most = len(leases) + len(self._claiming)
            found = self._now.find({**query, "lane": ""}, {"version": True}, hint=LANES)
            first = [row async for row in found.sort(FIRST).limit(most)]
            heads = [row for row in first if row["_id"] not in self._claiming][: len(leases)]
            self._claiming.update(head["_id"] for head in heads)
        return heads

    async def _lease_head(
        self, head: Document, lease: NewLease, change: Change, actor: Actor
    ) -> Task | None:
        # Time has gone on since the task was found; nothing else can have changed unseen.
        guard = {"_id": head["_id"], "version": head["version"], **WITHIN_BUDGET}
        try:
            task = await self._resources.save(guard, change, actor)
        except DuplicateKeyError as error:
            raise _taken(lease) from error
        # What is read back may be newer than what was written: another agent's lease is not ours.
        holds = task is not None and task.lease and task.lease.lease_id == lease.lease_id
        return task if holds else None

    def _note_key(self, task: Task, _event_type: str) -> None:
        if task.status is TaskStatus.QUEUED and task.spec.concurrency is not None:
            self._has_keyed = True
            self._keyed_commits += 1


def in_queue(capability_keys: Sequence[str], agent_id: str, labels: Sequence[str]) -> Document:
    """A query for the queued tasks that the agent may take now; `labels` are its words."""
    return {
        "status": TaskStatus.QUEUED.value,
        "capability_key": {"$in": list(capability_keys)},
        "$and": [WITHIN_BUDGET, {"$expr": open_to(agent_id, labels)}],
    }


def _taken(lease: NewLease) -> SlotTaken:
    return SlotTaken(agent_id=lease.agent_id, slot=lease.slot, key=lease.key)


def _order(document: Document) -> tuple[float, str]:
    return document["queue_order"], document["_id"]
