"""Leases: the data plane of agents.

Everything goes through the lease; a lost one changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from handlers.context import Context, Reply
from handlers.views import artifact_view, lease_view, receipt_view
from hive import task_machine as machine
from hive.artifacts import OCTETS, Upload, check_name
from hive.attempts import LateReport
from hive.errors import HiveError, LeaseLost
from hive.leases import LeaseProof
from hive.ports import DecideTask
from hive.tasks import Task, TaskError, TaskStatus


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
    # What is read back after the write may be newer than it.
    if task.lease is None or task.lease.lease_id != lease_id:
        raise LeaseLost(lease_id=lease_id, fence=proof.fence)
    return Reply(
        {
            "lease_id": lease_id,
            "fence": task.lease.fence,
            "expires_at": task.lease.expires_at,
            "cancel_requested": task.cancel_requested,
        }
    )


async def append_lease_logs(context: Context, *, lease_id: str, body: dict[str, Any]) -> Reply:
    """Append log lines to the task; it renews the lease, too."""
    seconds = context.services.limits.lease_seconds
    lines = [
        {"level": line.get("level", "info"), "message": line["message"]} for line in body["lines"]
    ]
    task = await context.services.logs.append(
        LeaseProof(lease_id, body["fence"]),
        lines,
        context.actor,
        agent_id=_holder(context),
        seconds=seconds,
    )
    return Reply({"task_id": task.task_id, "log_count": task.log_count})


async def attach_artifact(
    context: Context,
    *,
    lease_id: str,
    artifact_name: str,
    fence: int,
    content_type: str | None,
    content: bytes,
) -> Reply:
    """Hand a file over with the task."""
    task_id, artifact = await context.services.artifacts.attach(
        LeaseProof(lease_id, fence),
        Upload(check_name(artifact_name), content, content_type or OCTETS),
        context.actor,
        agent_id=_holder(context),
    )
    return Reply(artifact_view(task_id, artifact))


async def complete_lease(context: Context, *, lease_id: str, body: dict[str, Any]) -> Reply:
    """End the task with its result, and lease the next one when asked to."""
    proof = LeaseProof(lease_id, body["fence"])
    result = body.get("result")
    report = LateReport(TaskStatus.COMPLETED, result=result)
    task = await _end(context, proof, lambda task: machine.complete(task, proof, result), report)
    answer = receipt_view(task)
    if body.get("claim_next") and (following := await _claim_next(context, task)):
        answer["next"] = lease_view(following[0])
    return Reply(answer)


async def fail_lease(context: Context, *, lease_id: str, body: dict[str, Any]) -> Reply:
    """End the attempt with an error."""
    proof = LeaseProof(lease_id, body["fence"])
    reported = body["error"]
    error = TaskError(reported["code"], reported["message"], reported.get("retryable", True))
    chance = random.random()  # noqa: S311 - jitter of the backoff  # nosec B311
    report = LateReport(TaskStatus.FAILED, error=error)
    task = await _end(context, proof, lambda task: machine.fail(task, proof, error, chance), report)
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


async def _end(context: Context, proof: LeaseProof, decide: DecideTask, report: LateReport) -> Task:
    """End the attempt; what comes after the lease was taken back is kept to be looked at."""
    try:
        return await _change(context, proof, decide)
    except LeaseLost:
        await context.services.tasks.keep_late_result(
            proof, report, context.actor, agent_id=_holder(context)
        )
        raise


async def _claim_next(context: Context, ended: Task) -> Sequence[Task]:
    """The task has ended, whatever becomes of this: a refusal is the same as an empty queue."""
    agent_id = _holder(context) or ended.agent_id
    if agent_id is None:
        return ()
    try:
        return await context.services.dispatcher.claim(agent_id, max_leases=1, wait_seconds=0)
    except HiveError:
        return ()


def _holder(context: Context) -> str | None:
    """The agent whose leases the caller may use; an admin may use all (None)."""
    caller = context.caller
    return None if caller.is_admin else caller.agent_id or caller.principal_id
