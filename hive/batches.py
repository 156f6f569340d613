"""Many tasks in one submission, which may depend on each other by names of their own.

A batch is accepted with one write: from then on it says what was meant, and each of its tasks comes
to be, whoever dies in between. Before that write, nothing of it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol

from hive import task_machine as machine
from hive.changes import Actor, Change
from hive.dag import MOST_EDGES, ROOT, Flaw, Wish, arrange
from hive.errors import Invalid
from hive.task_bodies import read_task_body
from hive.task_spec import TaskSpec
from hive.tasks import TaskStatus


class BatchMode(StrEnum):
    """What happens to the good tasks of a batch when others can't be made."""

    ALL_OR_NOTHING = "all-or-nothing"
    BEST_EFFORT = "best-effort"


class BatchRefused(Invalid):
    """Some tasks of the batch can't be made, and so none was (422). `flaws` name them."""

    code = "batch-refused"
    title = "Batch refused"

    def __init__(self, flaws: Sequence[Flaw]) -> None:
        super().__init__(f"Of the tasks, {len(flaws):,} can't be made. Nothing was done.")
        self.flaws = tuple(flaws)


class TooManyEdges(Invalid):
    """The tasks of a batch have more dependencies together than one batch may have (422)."""

    code = "too-many-edges"
    title = "Too many dependencies"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One task as it was asked for; `flaw` says that its body asks for what can't be."""

    wish: Wish
    spec: TaskSpec
    flaw: Flaw | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """One task as it will be made."""

    task_id: str
    change: Change


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of a batch: the tasks in the order in which they are made.

    `task_ids` has the identifier of each task that is made, by its index; `flaws` the others.
    """

    tasks: tuple[Planned, ...]
    task_ids: Mapping[int, str]
    flaws: Mapping[int, Flaw]


@dataclass(frozen=True, slots=True)
class Meant:
    """What a batch that was accepted has made: its tasks, and all that they were to wait for."""

    task_ids: tuple[str, ...]
    waiting_on: frozenset[str]


def read_batch(bodies: Sequence[Mapping[str, Any]]) -> tuple[Wanted, ...]:
    """The tasks of a `TaskBatch`. Raises TooManyEdges."""
    wanted = tuple(_read_one(index, body) for index, body in enumerate(bodies))
    edges = sum(one.wish.edges for one in wanted)
    if edges > MOST_EDGES:
        raise TooManyEdges(
            f"The tasks of a batch can have {MOST_EDGES:,} dependencies together; these have"
            f" {edges:,}.",
            pointer=ROOT,
        )
    return wanted


def named(wanted: Sequence[Wanted]) -> list[str]:
    """The identifiers of existing tasks that the batch depends on."""
    return list(dict.fromkeys(name for one in wanted for name in one.wish.dependencies))


def plan(
    wanted: Sequence[Wanted],
    found: Mapping[str, TaskStatus],
    owner: str,
    mode: BatchMode,
    new_id: Callable[[str], str],
) -> Plan:
    """Say what is made. `found` are the statuses of existing tasks; `new_id` makes identifiers.

    Raises BatchRefused when it is all or nothing and something can't be made.
    """
    given = {one.flaw.index: one.flaw for one in wanted if one.flaw is not None}
    order = arrange([one.wish for one in wanted], found, given)
    if order.flaws and mode is BatchMode.ALL_OR_NOTHING:
        raise BatchRefused([order.flaws[index] for index in sorted(order.flaws)])
    # In this order identifiers grow along the dependencies.
    task_ids = {index: new_id("tsk") for index in order.order}
    tasks = []
    for index in order.order:
        one = wanted[index]
        local = tuple(task_ids[before] for before in order.waits_for[index])
        waiting_on = local + tuple(
            name for name in one.wish.dependencies if found[name] is not TaskStatus.COMPLETED
        )
        spec = replace(one.spec, dependencies=local + one.wish.dependencies)
        tasks.append(Planned(task_ids[index], machine.submit(spec, owner, waiting_on)))
    return Plan(tuple(tasks), task_ids, order.flaws)


def _read_one(index: int, body: Mapping[str, Any]) -> Wanted:
    alone = {name: value for name, value in body.items() if name not in ("key", "depends_on")}
    wish = Wish(
        body.get("key"), tuple(body.get("depends_on", ())), tuple(body.get("dependencies", ()))
    )
    if "deduplication" in body:
        pointer = f"{ROOT}/{index}/deduplication"
        detail = (
            "A task of a batch has no deduplication key. Send the batch with an Idempotency-Key."
        )
        return Wanted(wish, TaskSpec(body["name"]), Flaw(index, pointer, "not-in-a-batch", detail))
    try:
        return Wanted(wish, read_task_body(alone))
    except Invalid as error:
        pointer = f"{ROOT}/{index}{error.pointer or ''}"
        return Wanted(wish, TaskSpec(body["name"]), Flaw(index, pointer, error.code, error.detail))


class BatchLog(Protocol):
    """The batches that were accepted and are not finished. Each method can be repeated."""

    async def accept(self, batch_id: str, tasks: Sequence[Planned], actor: Actor) -> None:
        """Write down what is meant, in one write; one that is there under this identifier stays."""

    async def carry_out(self, batch_id: str) -> Meant | None:
        """Make the tasks that are not there yet, in their order, each with its event.

        None when the batch is finished.
        """

    async def finish(self, batch_id: str) -> None:
        """Forget the batch: all of it is there."""

    async def unfinished(self, *, limit: int) -> Sequence[str]:
        """Batches that were accepted a while ago and are not finished, oldest first."""


class Batches(Protocol):
    """Takes batches on."""

    async def submit(
        self, batch_id: str, tasks: Sequence[Planned], actor: Actor
    ) -> Mapping[str, TaskStatus]:
        """Make the tasks, all of them or, when this raises Unavailable before any is there, none.

        Their statuses once they are there and have been told which of their dependencies have
        ended. What a crash or an outage interrupts is carried on by the reaper.
        """
