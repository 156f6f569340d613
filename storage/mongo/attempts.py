"""What attempts need of MongoDB: the budget of time for retries, and late results.

Time is the database's (`$$NOW`).
"""

from __future__ import annotations

from functools import partial
from typing import Final

from pymongo import ASCENDING, IndexModel

from hive.attempts import BUDGET, LateReport, LostLease
from hive.attempts import keep_late_result as decide
from hive.changes import Actor
from hive.leases import LeaseProof
from hive.tasks import Task, TaskStatus
from storage.mongo.client import Document, guarded
from storage.mongo.resources import Resources

BUDGET_INDEX: Final = IndexModel(
    [(BUDGET, ASCENDING)],
    name="retry_budget",
    partialFilterExpression={BUDGET: {"$exists": True}},
)
# The next attempt is the first one since the submission, or since a retry by hand.
_FIRST: Final[Document] = {"$lte": ["$attempt", {"$ifNull": ["$attempts_before", 0]}]}
BUDGET_OVER: Final[Document] = {
    BUDGET: {"$exists": True},
    "status": {"$in": [TaskStatus.QUEUED.value, TaskStatus.SCHEDULED.value]},
    "$expr": {"$and": [{"$lt": [f"${BUDGET}", "$$NOW"]}, {"$not": _FIRST}]},
}
"""Tasks that wait for another attempt when the time for that is over."""
WITHIN_BUDGET: Final[Document] = {
    "$expr": {
        "$or": [
            _FIRST,
            {"$lte": ["$$NOW", {"$ifNull": [f"${BUDGET}", "$$NOW"]}]},
        ]
    }
}
"""Tasks of which an attempt may begin now: the first one, or another one in time."""


@guarded
async def keep_late_result(
    resources: Resources[Task],
    proof: LeaseProof,
    report: LateReport,
    actor: Actor,
    *,
    agent_id: str | None,
) -> None:
    """As `hive.ports.Tasks` says."""
    lease: Document = {
        "lease_id": {"$eq": proof.lease_id},
        "fence": {"$eq": proof.fence},
        "taken_back": True,
    }
    if agent_id is not None:
        lease["agent_id"] = {"$eq": agent_id}
    query = {"spent_leases": {"$elemMatch": lease}}
    found = await resources.collection.find_one(query, {"spent_leases.$": True})
    if found is None:
        return
    (spent,) = found["spent_leases"]
    late = LostLease(spent["agent_id"], spent["fence"], spent["attempt"])
    await resources.change({"_id": found["_id"]}, partial(decide, lease=late, report=report), actor)
