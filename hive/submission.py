"""What is asked for when a task comes in, and what may be changed while it waits.

`open` is the mark of a task that has not ended: whose it is, and the deduplication key that it
holds. The write that ends the task takes it away, and so the key is free at that very instant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hive.changes import ABSENT, Change
from hive.errors import Conflict, IllegalTransition
from hive.preconditions import ANY, read_tags, read_version
from hive.queue_order import climb
from hive.task_bodies import read_time
from hive.task_spec import PRIORITY_RANKS, TaskPriority, TaskSpec, Timeouts
from hive.tasks import ENDED, WAITING, Task, TaskStatus

_S = TaskStatus


class AttemptsUsed(Conflict):
    """The task has begun as many attempts already as it is to have (409)."""

    code = "attempts-used"
    title = "Attempts used"


class DuplicateTask(Conflict):
    """Another task of the owner holds the deduplication key and has not ended (409)."""

    code = "duplicate-task"
    title = "Duplicate task"

    def __init__(self, task_id: str) -> None:
        super().__init__(f"Task {task_id} has this deduplication key and has not ended.")
        self.task_id = task_id


@dataclass(frozen=True, slots=True)
class TaskUpdate:
    """What is to become different; None leaves it as it is.

    `labels` and `timeouts` are replaced as a whole.
    """

    description: str | None = None
    priority: TaskPriority | None = None
    labels: Mapping[str, str] | None = None
    run_at: datetime | None = None
    max_attempts: int | None = None
    timeouts: Timeouts | None = None


def open_mark(owner: str, spec: TaskSpec) -> dict[str, str]:
    """The field `open` of a task of this owner that has not ended."""
    key = {} if spec.deduplication is None else {"key": spec.deduplication.key}
    return {"owner": owner, **key}


def read_seen(if_none_match: str | None) -> frozenset[int] | None:
    """The versions in the tags of `If-None-Match`; None for no such field and for `*`."""
    if if_none_match is None or if_none_match.strip() == ANY:
        return None
    found = (read_version(tag) for tag in read_tags(if_none_match))
    return frozenset(version for version in found if version is not None)


def is_awaited(status: str, version: int, seen: frozenset[int] | None) -> bool:
    """Whether somebody who waits for a task is told now: it ended, or is none of what they saw."""
    return status in ENDED or (seen is not None and version not in seen)


def read_update(body: Mapping[str, Any]) -> TaskUpdate:
    """What a `TaskUpdate` of the contract asks for. Raises Invalid."""
    given = dict(body)
    if "priority" in body:
        given["priority"] = TaskPriority(body["priority"])
    if "timeouts" in body:
        given["timeouts"] = Timeouts(**body["timeouts"])
    if "run_at" in body:
        given["run_at"] = read_time(body["run_at"], "/run_at")
    return TaskUpdate(**given)


def update(task: Task, wanted: TaskUpdate) -> Change | None:
    """Change a task that waits; None when it is so already.

    Raises IllegalTransition for one that runs or has ended, AttemptsUsed.
    """
    if task.status not in WAITING:
        raise IllegalTransition(
            f"Expected a task that is {', '.join(WAITING[:-1])} or {WAITING[-1]},"
            f" got {task.status}."
        )
    fields: dict[str, Any] = {}
    for name in ("description", "labels", "max_attempts"):
        value = getattr(wanted, name)
        if value is not None and value != getattr(task.spec, name):
            fields[name] = value
    if fields.get("max_attempts", task.attempt + 1) <= task.attempt:
        raise AttemptsUsed(
            f"The task has begun {task.attempt} attempts; max_attempts has to be more."
        )
    if wanted.priority not in (None, task.spec.priority):
        fields |= _place(task, wanted.priority)
    if wanted.run_at is not None and wanted.run_at != task.run_at:
        # A queued task goes back to where tasks wait for their time.
        fields |= {"run_at": wanted.run_at, "status": _S.SCHEDULED, "queued_at": ABSENT}
    if wanted.timeouts is not None and wanted.timeouts != (task.spec.timeouts or Timeouts()):
        fields |= _timeouts(task, wanted.timeouts)
    return Change("task.updated", fields) if fields else None


def _place(task: Task, priority: TaskPriority) -> dict[str, Any]:
    climbs = climb(task.spec, priority) if task.status is _S.QUEUED else {}
    return {"priority": priority, "rank": PRIORITY_RANKS[priority], **climbs}


def _timeouts(task: Task, timeouts: Timeouts) -> dict[str, Any]:
    """The total is from submission, whenever it is set."""
    total = timeouts.total_seconds
    return {
        "timeouts": timeouts if timeouts != Timeouts() else ABSENT,
        "total_deadline": ABSENT if total is None else task.created_at + timedelta(seconds=total),
    }
