"""The graph that tasks make by their dependencies: what of it is shown, and cancelling a part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from hive.changes import Actor
from hive.dag import depths
from hive.tasks import ENDED, TaskStatus


class Direction(StrEnum):
    """Which way to look from a task: to what it waits for (`up`), to what waits for it (`down`)."""

    BOTH = "both"
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Node:
    """A task as a graph shows it."""

    task_id: str
    name: str
    status: TaskStatus
    owner: str
    cancel_requested: bool = False

    @property
    def can_be_cancelled(self) -> bool:
        """Whether cancelling it would change anything."""
        return self.status not in ENDED and not self.cancel_requested


@dataclass(frozen=True, slots=True)
class Edge:
    """One dependency: `dependent` waits for `dependency`, or waited."""

    dependency: str
    dependent: str


@dataclass(slots=True)
class Graph:
    """A part of the graph; `truncated` tells that there are more edges than it was to have."""

    most_edges: int
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: dict[Edge, None] = field(default_factory=dict)
    truncated: bool = False

    @property
    def room(self) -> int:
        """How many more edges it may have."""
        return self.most_edges - len(self.edges)

    def add(self, edge: Edge) -> bool:
        """Add the edge; False, and noted, when there is no room for it."""
        if edge in self.edges:
            return True
        if self.room <= 0:
            self.truncated = True
            return False
        self.edges[edge] = None
        return True


def leaves_first(graph: Graph) -> list[list[Node]]:
    """The tasks in layers: what waits for a task is in a layer before it."""
    waits_for: dict[str, list[str]] = {task_id: [] for task_id in graph.nodes}
    for edge in graph.edges:
        if edge.dependent in waits_for:
            waits_for[edge.dependent].append(edge.dependency)
    return [[graph.nodes[one] for one in layer] for layer in reversed(depths(waits_for))]


class Graphs(Protocol):
    """Reads the graph. Nobody changes it: dependencies are fixed when a task comes in."""

    async def read(
        self, task_id: str, direction: Direction, *, depth: int, most_edges: int
    ) -> Graph:
        """What is up to so many steps up or down from the task; tasks that are gone are left out.

        Raises TaskNotFound.
        """


@dataclass(frozen=True, slots=True)
class SubtreeOrder:
    """Cancel a task and all that depends on it, as far as it is the principal's.

    Without a principal it may be anybody's.
    """

    order_id: str
    task_id: str
    principal_id: str | None


@dataclass(frozen=True, slots=True)
class SubtreeOutcome:
    """What became of an order so far, in tasks.

    `stopping` were asked to stop; `of_others` are not the principal's; `remaining` are cancelled in
    the background.
    """

    cancelled: int = 0
    stopping: int = 0
    of_others: int = 0
    remaining: int = 0


class SubtreeOrders(Protocol):
    """Orders that are not finished. Each method can be repeated."""

    async def accept(self, order: SubtreeOrder, actor: Actor) -> None:
        """Write the order down."""

    async def finish(self, order_id: str) -> None:
        """Forget the order: nothing remains."""

    async def unfinished(self, *, limit: int) -> Sequence[tuple[SubtreeOrder, Actor]]:
        """Orders that nobody works on, oldest first."""


class Subtrees(Protocol):
    """Cancels parts of the graph."""

    async def cancel(self, order: SubtreeOrder, actor: Actor) -> SubtreeOutcome:
        """Cancel now as many as one request may; the rest is cancelled soon, whoever dies.

        What waits for a task is cancelled before it, so that no policy has a say.
        """
