"""From the body of a submission, as the contract lets it through, to what is asked for.

Tasks that are submitted one by one, many at once or by a schedule are read by the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from hive.errors import Invalid
from hive.task_spec import (
    AgentLabels,
    Backoff,
    BackoffKind,
    Concurrency,
    ConcurrencyStrategy,
    Deduplication,
    DependencyPolicy,
    Fairness,
    OnDuplicate,
    Sticky,
    TaskPriority,
    TaskSpec,
    Timeouts,
)


def read_task_body(body: Mapping[str, Any]) -> TaskSpec:
    """The specification in a `TaskCreate`. Raises Invalid."""
    given: dict[str, Any] = {**body}
    for name in ("dependencies", "required_capabilities", "non_retryable"):
        given[name] = tuple(body.get(name, ()))
    for name, read in _READ.items():
        if name in body:
            given[name] = read(body[name])
    return TaskSpec(**given)


def read_concurrency(given: Mapping[str, Any]) -> Concurrency:
    """The concurrency in a `TaskCreate`, or in a stored task."""
    strategy = ConcurrencyStrategy(given.get("strategy", ConcurrencyStrategy.QUEUE))
    return Concurrency(given["key"], given["limit"], strategy)


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


_READ: Final[Mapping[str, Callable[[Any], Any]]] = {
    "priority": TaskPriority,
    "on_dependency_failure": DependencyPolicy,
    "backoff": lambda given: Backoff(**{**given, "kind": BackoffKind(given["kind"])}),
    "timeouts": lambda given: Timeouts(**given),
    "concurrency": read_concurrency,
    "fairness": lambda given: Fairness(**given),
    "agent_labels": lambda given: AgentLabels(**given),
    "sticky": lambda given: Sticky(**given),
    "deduplication": read_deduplication,
    "run_at": lambda given: read_time(given, "/run_at"),
}
