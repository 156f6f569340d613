"""What the contract shows of the hive's resources. Absent, never null."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hive.agents import Agent, ControlRequest
from hive.api_keys import KeyStatus, speaks_for
from hive.artifacts import Artifact
from hive.identity import ApiKey, Session
from hive.ports import LogLine
from hive.schedules import Schedule
from hive.signing import SigningKey
from hive.task_spec import (
    AgentLabels,
    Backoff,
    Concurrency,
    Deduplication,
    Fairness,
    Sticky,
    Timeouts,
)
from hive.tasks import SHOWN_AT_MOST, LateResult, Task, TaskError
from hive.users import UserDetail

View = dict[str, Any]
_Part = AgentLabels | Backoff | Concurrency | Deduplication | Fairness | Sticky | Timeouts


def agent_view(agent: Agent) -> View:
    """The schema `Agent`."""
    return _present(
        {
            "agent_id": agent.agent_id,
            "name": agent.spec.name,
            "agent_type": agent.spec.agent_type,
            "capabilities": agent.spec.capabilities,
            "slots": agent.spec.slots,
            "labels": agent.spec.labels,
            "status": agent.status,
            "desired_state": agent.desired_state,
            "version": agent.version,
            "agent_version": agent.agent_version,
            "last_heartbeat_at": agent.last_heartbeat_at,
            "drain_deadline": agent.drain_deadline,
            "created_at": agent.created_at,
            "updated_at": agent.updated_at,
        }
    )


def api_key_view(key: ApiKey, status: KeyStatus) -> View:
    """The schema `ApiKey`."""
    return _present(
        {
            "key_id": key.key_id,
            "name": key.name,
            "prefix": key.prefix,
            "owner": speaks_for(key),
            "role": key.role,
            "scopes": sorted(key.scopes),
            "allowed_addresses": key.allowed_addresses,
            "status": status,
            "created_at": key.created_at,
            "expires_at": key.expires_at,
            "revoked_at": key.revoked_at,
            "last_used_at": key.last_used_at,
            "successor_id": key.successor_id,
        }
    )


def control_view(control: ControlRequest) -> View:
    """The schema `ControlRequest`."""
    return _present(
        {
            "control_id": control.control_id,
            "action": control.action,
            "reason": control.reason,
            "requested_at": control.requested_at,
        }
    )


def held_lease_view(task: Task, *, is_holder: bool) -> View:
    """The schema `HeldLease`, of a task that is leased; its holder sees the identifier, too."""
    lease = task.lease
    if lease is None:
        raise AssertionError("the task is not leased")
    held = {"task_id": task.task_id, "fence": lease.fence, "expires_at": lease.expires_at}
    return {"lease_id": lease.lease_id, **held} if is_holder else held


def lease_view(task: Task) -> View:
    """The schema `Lease`: the lease with what its holder needs of the task."""
    held = held_lease_view(task, is_holder=True)
    del held["task_id"]
    leased = {
        "task_id": task.task_id,
        "name": task.spec.name,
        "description": task.spec.description,
        "priority": task.spec.priority,
        "parameters": task.spec.parameters,
        "dependencies": task.spec.dependencies[:SHOWN_AT_MOST],
        "dependency_count": _dependency_count(task),
        "required_capabilities": task.spec.required_capabilities,
        "attempt": task.attempt,
        "max_attempts": task.spec.max_attempts,
        "labels": task.spec.labels,
        "heartbeat_seconds": task.spec.timeouts and task.spec.timeouts.heartbeat_seconds,
    }
    return {**held, "task": _present(leased)}


def log_line_view(line: LogLine) -> View:
    """The schema `LogLine`."""
    return asdict(line)


def receipt_view(task: Task) -> View:
    """The schema `TaskReceipt`."""
    receipt: View = {"task_id": task.task_id, "status": task.status}
    if task.cancel_requested and not task.has_ended:
        receipt["cancel_requested"] = True
    return receipt


def schedule_summary_view(schedule: Schedule) -> View:
    """The schema `ScheduleSummary`."""
    spec, trigger = schedule.spec, schedule.spec.trigger
    return _present(
        {
            "schedule_id": schedule.schedule_id,
            "name": spec.name,
            "description": spec.description,
            "owner": schedule.owner,
            "status": schedule.status,
            "cron": trigger.cron,
            "time_zone": trigger.time_zone,
            "interval_seconds": trigger.interval_seconds,
            "anchor": trigger.anchor,
            "overlap": spec.overlap,
            "catch_up_seconds": spec.catch_up_seconds,
            "jitter_seconds": spec.jitter_seconds,
            "starts_at": trigger.starts_at,
            "ends_at": trigger.ends_at,
            "paused": schedule.paused,
            "counts": asdict(schedule.counts),
            "last_run": schedule.last_run and asdict(schedule.last_run),
            "next_run_at": schedule.next_run_at,
            "buffered_at": schedule.buffered_at,
            "version": schedule.version,
            "created_at": schedule.created_at,
            "updated_at": schedule.updated_at,
        }
    )


def schedule_view(schedule: Schedule) -> View:
    """The schema `Schedule`."""
    return {**schedule_summary_view(schedule), "task": schedule.spec.task}


def signing_key_view(key: SigningKey) -> View:
    """The schema `SigningKey`; never the secret of an HMAC key."""
    return _present(
        {
            "signing_key_id": key.signing_key_id,
            "name": key.name,
            "owner": key.owner_id,
            "key_id": key.key_id,
            "algorithm": key.algorithm,
            "public_key": key.public_key and b64encode(key.public_key).decode(),
            "created_at": key.created_at,
            "revoked_at": key.revoked_at,
            "last_used_at": key.last_used_at,
        }
    )


def task_summary_view(task: Task) -> View:
    """The schema `TaskSummary`."""
    spec = task.spec
    return _present(
        {
            "task_id": task.task_id,
            "name": spec.name,
            "description": spec.description,
            "priority": spec.priority,
            "status": task.status,
            "owner": task.owner,
            "agent_id": task.agent_id,
            "attempt": task.attempt,
            "max_attempts": spec.max_attempts,
            "dependencies": spec.dependencies[:SHOWN_AT_MOST],
            "dependency_count": _dependency_count(task),
            "waiting_on": task.waiting_on[:SHOWN_AT_MOST],
            "required_capabilities": spec.required_capabilities,
            "agent_labels": _fields(spec.agent_labels),
            "sticky": _fields(spec.sticky),
            "on_dependency_failure": spec.on_dependency_failure,
            "labels": spec.labels,
            "progress": task.progress,
            "error": _error(task.error),
            "retries_ended": task.retries_ended,
            "reason": task.reason,
            "cancel_requested": task.cancel_requested or None,
            "log_count": task.log_count,
            "artifact_count": task.artifact_count,
            "run_at": task.run_at,
            "started_at": task.started_at,
            "ended_at": task.ended_at,
            "version": task.version,
            "created_at": task.created_at,
            "updated_at": task.updated_at,
        }
    )


def task_view(task: Task) -> View:
    """The schema `Task`."""
    spec = task.spec
    lease = task.lease
    return task_summary_view(task) | _present(
        {
            "dependencies": spec.dependencies,
            "waiting_on": task.waiting_on,
            "parameters": spec.parameters,
            "result": task.result,
            "late_result": _late_result(task.late_result),
            "backoff": _fields(spec.backoff),
            "retry_seconds": spec.retry_seconds,
            "non_retryable": spec.non_retryable,
            "timeouts": _fields(spec.timeouts),
            "concurrency": _fields(spec.concurrency),
            "fairness": _fields(spec.fairness),
            "deduplication": _fields(spec.deduplication),
            "artifacts": [artifact_view(task.task_id, one) for one in task.artifacts] or None,
            "lease": lease
            and {"agent_id": lease.agent_id, "fence": lease.fence, "expires_at": lease.expires_at},
        }
    )


def artifact_view(task_id: str, artifact: Artifact) -> View:
    """The schema `Artifact`."""
    return {
        "name": artifact.name,
        "size": artifact.size,
        "content_type": artifact.content_type,
        "sha256": artifact.sha256,
        "attempt": artifact.attempt,
        "created_at": artifact.created_at,
        "url": f"/api/v1/tasks/{task_id}/artifacts/{artifact.name}",
    }


def user_view(detail: UserDetail) -> View:
    """The schema `User`."""
    user = detail.user
    return {
        "user_id": user.user_id,
        "username": user.username,
        "role": user.role,
        "disabled": user.disabled,
        "signing": detail.signing,
        "version": user.version,
        "created_at": user.created_at,
        "password_changed_at": user.password_changed_at,
    }


def session_view(session: Session, *, current: bool) -> View:
    """The schema `Session`; `current` tells whether it is the one that asks."""
    return _present(
        {
            "session_id": session.session_id,
            "user_id": session.user_id,
            "current": current,
            "device": session.device,
            "address": session.address,
            "created_at": session.created_at,
            "last_seen_at": session.last_seen_at,
            "expires_at": session.expires_at,
        }
    )


def _error(error: TaskError | None) -> View | None:
    return None if error is None else {"code": error.code, "message": error.message}


def _late_result(late: LateResult | None) -> View | None:
    """The schema `LateResult`."""
    if late is None:
        return None
    return _present(
        {
            "attempt": late.attempt,
            "agent_id": late.agent_id,
            "fence": late.fence,
            "status": late.status,
            "result": late.result,
            "result_bytes": late.result_bytes,
            "error": _error(late.error),
            "time": late.time,
        }
    )


def _dependency_count(task: Task) -> int:
    """Tasks of earlier releases don't know it, and their lists were read as a whole."""
    known = task.dependency_count
    return len(task.spec.dependencies) if known is None else known


def _present(view: Mapping[str, Any]) -> View:
    return {name: value for name, value in view.items() if value is not None}


def _fields(value: _Part | None) -> View | None:
    return None if value is None else _present(asdict(value))
