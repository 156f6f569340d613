"""What a task is, and which moves it can make. The decisions are in `hive/task_machine.py`.

`LEGAL_MOVES` is the whole machine; the docs and the tests are made from it.

    scheduled -> blocked -> queued -> running -> completed | failed | cancelled
    running -> queued | scheduled     another attempt (at once, or after a backoff)
    blocked, queued -> scheduled      put off by an update of `run_at`
    failed -> queued                  a retry by hand
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from hive.artifacts import Artifact
from hive.leases import LeaseProof, TaskLease
from hive.raw_json import RawJson
from hive.task_spec import TaskSpec


class TaskStatus(StrEnum):
    """Where a task is in its life."""

    SCHEDULED = "scheduled"
    BLOCKED = "blocked"
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


_S = TaskStatus
LEGAL_MOVES: Final[Mapping[TaskStatus, frozenset[TaskStatus]]] = {
    _S.SCHEDULED: frozenset({_S.BLOCKED, _S.QUEUED, _S.FAILED, _S.CANCELLED}),
    _S.BLOCKED: frozenset({_S.SCHEDULED, _S.QUEUED, _S.FAILED, _S.CANCELLED}),
    _S.QUEUED: frozenset({_S.SCHEDULED, _S.RUNNING, _S.FAILED, _S.CANCELLED}),
    _S.RUNNING: frozenset({_S.QUEUED, _S.SCHEDULED, _S.COMPLETED, _S.FAILED, _S.CANCELLED}),
    _S.COMPLETED: frozenset(),
    _S.FAILED: frozenset({_S.QUEUED}),
    _S.CANCELLED: frozenset(),
}
ENDED: Final = frozenset({_S.COMPLETED, _S.FAILED, _S.CANCELLED})
WAITING: Final = (_S.SCHEDULED, _S.BLOCKED, _S.QUEUED)
"""The statuses of tasks that wait for something: no attempt is under way."""


class RetriesEnded(StrEnum):
    """Why a failed task was not tried again."""

    ATTEMPTS_USED = "attempts-used"
    NOT_RETRYABLE = "not-retryable"
    BUDGET_USED = "budget-used"
    TIMED_OUT = "timed-out"


SUMMARY_FIELDS: Final = (
    "name", "description", "priority", "status", "owner", "agent_id", "attempt", "max_attempts",
    "dependencies", "dependency_count", "waiting_on", "required_capabilities", "agent_labels",
    "sticky", "on_dependency_failure", "labels",
    "progress", "error", "retries_ended", "reason", "cancel_requested", "log_count",
    "artifact_count", "run_at", "started_at", "ended_at", "version", "created_at", "updated_at",
)  # fmt: skip
"""What lists and events tell of a task, besides `task_id`: everything but the free-form values."""

LONG_LISTS: Final = ("dependencies", "waiting_on")
"""Of these, lists, events and leases tell the first `SHOWN_AT_MOST` only; the task tells all."""

SHOWN_AT_MOST: Final = 100


@dataclass(frozen=True, slots=True)
class TaskError:
    """Why an attempt, or the task, ended without success."""

    code: str
    message: str
    retryable: bool = True


@dataclass(frozen=True, slots=True)
class LateResult:
    """What an agent reported under a lease that was taken back. It counts for nothing.

    `result_bytes` is the size of a result that was too large to keep.
    """

    attempt: int
    agent_id: str
    fence: int
    status: TaskStatus
    time: datetime
    result: RawJson | None = None
    result_bytes: int | None = None
    error: TaskError | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A task as it is stored. Times are the database's."""

    task_id: str
    spec: TaskSpec
    owner: str
    status: TaskStatus
    version: int
    created_at: datetime
    updated_at: datetime
    waiting_on: tuple[str, ...] = ()
    dependency_count: int | None = None
    attempt: int = 0
    fence: int = 0
    lease: TaskLease | None = None
    agent_id: str | None = None
    progress: Mapping[str, Any] | None = None
    result: RawJson | None = None
    error: TaskError | None = None
    reason: str | None = None
    cancel_requested: bool = False
    log_count: int = 0
    run_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    ended_by: LeaseProof | None = None
    retries_ended: RetriesEnded | None = None
    attempts_before: int = 0
    late_result: LateResult | None = None
    artifacts: tuple[Artifact, ...] = ()
    artifact_count: int | None = None

    @property
    def has_ended(self) -> bool:
        """Completed, failed or cancelled."""
        return self.status in ENDED
