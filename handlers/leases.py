"""Leases: the data plane of agents.

Everything goes through the lease; a lost one changes nothing.
"""

from __future__ import annotations

import random
from typing import Any

from handlers.context import Context, Reply
from handlers.views import receipt_view
from hive import task_machine as machine
from hive.leases import LeaseProof
from hive.ports import DecideTask
from hive.tasks import Task, TaskError


async def renew_lease(context: Context, *, lease_id: str, body: dict[str, Any]) -> Reply:
    """Extend the lease and record progress."""
    proof = LeaseProof(lease_id, body["fence"])
    seconds = context.services.limits.lease_seconds
    progress = body.get("progress")
    if progress is None:
        task = await context.services.tasks.renew(proof, seconds, agent_id=_holder(context))
    else:
        task = await _change(
            context,
            proof,
            lambda task: machine.report_progress(task, proof, progress, seconds),
        )
    if task.lease is None:
        raise AssertionError("a renewed lease is gone")
    return Reply(
        {
            "lease_id": lease_id,
            "fence": task.lease.fence,
            "expires_at": task.lease.expires_at,
            "cancel_requested": task.cancel_requested,
        }
    )


async def append_lease_logs(context: Context, *, lease_id: str, body: dict[str, Any]) -> Reply:
    """Append log lines to the task."""
    lines = [
        {"level": line.get("level", "info"), "message": line["message"]} for line in body["lines"]
    ]
    task = await context.services.logs.append(
        LeaseProof(lease_id, body["fence"]), lines, context.actor, agent_id=_holder(context)
    )
    return Reply({"task_id": task.task_id, "log_count": task.log_count})


async def complete_lease(context: Context, *, lease_id: str, body: dict[str, Any]) -> Reply:
    """End the task with its result."""
    proof = LeaseProof(lease_id, body["fence"])
    result = body.get("result")
    task = await _change(context, proof, lambda task: machine.complete(task, proof, result))
    return Reply(receipt_view(task))


async def fail_lease(context: Context, *, lease_id: str, body: dict[str, Any]) -> Reply:
    """End the attempt with an error."""
    proof = LeaseProof(lease_id, body["fence"])
    reported = body["error"]
    error = TaskError(reported["code"], reported["message"], reported.get("retryable", True))
    chance = random.random()  # noqa: S311 - jitter of the backoff  # nosec B311
    task = await _change(context, proof, lambda task: machine.fail(task, proof, error, chance))
    return Reply(receipt_view(task))


async def release_lease(context: Context, *, lease_id: str, body: dict[str, Any]) -> Reply:
    """Give the task back unfinished."""
    proof = LeaseProof(lease_id, body["fence"])
    reason = body.get("reason")
    task = await _change(context, proof, lambda task: machine.release(task, proof, reason))
    return Reply(receipt_view(task))


async def _change(context: Context, proof: LeaseProof, decide: DecideTask) -> Task:
    return await context.services.tasks.change_leased(
        proof, decide, context.actor, agent_id=_holder(context)
    )


def _holder(context: Context) -> str | None:
    """The agent whose leases the caller may use; an admin may use all (None)."""
    caller = context.caller
    return None if caller.is_admin else caller.agent_id or caller.principal_id
