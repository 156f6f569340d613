"""What becomes of tasks over the limit of their concurrency key, by its strategy.

`queue`: they wait. `cancel-newest`: a task takes one of the key's numbers when it is submitted and
holds it to its end; one that finds none free is cancelled by the very write that makes it.
`cancel-oldest`: every submission looks, behind its own write, at all that are open, and cancels
those behind the newest `limit`; a mark has the reaper do it after a crash.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hive.changes import NOW, Change
from hive.tasks import TaskStatus

REASON: Final = "concurrency"
KEPT_OF_A_REFUSAL: Final = frozenset(
    {
        "name", "description", "owner", "priority", "rank", "parameters", "dependencies",
        "required_capabilities", "capability_key", "lane", "on_dependency_failure", "max_attempts",
        "non_retryable", "labels", "attempt", "fence", "log_count", "created_at", "backoff",
        "retry_seconds", "timeouts", "concurrency", "fairness", "agent_labels", "sticky",
        "deduplication",
    }
)  # fmt: skip
"""What is asked for, and nothing of what an open task has besides."""


def admit(submitted: Change, key: str, number: int) -> Change:
    """The submission with one of the numbers of its key."""
    return replace(
        submitted, fields={**submitted.fields, "admission": {"key": key, "number": number}}
    )


def turn_away(submitted: Change) -> Change:
    """The submission of a task that is cancelled at once."""
    kept = {name: value for name, value in submitted.fields.items() if name in KEPT_OF_A_REFUSAL}
    ended = {
        "status": TaskStatus.CANCELLED,
        "reason": REASON,
        "waiting_on": [],
        "ended_at": NOW,
        "release_pending": True,
    }
    return Change("task.cancelled", kept | ended)
