"""In which order queued tasks are taken: ascending by one number, made when a task is queued.

The number is the database's time in milliseconds, less a lead for each level of priority. It never
changes while the task waits, and yet tasks age: whatever has waited longer than the lead of a more
urgent task is before it. So nothing starves, and no sweep rewrites anything.

A task of a fairness key takes the key's next turn, and turns are apart by a quantum over the
weight: a burst of one key is spread out behind the first task of any other (start-time fair
queueing, Goyal et al. 1996, with time as the virtual time). A turn is never more than the horizon
away, which bounds how long a key pays for what it took.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from hive.changes import ABSENT
from hive.matching import label_words
from hive.task_spec import PRIORITY_RANKS, Fairness, TaskPriority, TaskSpec

DEFAULT_AGE_SECONDS: Final = 300.0
QUANTUM_MS: Final = 1_000.0
HORIZON_MS: Final = 3_600_000.0


@dataclass(frozen=True, slots=True)
class Place:
    """A mark of a change: the number that storage makes at the write. See `lead_ms`."""

    rank: int
    fairness: Fairness | None = None


@dataclass(frozen=True, slots=True)
class Climb:
    """A mark of a change: the number as it is, so many levels of priority better."""

    ranks: int


@dataclass(frozen=True, slots=True)
class HeadStart:
    """A mark of a change: for so long, only these agents may take the task.

    Agents that have all of `labels`, and the agent `agent_id`, or else the one that ran `task_id`.
    """

    seconds: float
    labels: tuple[str, ...] = ()
    agent_id: str | None = None
    task_id: str | None = None


def lead_ms(rank: int, age_seconds: float) -> int:
    """How far the priority puts a task ahead of one of the lowest priority, in milliseconds."""
    return round(rank * age_seconds * 1000)


def place(spec: TaskSpec, *, last_agent: str | None = None) -> dict[str, Any]:
    """The fields of a task that becomes queued. `last_agent` ran its last attempt."""
    return {
        "queue_order": Place(PRIORITY_RANKS[spec.priority], spec.fairness),
        "reserved": _head_start(spec, last_agent) or ABSENT,
    }


def climb(spec: TaskSpec, priority: TaskPriority) -> dict[str, Any]:
    """The fields that another priority gives to a task that waits in the queue.

    It is as old as before, so that this is the place that it would have had from the beginning.
    """
    return {"queue_order": Climb(PRIORITY_RANKS[priority] - PRIORITY_RANKS[spec.priority])}


def head_start_seconds(spec: TaskSpec) -> float:
    """After how many seconds in the queue any agent may take the task."""
    preferring = spec.agent_labels is not None and spec.agent_labels.preferred
    return max(
        spec.agent_labels.head_start_seconds if spec.agent_labels and preferring else 0.0,
        spec.sticky.seconds if spec.sticky else 0.0,
    )


def _head_start(spec: TaskSpec, last_agent: str | None) -> HeadStart | None:
    labels = label_words(spec.agent_labels.preferred) if spec.agent_labels else ()
    task_id = spec.sticky.task_id if spec.sticky else None
    agent_id = last_agent if spec.sticky and task_id is None else None
    if not (labels or task_id or agent_id):
        return None
    return HeadStart(head_start_seconds(spec), labels, agent_id, task_id)
