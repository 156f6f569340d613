"""Tasks in MongoDB: one document a task, its lease inside it.

What spans documents is kept exact by unique partial indexes: a slot of an agent (`lease.agent_id`,
`lease.slot`) and a slot of a concurrency key (`lease.key`, `lease.key_slot`) belong to one lease
at most, and go with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument
from pymongo.errors import DuplicateKeyError

from hive.attempts import HEARTBEAT, LateReport
from hive.changes import Actor, After, Change
from hive.errors import LeaseLost, LeaseNotFound, SlotTaken, TaskNotFound
from hive.leases import LeaseProof, NewLease
from hive.ports import DecideTask, TaskFilter
from hive.queue_order import DEFAULT_AGE_SECONDS
from hive.tasks import LONG_LISTS, SHOWN_AT_MOST, SUMMARY_FIELDS, Task, TaskStatus
from storage.mongo.admission import INDEXES as ADMISSION_INDEXES
from storage.mongo.admission import Admission
from storage.mongo.attempts import BUDGET_INDEX, WITHIN_BUDGET, keep_late_result
from storage.mongo.changes import expression
from storage.mongo.client import Database, Document, guarded, make_indexes
from storage.mongo.fairness import FairTurns
from storage.mongo.open_tasks import OPEN_INDEXES, holding_key, why_not_open
from storage.mongo.queue_places import QueuePlaces, open_to
from storage.mongo.resources import LABELS_INDEX, Committed, Resources, labelled
from storage.mongo.task_documents import read_task

LANES, KEYED = "queue_lanes", "queue_keyed"
FIRST = [("queue_order", ASCENDING), ("_id", ASCENDING)]
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
    IndexModel(
        [("lease.lease_id", ASCENDING)],
        name="lease_unique",
        unique=True,
        partialFilterExpression={"lease.lease_id": {"$exists": True}},
    ),
    IndexModel([("spent_leases.lease_id", ASCENDING)], name="spent_lease_ids", sparse=True),
    IndexModel([("waiting_on", ASCENDING), ("_id", ASCENDING)], name="dependents"),
    IndexModel(
        [("ended_at", ASCENDING)],
        name="unreleased",
        partialFilterExpression={"release_pending": True},
    ),
    IndexModel([("owner", ASCENDING), ("_id", DESCENDING)], name="owner"),
    IndexModel([("agent_id", ASCENDING), ("_id", DESCENDING)], name="agent"),
    IndexModel([("status", ASCENDING), ("_id", DESCENDING)], name="status"),
    IndexModel([("priority", ASCENDING), ("_id", DESCENDING)], name="priority"),
    IndexModel([("name", ASCENDING), ("_id", DESCENDING)], name="name"),
    LABELS_INDEX,
    IndexModel(
        [("status", ASCENDING), ("concurrency.key", ASCENDING)],
        name="keyed_queue",
        partialFilterExpression={"concurrency.key": {"$exists": True}},
    ),
    IndexModel(
        [("lease.expires_at", ASCENDING)],
        name="lease_expiry",
        partialFilterExpression={"lease.lease_id": {"$exists": True}},
    ),
    IndexModel(
        [("run_at", ASCENDING)],
        name="run_at",
        partialFilterExpression={"run_at": {"$exists": True}},
    ),
    IndexModel(
        [("waiting_on", ASCENDING)],
        name="unblocked",
        partialFilterExpression={"status": TaskStatus.BLOCKED.value},
    ),
    IndexModel(
        [("created_at", ASCENDING)],
        name="unsettled",
        partialFilterExpression={"settle_pending": True},
    ),
    IndexModel(
        [("queued_at", ASCENDING)],
        name="queue_timeout",
        partialFilterExpression={
            "queued_at": {"$exists": True},
            "timeouts.queue_seconds": {"$exists": True},
        },
    ),
    IndexModel(
        [("started_at", ASCENDING)],
        name="execution_timeout",
        partialFilterExpression={
            "lease.lease_id": {"$exists": True},
            "timeouts.execution_seconds": {"$exists": True},
        },
    ),
    IndexModel(
        [("total_deadline", ASCENDING)],
        name="total_timeout",
        partialFilterExpression={"total_deadline": {"$exists": True}},
    ),
    BUDGET_INDEX,
    IndexModel(
        [("logs_held", ASCENDING)],
        name="logs_held",
        partialFilterExpression={"logs_held": True},
    ),
)
WITHOUT_FREE_FORM = {"event": False, "parameters": False, "result": False, "late_result": False}
AS_SHOWN = {
    **WITHOUT_FREE_FORM,
    "artifacts": False,
    **{name: {"$slice": SHOWN_AT_MOST} for name in LONG_LISTS},
}


class MongoTasks:
    """The ports `hive.ports.Tasks` and `hive.duty_ports.Queue`."""

    def __init__(
        self, database: Database, *, priority_age_seconds: float = DEFAULT_AGE_SECONDS
    ) -> None:
        self._turns = FairTurns(database)
        places = QueuePlaces(
            database["tasks"], self._turns, priority_age_seconds=priority_age_seconds
        )
        self.resources: Resources[Task] = Resources(
            database["tasks"],
            identifier="task_id",
            summary=SUMMARY_FIELDS,
            read=read_task,
            missing=TaskNotFound,
            alive={},
            capped=dict.fromkeys(LONG_LISTS, SHOWN_AT_MOST),
            prepare=places.complete,
        )
        self.admission = Admission(self.resources)
        self.collection = self.resources.collection
        # Queued tasks with a concurrency key cost a claim one query more; most hives have none.
        self._keyed_queue = True
        self._keyed_commits = 0
        self.resources.on_commit(self._note_key)

    async def prepare(self) -> None:
        """Make the indexes. Idempotent."""
        await make_indexes(self.collection, (*INDEXES, *OPEN_INDEXES, *ADMISSION_INDEXES))
        await self._turns.prepare()

    def on_commit(self, callback: Committed) -> None:
        """Call back after each change made by this node."""
        self.resources.on_commit(callback)

    @guarded
    async def insert(self, task_id: str, change: Change, actor: Actor) -> Task:
        async def write() -> Task:
            return await self.admission.insert(
                change, lambda admitted: self.resources.insert(task_id, admitted, actor), actor
            )

        return await holding_key(self.collection, change.fields.get("open"), write)

    async def get(self, task_id: str) -> Task:
        return await self.resources.get(task_id)

    @guarded
    async def statuses(self, task_ids: Sequence[str]) -> dict[str, TaskStatus]:
        # A retired one is about to be deleted: nothing new may depend on it.
        named = {"_id": {"$in": list(task_ids)}, "retired_at": {"$exists": False}}
        found = self.collection.find(named, {"status": True})
        return {row["_id"]: TaskStatus(row["status"]) async for row in found}

    @guarded
    async def list(
        self, wanted: TaskFilter, *, after: str | None, limit: int, newest_first: bool = True
    ) -> Sequence[Task]:
        query: Document = {}
        if wanted.status is not None:
            query["status"] = wanted.status.value
        if wanted.priority is not None:
            query["priority"] = wanted.priority.value
        for name in ("owner", "agent_id", "name"):
            value = getattr(wanted, name)
            if value is not None:
                query[name] = {"$eq": value}
        query |= labelled(wanted.labels)
        if after is not None:
            query["_id"] = {"$lt" if newest_first else "$gt": after}
        way = DESCENDING if newest_first else ASCENDING
        cursor = self.collection.find(query, AS_SHOWN).sort("_id", way)
        return [read_task(document) async for document in cursor.limit(limit)]

    @guarded
    async def change(self, task_id: str, decide: DecideTask, actor: Actor) -> Task:
        try:
            return _made(await self.resources.change({"_id": task_id}, decide, actor))
        except DuplicateKeyError as error:
            raise await why_not_open(self.collection, task_id) from error

    @guarded
    async def change_leased(
        self, proof: LeaseProof, decide: DecideTask, actor: Actor, *, agent_id: str | None
    ) -> Task:
        query = await self.find_leased(proof, agent_id)
        return _made(await self.resources.change(query, decide, actor))

    @guarded
    async def claim(
        self, lease: NewLease, capability_keys: Sequence[str], change: Change, actor: Actor
    ) -> Task | None:
        # MongoDB merges the sorted ranges of the keys; the head of the queue costs one seek a key.
        query = in_queue(capability_keys, lease.agent_id, lease.labels)
        query["lane"] = {"$eq": lease.key or ""}
        try:
            return await self.resources.save(query, change, actor, sort=FIRST, hint=LANES)
        except DuplicateKeyError as error:
            raise SlotTaken(agent_id=lease.agent_id, slot=lease.slot, key=lease.key) from error

    async def keep_late_result(
        self, proof: LeaseProof, report: LateReport, actor: Actor, *, agent_id: str | None
    ) -> None:
        """As `hive.ports.Tasks` says."""
        await keep_late_result(self.resources, proof, report, actor, agent_id=agent_id)

    @guarded
    async def renew(self, proof: LeaseProof, seconds: float, *, agent_id: str | None) -> Task:
        # Not visible to anybody but the holder: no event, no new version.
        document = await self.collection.find_one_and_update(
            current(proof, agent_id),
            [{"$set": {"lease.expires_at": expression(After(seconds, at_most=HEARTBEAT))}}],
            projection=WITHOUT_FREE_FORM,
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            await self.find_leased(proof, agent_id)
            raise LeaseLost(lease_id=proof.lease_id, fence=proof.fence)
        return read_task(document)

    @guarded
    async def queued_keys(self) -> Sequence[str]:
        queued = {"status": TaskStatus.QUEUED.value}
        before = self._keyed_commits
        keyed = await self.collection.find_one({**queued, "concurrency.key": {"$exists": True}}, {})
        # One that was queued while we asked may be too late for the answer.
        self._keyed_queue = keyed is not None or self._keyed_commits != before
        keys: list[str] = await self.collection.distinct("capability_key", queued)
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
        """As `hive.duty_ports.Queue` says."""
        if not self._keyed_queue:
            return None
        query = in_queue(capability_keys, agent_id, labels)
        keyed = await self.collection.find_one(
            # Only with `$exists` is the partial index one that may be used.
            {**query, "concurrency.key": {"$exists": True, "$nin": list(without)}},
            {"concurrency": True, "queue_order": True},
            sort=FIRST,
            hint=KEYED,
        )
        if keyed is None:
            return None
        plain = await self.collection.find_one(
            {**query, "lane": ""}, {"queue_order": True}, sort=FIRST, hint=LANES
        )
        if plain is not None and _order(plain) < _order(keyed):
            return None
        return keyed["concurrency"]["key"], keyed["concurrency"]["limit"]

    @guarded
    async def slots_in_use(self, agent_id: str) -> set[int]:
        held = self.collection.find(
            {"lease.agent_id": agent_id}, {"_id": False, "lease.slot": True}, hint="slot_unique"
        )
        return {row["lease"]["slot"] async for row in held}

    @guarded
    async def key_slots(self, key: str) -> set[int]:
        """The slots of a concurrency key that are in use."""
        held = self.collection.find({"lease.key": {"$eq": key}}, {"lease.key_slot": True})
        return {row["lease"]["key_slot"] async for row in held}

    @guarded
    async def held_by(self, agent_id: str) -> Sequence[Task]:
        held = self.collection.find({"lease.agent_id": agent_id}, AS_SHOWN)
        return [read_task(document) async for document in held.sort("lease.slot", ASCENDING)]

    @guarded
    async def count_by_status(self) -> dict[str, int]:
        counted = await self.resources.count_by("status")
        return {status.value: counted.get(status.value, 0) for status in TaskStatus}

    def _note_key(self, task: Task, _event_type: str) -> None:
        if task.status is TaskStatus.QUEUED and task.spec.concurrency is not None:
            self._keyed_queue = True
            self._keyed_commits += 1

    async def find_leased(self, proof: LeaseProof, agent_id: str | None) -> Document:
        """A query for the task that the lease belongs to or belonged to. Raises LeaseNotFound."""
        lease_id = {"$eq": proof.lease_id}
        found = await self.collection.find_one(
            {"$or": [{"lease.lease_id": lease_id}, {"spent_leases.lease_id": lease_id}]},
            {
                "lease.lease_id": True,
                "lease.agent_id": True,
                "spent_leases": {"$elemMatch": {"lease_id": lease_id}},
            },
        )
        if found is None:
            raise LeaseNotFound
        leases = [*found.get("spent_leases", ()), found.get("lease", {})]
        holder = next(held["agent_id"] for held in leases if held["lease_id"] == proof.lease_id)
        if agent_id is not None and holder != agent_id:
            raise LeaseNotFound
        return {"_id": found["_id"]}


def in_queue(capability_keys: Sequence[str], agent_id: str, labels: Sequence[str]) -> Document:
    """A query for the queued tasks that the agent may take now; `labels` are its words."""
    return {
        "status": TaskStatus.QUEUED.value,
        "capability_key": {"$in": list(capability_keys)},
        "$and": [WITHIN_BUDGET, {"$expr": open_to(agent_id, labels)}],
    }


def _order(document: Document) -> tuple[float, str]:
    return document["queue_order"], document["_id"]


def current(proof: LeaseProof, agent_id: str | None) -> Document:
    """A query for the task while the lease is current, and held by the agent if one is given."""
    query: Document = {
        "lease.lease_id": {"$eq": proof.lease_id},
        "lease.fence": {"$eq": proof.fence},
    }
    return query if agent_id is None else {**query, "lease.agent_id": agent_id}


def _made(task: Task | None) -> Task:
    if task is None:
        raise AssertionError("an unconditional change gave nothing")
    return task
