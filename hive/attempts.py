"""How a task is tried again: whether, when, and what becomes of a result that comes late.

An attempt that ended without success is followed by another one until `verdict` says why not. What
an agent reports under a lease that was taken back counts for nothing; the latest of it is kept
beside the task, to be looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hive.changes import ABSENT, NOW, After, Change, Deadline
from hive.errors import Conflict
from hive.leases import TaskLease
from hive.raw_json import RawJson
from hive.task_spec import Backoff, DependencyPolicy, TaskSpec
from hive.tasks import ENDED, RetriesEnded, Task, TaskError, TaskStatus

HEARTBEAT: Final = "timeouts.heartbeat_seconds"
"""Where a task says how long its agent may be silent; the leases on it are no longer than that."""
BUDGET: Final = "retry_deadline"
"""Where a task has the time from which on no further attempt begins."""
LOST_LEASES: Final = frozenset({"lease-expired", "heartbeat-timeout"})
"""Codes of attempts whose agent fell silent. They have waited long enough: no backoff."""
LATE_RESULT_BYTES: Final = 64 * 1024
"""A late result that is larger is not kept, only its size."""


class DependencyNotEnded(Conflict):
    """What a task depends on has not ended in its favour: it can't be retried yet (409)."""

    code = "dependency-not-ended"
    title = "Dependency not ended"


@dataclass(frozen=True, slots=True)
class LateReport:
    """How an agent ended an attempt whose lease it had lost: `completed` or `failed`."""

    status: TaskStatus
    result: RawJson | None = None
    error: TaskError | None = None


@dataclass(frozen=True, slots=True)
class LostLease:
    """A lease that the hive took back: whose it was, and of which attempt."""

    agent_id: str
    fence: int
    attempt: int


def verdict(task: Task, *, final: bool) -> RetriesEnded | None:
    """Why no further attempt follows; None when one does. `final`: the error is not to be retried.

    Whether the budget of time is over is for the database's clock to say: see `within_budget`.
    """
    if final:
        return RetriesEnded.NOT_RETRYABLE
    if task.attempt >= task.spec.max_attempts:
        return RetriesEnded.ATTEMPTS_USED
    return None


def delay_seconds(task: Task, error: TaskError, chance: float) -> float:
    """How long the next attempt waits; `chance` is random, in [0, 1)."""
    if error.code in LOST_LEASES:
        return 0.0
    return (task.spec.backoff or Backoff()).delay_seconds(task.attempt, chance)


def within_budget(task: Task, again: Change, seconds: float, otherwise: Change) -> Change:
    """The next attempt, `seconds` from now; `otherwise` when the budget is over by then."""
    if task.spec.retry_seconds is None:
        return again
    return Change(again.event, again.fields, Deadline(BUDGET, seconds, otherwise))


def first_budget(spec: TaskSpec) -> dict[str, Any]:
    """What a new task has of its budget."""
    return {} if spec.retry_seconds is None else {BUDGET: After(spec.retry_seconds)}


def loss(task: Task, lease_seconds: float) -> TaskError:
    """Why a lease that ran out was taken back; `lease_seconds` is what leases get otherwise."""
    timeouts = task.spec.timeouts
    heartbeat = timeouts.heartbeat_seconds if timeouts is not None else None
    if heartbeat is not None and heartbeat < lease_seconds:
        return TaskError("heartbeat-timeout", "The agent was silent for too long.")
    return TaskError("lease-expired", "The agent did not renew its lease in time.")


def spent(held: TaskLease, task: Task, *, taken_back: bool) -> dict[str, Any]:
    """What a task keeps of a lease that is over; of one taken back what a late report needs."""
    lease: dict[str, Any] = {"lease_id": held.lease_id, "agent_id": held.agent_id}
    if taken_back:
        lease |= {"taken_back": True, "fence": held.fence, "attempt": task.attempt}
    return lease


def require_ended(task: Task, statuses: Mapping[str, TaskStatus]) -> None:
    """Raise DependencyNotEnded unless the task need not wait for any of its dependencies.

    One that is not there any more keeps nobody waiting: it ended long ago.
    """
    any_end = task.spec.on_dependency_failure is DependencyPolicy.RUN
    for dependency, status in statuses.items():
        if status not in (ENDED if any_end else {TaskStatus.COMPLETED}):
            raise DependencyNotEnded(
                f"Dependency {dependency} is {status}. Retry this task when it has completed."
            )


def granted_anew(task: Task) -> dict[str, Any]:
    """What a retry by hand gives: as many attempts again, and the limits of time from now."""
    granted = task.spec.max_attempts - task.attempts_before
    timeouts = task.spec.timeouts
    fields: dict[str, Any] = {
        "attempts_before": task.attempt,
        "max_attempts": task.attempt + granted,
        **first_budget(task.spec),
    }
    if timeouts is not None and timeouts.total_seconds is not None:
        fields["total_deadline"] = After(timeouts.total_seconds)
    # What is left of the end.
    gone = (
        "ended_at", "ended_by", "error", "progress", "retries_ended", "run_at", "cancel_requested",
        "cancel_requested_at", "release_pending",
    )  # fmt: skip
    return dict.fromkeys(gone, ABSENT) | fields


def keep_late_result(task: Task, lease: LostLease, report: LateReport) -> Change | None:
    """Keep what came late, the newest fence only. The status stays what it is."""
    kept = task.late_result
    if kept is not None and lease.fence <= kept.fence:
        return None
    late: dict[str, Any] = {
        "attempt": lease.attempt,
        "agent_id": lease.agent_id,
        "fence": lease.fence,
        "status": report.status,
        "time": NOW,
        **_outcome(report),
    }
    return Change("task.late_result", {"late_result": late})


def _outcome(report: LateReport) -> Mapping[str, Any]:
    if report.error is not None:
        return {"error": report.error}
    if report.result is None:
        return {}
    size = len(report.result.encoded)
    return {"result_bytes": size} if size > LATE_RESULT_BYTES else {"result": report.result}
