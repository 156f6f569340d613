"""Many tasks at once: batches, the graph of tasks, and what cancelling a part of it did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agentzero_client.models import TaskStatus

BatchMode = Literal["all-or-nothing", "best-effort"]
Direction = Literal["both", "up", "down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFlaw:
    """Why a task of a batch can't be made; `pointer` names the place in the batch."""

    code: str
    pointer: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchedTask:
    """The receipt of one task of a batch, or its `problem`."""

    key: str | None = None
    task_id: str | None = None
    status: TaskStatus | None = None
    problem: TaskFlaw | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReceipt:
    """What became of a batch; `tasks` are in the order given."""

    batch_id: str
    accepted: int
    refused: int
    tasks: list[BatchedTask]

    def task_ids(self) -> dict[str, str]:
        """The identifiers of the tasks that were made, by their keys."""
        return {
            task.key: task.task_id
            for task in self.tasks
            if task.key is not None and task.task_id is not None
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskNode:
    """A task as a graph shows it."""

    task_id: str
    name: str
    status: TaskStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEdge:
    """One dependency: `dependent` waits for `dependency`, or waited."""

    dependency: str
    dependent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskGraph:
    """The tasks around one, itself first; `truncated` when there are more than 10,000 edges."""

    task_id: str
    nodes: list[TaskNode]
    edges: list[TaskEdge]
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SubtreeCancelled:
    """How many tasks were cancelled, asked to stop, left to others, and are still to come."""

    task_id: str
    cancelled: int
    stopping: int
    of_others: int
    remaining: int
