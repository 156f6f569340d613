"""The task machine: the decisions that move a task.

Every decision is pure: it takes the task as it is and gives the change, gives None when there is
nothing to do, or raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from hive import attempts
from hive.changes import ABSENT, NOW, After, Append, Change, Plus, Without
from hive.errors import IllegalTransition, LeaseLost
from hive.leases import LeaseProof, NewLease, TaskLease
from hive.matching import queue_key
from hive.queue_order import place
from hive.raw_json import RawJson
from hive.submission import open_mark
from hive.task_spec import PRIORITY_RANKS, DependencyPolicy, TaskSpec
from hive.tasks import LEGAL_MOVES, RetriesEnded, Task, TaskError, TaskStatus

DRAINED: Final = "drained"
"""The reason of a task whose agent did not end it before its drain was over."""
SPENT_LEASES_KEPT: Final = 100
CANCELLED: Final = "cancelled"
"""The reason of a cancellation that somebody asked for."""
_S = TaskStatus


def submit(spec: TaskSpec, owner: str, waiting_on: tuple[str, ...]) -> Change:
    """Accept a task. `waiting_on` are the dependencies that have not ended in the task's favour."""
    if spec.run_at is not None:
        status = _S.SCHEDULED
    elif waiting_on:
        status = _S.BLOCKED
    else:
        status = _S.QUEUED
    fields: dict[str, Any] = {
        "name": spec.name,
        "owner": owner,
        "status": status,
        "priority": spec.priority,
        "rank": PRIORITY_RANKS[spec.priority],
        "dependencies": list(spec.dependencies),
        "dependency_count": len(spec.dependencies),
        "waiting_on": list(waiting_on),
        "required_capabilities": list(spec.required_capabilities),
        "capability_key": queue_key(spec),
        "lane": spec.concurrency.key if spec.concurrency else "",
        "on_dependency_failure": spec.on_dependency_failure,
        "max_attempts": spec.max_attempts,
        "non_retryable": list(spec.non_retryable),
        "labels": spec.labels,
        "attempt": 0,
        "fence": 0,
        "log_count": 0,
        "open": open_mark(owner, spec),
        "created_at": NOW,
    }
    optional = {
        "description": spec.description,
        "parameters": spec.parameters,
        "backoff": spec.backoff,
        "retry_seconds": spec.retry_seconds,
        "timeouts": spec.timeouts,
        "run_at": spec.run_at,
        "concurrency": spec.concurrency,
        "fairness": spec.fairness,
        "agent_labels": spec.agent_labels,
        "sticky": spec.sticky,
        "deduplication": spec.deduplication,
    }
    fields.update({name: value for name, value in optional.items() if value is not None})
    if status is _S.QUEUED:
        fields |= _queued_now(spec)
    if spec.concurrency is not None and spec.concurrency.cancels_oldest:
        # Others may have to go: the reaper looks for this mark after a crash.
        fields["supersede_pending"] = True
    if waiting_on:
        # Dependencies are looked at again behind the insert: the reaper does it after a crash.
        fields["settle_pending"] = True
    if spec.timeouts is not None and spec.timeouts.total_seconds is not None:
        fields["total_deadline"] = After(spec.timeouts.total_seconds)
    return Change("task.created", fields | attempts.first_budget(spec))


def start(lease: NewLease) -> Change:
    """Lease a queued task to an agent. Storage picks the task; the fence grows by one."""
    granted: dict[str, Any] = {
        "lease_id": lease.lease_id,
        "agent_id": lease.agent_id,
        "slot": lease.slot,
        "fence": Plus("fence"),
        "expires_at": After(lease.seconds, at_most=attempts.HEARTBEAT),
    }
    if lease.key is not None:
        granted |= {"key": lease.key, "key_slot": lease.key_slot}
    return Change(
        "task.started",
        {
            "status": _S.RUNNING,
            "lease": granted,
            "fence": Plus("fence"),
            "attempt": Plus("attempt"),
            "agent_id": lease.agent_id,
            "started_at": NOW,
            "progress": ABSENT,
            "error": ABSENT,
            "reason": ABSENT,
            "queued_at": ABSENT,
        },
    )


def report_progress(
    task: Task, proof: LeaseProof, progress: Mapping[str, Any], lease_seconds: float
) -> Change:
    """Record progress; it renews the lease, too."""
    held = require_lease(task, proof)
    return Change(
        "task.progress",
        {"progress": dict(progress), "lease": _renewed(held, lease_seconds)},
    )


def complete(task: Task, proof: LeaseProof, result: RawJson | None) -> Change | None:
    """End the task with its result. Repeated by the same lease, it changes nothing.

    A task that was asked to stop and completed all the same is completed: the work is done.
    """
    if task.ended_by == proof and task.status is _S.COMPLETED:
        return None
    held = require_lease(task, proof)
    fields: dict[str, Any] = {} if result is None else {"result": result}
    return _end(task, _S.COMPLETED, held, fields, by_holder=True)


def fail(task: Task, proof: LeaseProof, error: TaskError, chance: float) -> Change | None:
    """End the attempt with an error: another attempt where that is allowed, otherwise failed.

    `chance` is a random number in [0, 1) for the jitter.
    """
    if task.ended_by == proof and task.status is _S.FAILED:
        return None
    held = require_lease(task, proof)
    if task.cancel_requested:
        return _cancelled(task, held, by_holder=True)
    final = not error.retryable or error.code in task.spec.non_retryable
    return _attempt_ended(task, held, error, final=final, chance=chance, by_holder=True)


def release(task: Task, proof: LeaseProof, reason: str | None) -> Change:
    """Give the task back unfinished. The attempt does not count; a cancelled one ends."""
    held = require_lease(task, proof)
    if task.cancel_requested:
        return _cancelled(task, held, by_holder=True)
    return _given_back(task, held, reason, by_holder=True)


def expire(task: Task, chance: float, lease_seconds: float = 0.0) -> Change:
    """Take back a task whose lease is over: another attempt, failed, or cancelled as asked.

    `lease_seconds` is what leases get; one that was shorter was so for the task's heartbeat.
    """
    if task.lease is None:
        raise IllegalTransition(f"Expected a running task with a lease, got {task.status}.")
    if task.cancel_requested:
        return _cancelled(task, task.lease)
    error = attempts.loss(task, lease_seconds)
    return _attempt_ended(task, task.lease, error, final=False, chance=chance)


def take_back(task: Task, agent_id: str, *, is_drained: bool, chance: float) -> Change | None:
    """Take the task from an agent before its lease is over; None when it does not hold it.

    A drained agent's attempt does not count, as if it had released the task. Of an agent that is
    gone it does, as of any lost lease. A task that was to be cancelled is.
    """
    held = task.lease
    if held is None or held.agent_id != agent_id:
        return None
    if task.cancel_requested:
        return _cancelled(task, held)
    if not is_drained:
        error = TaskError("lease-expired", "The agent is offline, and its lease was taken back.")
        return _attempt_ended(task, held, error, final=False, chance=chance)
    return _given_back(task, held, DRAINED, by_holder=False)


def time_out(task: Task, what: str, chance: float) -> Change | None:
    """End what took too long: `queue` and `total` end the task, `execution` the attempt.

    `retry` ends a task that waits for another attempt when its budget is over.

    A task that does not wait in the queue, or does not run, has nothing of that kind to end.
    """
    if task.has_ended or (what == "queue" and task.status is not _S.QUEUED):
        return None
    if what == "execution" and task.lease is None:
        return None
    if what == "retry":
        return _end_of_budget(task)
    if task.cancel_requested:
        return _cancelled(task, task.lease)
    error = TaskError(f"{what}-timeout", f"The {what} timeout of the task is over.")
    if what == "execution" and task.lease is not None:
        return _attempt_ended(task, task.lease, error, final=False, chance=chance)
    ended = {"error": error, "retries_ended": RetriesEnded.TIMED_OUT}
    return _end(task, _S.FAILED, task.lease, ended)


def retry(task: Task) -> Change:
    """Try a failed task again, by hand. Raises IllegalTransition for any other."""
    if task.status is not _S.FAILED:
        raise IllegalTransition(f"Expected a task that is failed, got {task.status}.")
    again = {"status": _S.QUEUED, "open": open_mark(task.owner, task.spec), "reason": "retried"}
    fields = {**attempts.granted_anew(task), **_queued_now(task.spec, task.agent_id), **again}
    return Change("task.queued", fields)


def cancel(task: Task, reason: str = CANCELLED) -> Change | None:
    """Cancel the task; one that runs is asked to stop first. Already cancelled changes nothing."""
    if task.status is _S.CANCELLED:
        return None
    if task.status is _S.RUNNING:
        if task.cancel_requested:
            return None
        asked: dict[str, Any] = {"cancel_requested": True, "cancel_requested_at": NOW}
        if reason != CANCELLED:
            asked["reason"] = reason
        return Change("task.cancelling", asked)
    return _end(task, _S.CANCELLED, None, {"reason": reason})


def revoke(task: Task) -> Change | None:
    """Take the lease from an agent that did not obey a cancellation within the grace period."""
    if task.status is not _S.RUNNING or not task.cancel_requested:
        return None
    return _cancelled(task, task.lease)


def promote(task: Task) -> Change | None:
    """Move a scheduled task on whose time has come."""
    if task.status is not _S.SCHEDULED:
        return None
    if task.waiting_on:
        return Change("task.blocked", {"status": _S.BLOCKED, "run_at": ABSENT})
    return Change("task.queued", {"status": _S.QUEUED, **_queued_now(task.spec, task.agent_id)})


def dependency_ended(task: Task, dependency: str, status: TaskStatus) -> Change | Without | None:
    """What the end of a dependency does to a task that waits on it.

    Gives `Without` when the task only has one dependency less to wait on: that is no event.
    """
    if dependency not in task.waiting_on or task.has_ended:
        return None
    if status is not _S.COMPLETED:
        if task.spec.on_dependency_failure is DependencyPolicy.FAIL:
            error = TaskError(
                "dependency-failed", f"Dependency {dependency} is {status}.", retryable=False
            )
            return _end(task, _S.FAILED, None, {"error": error})
        if task.spec.on_dependency_failure is DependencyPolicy.SKIP_ME:
            return _end(task, _S.CANCELLED, None, {"reason": "skipped"})
    return Without("waiting_on", dependency)


def unblock(task: Task) -> Change | None:
    """Queue a blocked task that waits on nothing any more."""
    if task.status is not _S.BLOCKED or task.waiting_on:
        return None
    return Change("task.queued", {"status": _S.QUEUED, **_queued_now(task.spec)})


def _require_move(task: Task, to: TaskStatus) -> None:
    if to not in LEGAL_MOVES[task.status]:
        origins = sorted(s for s, targets in LEGAL_MOVES.items() if to in targets)
        raise IllegalTransition(
            f"Expected a task that is {' or '.join(origins)}, got {task.status}."
        )


def require_lease(task: Task, proof: LeaseProof) -> TaskLease:
    """The lease of the task, which has to be this one. Raises LeaseLost."""
    held = task.lease
    if held is None or (held.lease_id, held.fence) != (proof.lease_id, proof.fence):
        raise LeaseLost(task_id=task.task_id, fence=task.fence)
    return held


def _cancelled(task: Task, held: TaskLease | None, *, by_holder: bool = False) -> Change:
    """End a task that was asked to stop, for the reason that was given then."""
    ended = {"reason": task.reason or CANCELLED}
    return _end(task, _S.CANCELLED, held, ended, by_holder=by_holder)


def _given_back(task: Task, held: TaskLease, reason: str | None, *, by_holder: bool) -> Change:
    """Back to its place in the queue: neither the wait nor the attempt was the task's."""
    _require_move(task, _S.QUEUED)
    fields = {
        **_lease_over(task, held, by_holder=by_holder),
        "status": _S.QUEUED,
        "queued_at": NOW,
        "attempt": Plus("attempt", -1),
    }
    return Change("task.released", fields if reason is None else {**fields, "reason": reason})


def _attempt_ended(
    task: Task,
    held: TaskLease,
    error: TaskError,
    *,
    final: bool,
    chance: float,
    by_holder: bool = False,
) -> Change:
    why = attempts.verdict(task, final=final)
    last = {"error": error, "retries_ended": why or RetriesEnded.BUDGET_USED}
    failed = _end(task, _S.FAILED, held, last, by_holder=by_holder)
    if why is not None:
        return failed
    delay = attempts.delay_seconds(task, error, chance)
    fields = {**_lease_over(task, held, by_holder=by_holder), "error": error}
    if delay > 0.0:
        _require_move(task, _S.SCHEDULED)
        fields |= {"status": _S.SCHEDULED, "run_at": After(delay)}
    else:
        _require_move(task, _S.QUEUED)
        fields |= {"status": _S.QUEUED, **_queued_now(task.spec, held.agent_id)}
    return attempts.within_budget(task, Change("task.retrying", fields), delay, failed)


def _end_of_budget(task: Task) -> Change | None:
    if task.attempt <= task.attempts_before or task.status not in (_S.QUEUED, _S.SCHEDULED):
        return None
    error = task.error or TaskError("retry-budget-used", "The time for retries is over.")
    ended = {"error": error, "retries_ended": RetriesEnded.BUDGET_USED}
    return _end(task, _S.FAILED, None, ended)


def _end(
    task: Task,
    status: TaskStatus,
    held: TaskLease | None,
    fields: Mapping[str, Any],
    *,
    by_holder: bool = False,
) -> Change:
    _require_move(task, status)
    over = {} if held is None else _lease_over(task, held, by_holder=by_holder)
    if held is not None and by_holder:
        # Only its own end is the holder's to repeat: one whose lease was taken back has lost it.
        over["ended_by"] = {"lease_id": held.lease_id, "fence": held.fence}
    return Change(
        f"task.{status}",
        {
            "status": status,
            **over,
            "ended_at": NOW,
            "waiting_on": [],
            "queued_at": ABSENT,
            "total_deadline": ABSENT,
            attempts.BUDGET: ABSENT,
            "run_at": ABSENT,
            "open": ABSENT,
            "admission": ABSENT,
            "reserved": ABSENT,
            # Whoever waits on this task is told next; the reaper looks for this mark after a crash.
            "release_pending": True,
            **fields,
        },
    )


def _lease_over(task: Task, held: TaskLease, *, by_holder: bool) -> dict[str, Any]:
    return {
        "lease": ABSENT,
        # The event of this change carries the count of the log.
        "logs_held": ABSENT,
        "spent_leases": Append(
            "spent_leases",
            attempts.spent(held, task, taken_back=not by_holder),
            SPENT_LEASES_KEPT,
        ),
    }


def _renewed(held: TaskLease, seconds: float) -> dict[str, Any]:
    kept = {name: value for name, value in asdict(held).items() if value is not None}
    return {**kept, "expires_at": After(seconds, at_most=attempts.HEARTBEAT)}


def _queued_now(spec: TaskSpec, last_agent: str | None = None) -> dict[str, Any]:
    return {"queued_at": NOW, "run_at": ABSENT, **place(spec, last_agent=last_agent)}
