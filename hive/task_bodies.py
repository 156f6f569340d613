"""From the body of a submission, as the contract lets it through, to what is asked for.

Tasks that are submitted one by one, many at once or by a schedule are read by the same function.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hive.errors import Invalid
from hive.task_spec import (
    Backoff,
    BackoffKind,
    Concurrency,
    Deduplication,
    DependencyPolicy,
    OnDuplicate,
    TaskPriority,
    TaskSpec,
    Timeouts,
)


def read_task_body(body: Mapping[str, Any]) -> TaskSpec:
    """The specification in a `TaskCreate`. Raises Invalid."""
    given: dict[str, Any] = {**body}
    for name in ("dependencies", "required_capabilities", "non_retryable"):
        given[name] = tuple(body.get(name, ()))
    if "priority" in body:
        given["priority"] = TaskPriority(body["priority"])
    if "on_dependency_failure" in body:
        given["on_dependency_failure"] = DependencyPolicy(body["on_dependency_failure"])
    if "backoff" in body:
        given["backoff"] = Backoff(
            **{**body["backoff"], "kind": BackoffKind(body["backoff"]["kind"])}
        )
    if "timeouts" in body:
        given["timeouts"] = Timeouts(**body["timeouts"])
    if "concurrency" in body:
        given["concurrency"] = Concurrency(**body["concurrency"])
    if "deduplication" in body:
        given["deduplication"] = read_deduplication(body["deduplication"])
    if "run_at" in body:
        given["run_at"] = read_time(body["run_at"], "/run_at")
    return TaskSpec(**given)


def read_deduplication(given: Mapping[str, str]) -> Deduplication:
    """The deduplication in a `TaskCreate`, or in a stored task."""
    reaction = OnDuplicate(given.get("on_duplicate", OnDuplicate.REJECT))
    return Deduplication(given["key"], reaction)


def read_time(value: str, pointer: str) -> datetime:
    """The time at this place of a body. Raises Invalid.

    RFC 3339 allows leap seconds and offsets that leave the calendar; a database does not.
    """
    try:
        return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Invalid("That time does not exist here.", pointer=pointer) from error
