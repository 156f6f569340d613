"""Tasks in MongoDB: one document a task, its lease inside it. The queue is in `queue.py`."""

from __future__ import annotations

from collections.abc import Sequence

from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument
from pymongo.errors import DuplicateKeyError

from hive.attempts import HEARTBEAT, LateReport
from hive.changes import Actor, After, Change
from hive.errors import HiveError, LeaseLost, LeaseNotFound, TaskNotFound
from hive.leases import LeaseProof
from hive.ports import DecideTask, TaskFilter
from hive.queue_order import DEFAULT_AGE_SECONDS
from hive.tasks import LONG_LISTS, SHOWN_AT_MOST, SUMMARY_FIELDS, Task, TaskStatus
from storage.mongo.admission import INDEXES as ADMISSION_INDEXES
from storage.mongo.admission import Admission
from storage.mongo.attempts import BUDGET_INDEX, keep_late_result
from storage.mongo.changes import expression
from storage.mongo.client import Database, Document, guarded, make_indexes
from storage.mongo.fairness import FairTurns
from storage.mongo.known_leases import KnownLeases
from storage.mongo.open_tasks import OPEN_INDEXES, holding_key, why_not_open
from storage.mongo.queue import INDEXES as QUEUE_INDEXES
from storage.mongo.queue import MongoQueue
from storage.mongo.queue_places import QueuePlaces
from storage.mongo.resources import LABELS_INDEX, Committed, Resources, labelled
from storage.mongo.task_documents import read_task

INDEXES = (
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
    """The port `hive.ports.Tasks`; `queue` is the port `hive.duty_ports.Queue`."""

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
            group_commit=True,
        )
        self.admission = Admission(self.resources)
        self.collection = self.resources.collection
        self.queue = MongoQueue(self.resources)
        self._known = KnownLeases()
        self.resources.on_commit(self._known.committed)

    async def prepare(self) -> None:
        """Make the indexes. Idempotent."""
        await make_indexes(
            self.collection, (*INDEXES, *QUEUE_INDEXES, *OPEN_INDEXES, *ADMISSION_INDEXES)
        )
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
        if not task_ids:
            return {}
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
        return await self.resources.page(
            query, after=after, limit=limit, newest_first=newest_first, projection=AS_SHOWN
        )

    @guarded
    async def change(self, task_id: str, decide: DecideTask, actor: Actor) -> Task:
        try:
            return await self.resources.change({"_id": task_id}, decide, actor)
        except DuplicateKeyError as error:
            raise await why_not_open(self.collection, task_id) from error

    @guarded
    async def change_leased(
        self, proof: LeaseProof, decide: DecideTask, actor: Actor, *, agent_id: str | None
    ) -> Task:
        changed = await self._change_known(self._known.find(proof, agent_id), decide, actor)
        if changed is not None:
            return changed
        query = await self.find_leased(proof, agent_id)
        return await self.resources.change(query, decide, actor)

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
    async def held_by(self, agent_id: str) -> Sequence[Task]:
        held = self.collection.find({"lease.agent_id": agent_id}, AS_SHOWN)
        return [read_task(document) async for document in held.sort("lease.slot", ASCENDING)]

    @guarded
    async def count_by_status(self) -> dict[str, int]:
        counted = await self.resources.count_by("status")
        return {status.value: counted.get(status.value, 0) for status in TaskStatus}

    async def _change_known(
        self, task: Task | None, decide: DecideTask, actor: Actor
    ) -> Task | None:
        """Change the task if it still is as this node knows it; None when it has to be read."""
        if task is None:
            return None
        try:
            change = decide(task)
        except HiveError:
            # What is refused is refused for the task as it is.
            return None
        if change is None:
            return None
        guard = {"_id": task.task_id, "version": task.version}
        return await self.resources.save(guard, change, actor)

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


def current(proof: LeaseProof, agent_id: str | None) -> Document:
    """A query for the task while the lease is current, and held by the agent if one is given."""
    query: Document = {
        "lease.lease_id": {"$eq": proof.lease_id},
        "lease.fence": {"$eq": proof.fence},
    }
    return query if agent_id is None else {**query, "lease.agent_id": agent_id}
