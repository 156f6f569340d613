"""Tasks that depend on each other: in which order they come, and what can't be.

Everything here is pure, iterative and linear in tasks and edges: however deep, or however tangled,
a submission is, it is looked at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

MOST_EDGES: Final = 10_000
"""Dependencies of all tasks of one batch together, and edges of one graph that is shown."""

CYCLE_SHOWN: Final = 10
ROOT: Final = "/tasks"


@dataclass(frozen=True, slots=True)
class Wish:
    """One task of a batch, as far as others are concerned.

    `key` is its name within the batch, `depends_on` are such names, `dependencies` identifiers of
    tasks that exist.
    """

    key: str | None = None
    depends_on: tuple[str, ...] = ()
    dependencies: tuple[str, ...] = ()

    @property
    def edges(self) -> int:
        """How many tasks it waits for."""
        return len(self.depends_on) + len(self.dependencies)


@dataclass(frozen=True, slots=True)
class Flaw:
    """Why the task at `index` of a batch can't be made; `pointer` names the place in the body."""

    index: int
    pointer: str
    code: str
    detail: str


FLAWS: Final[Mapping[str, str]] = {
    "duplicate-key": "another task of the batch has this key",
    "unknown-key": "no task of the batch has this key",
    "dependency-not-found": "no task of this identifier exists",
    "duplicate-dependency": "it depends on the same task twice",
    "dependency-cycle": "tasks wait for each other; the detail names one circle of them",
    "dependency-refused": "it depends on a task of the batch that can't be made",
    "not-in-a-batch": "it has a deduplication key",
    "invalid": "its body asks for what can't be, such as a time that does not exist",
}
"""Every code of a flaw, and what it says."""

NO_FLAWS: Final[Mapping[int, Flaw]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Order:
    """The tasks of a batch that can be made, each behind those that it depends on.

    `waits_for` has the local dependencies of each task by index. `flaws` has one flaw for each task
    that can't be made, by index.
    """

    order: tuple[int, ...]
    waits_for: tuple[tuple[int, ...], ...]
    flaws: Mapping[int, Flaw]


def arrange(
    wishes: Sequence[Wish], known: Collection[str], given: Mapping[int, Flaw] = NO_FLAWS
) -> Order:
    """Put the tasks of a batch in order. `known` are the identifiers of tasks that exist.

    A task that depends on one that can't be made can't be made either. `given` are flaws that were
    found before.
    """
    flaws = dict(given)
    places = _places(wishes, flaws)
    for index, wish in enumerate(wishes):
        if index not in flaws and (flaw := _unknown(index, wish, places, known)) is not None:
            flaws[index] = flaw
    waits_for = tuple(
        tuple(places[key] for key in wish.depends_on if key in places) for wish in wishes
    )
    order = topological(waits_for)
    if len(order) < len(wishes):
        _flaw_cycles(wishes, waits_for, set(order), flaws)
    # In order: a flaw reaches everything behind it in one pass.
    for index in order:
        bad = next((n for n in range(len(waits_for[index])) if waits_for[index][n] in flaws), None)
        if bad is not None and index not in flaws:
            flaws[index] = Flaw(
                index,
                f"{ROOT}/{index}/depends_on/{bad}",
                "dependency-refused",
                f"The task {wishes[index].depends_on[bad]!r}, on which it depends, can't be made.",
            )
    made = tuple(index for index in order if index not in flaws)
    return Order(made, waits_for, flaws)


def topological(waits_for: Sequence[Sequence[int]]) -> list[int]:
    """The indexes, each behind those that it waits for; those in and behind a cycle are left out.

    Among those that are free at the same time, the given order stays.
    """
    left = [len(set(each)) for each in waits_for]
    behind: list[list[int]] = [[] for _ in waits_for]
    for index, each in enumerate(waits_for):
        for before in set(each):
            behind[before].append(index)
    free = deque(index for index, count in enumerate(left) if not count)
    order = []
    while free:
        index = free.popleft()
        order.append(index)
        for after in behind[index]:
            left[after] -= 1
            if not left[after]:
                free.append(after)
    return order


def find_cycle(waits_for: Sequence[Sequence[int]], among: Collection[int]) -> list[int]:
    """One cycle among these, which all wait for another one of these. In the order of waiting."""
    inside = set(among)
    index = min(inside)
    seen: dict[int, int] = {}
    path: list[int] = []
    while index not in seen:
        seen[index] = len(path)
        path.append(index)
        index = next(before for before in waits_for[index] if before in inside)
    return path[seen[index] :]


def depths(waits_for: Mapping[str, Collection[str]]) -> list[list[str]]:
    """The names in layers: those of a layer wait only for names of the layers before it.

    What waits for a cycle is left out.
    """
    names = list(waits_for)
    places = {name: place for place, name in enumerate(names)}
    edges = [[places[one] for one in waits_for[name] if one in places] for name in names]
    depth = [0] * len(names)
    layers: list[list[str]] = []
    for place in topological(edges):
        depth[place] = 1 + max((depth[before] for before in edges[place]), default=-1)
        if depth[place] == len(layers):
            layers.append([])
        layers[depth[place]].append(names[place])
    return layers


def _places(wishes: Sequence[Wish], flaws: dict[int, Flaw]) -> dict[str, int]:
    places: dict[str, int] = {}
    for index, wish in enumerate(wishes):
        if wish.key is None:
            continue
        if wish.key in places:
            flaws[index] = Flaw(
                index,
                f"{ROOT}/{index}/key",
                "duplicate-key",
                f"The key {wish.key!r} is that of the task at {ROOT}/{places[wish.key]}, too.",
            )
        else:
            places[wish.key] = index
    return places


def _unknown(
    index: int, wish: Wish, places: Mapping[str, int], known: Collection[str]
) -> Flaw | None:
    """What is wrong with the names that a task depends on, if anything."""
    for member, names, found, code, what in (
        ("depends_on", wish.depends_on, places, "unknown-key", "of this key is in the batch"),
        ("dependencies", wish.dependencies, known, "dependency-not-found", "exists to depend on"),
    ):
        seen: set[str] = set()
        for number, name in enumerate(names):
            pointer = f"{ROOT}/{index}/{member}/{number}"
            if name not in found:
                return Flaw(index, pointer, code, f"No task {name!r} {what}.")
            if name in seen:
                detail = "A task can't depend on the same task twice."
                return Flaw(index, pointer, "duplicate-dependency", detail)
            seen.add(name)
    return None


def _flaw_cycles(
    wishes: Sequence[Wish],
    waits_for: Sequence[Sequence[int]],
    ordered: Collection[int],
    flaws: dict[int, Flaw],
) -> None:
    """Flaw what is in or behind a cycle; the words name one cycle, which all of them can see."""
    inside = {index for index in range(len(wishes)) if index not in ordered}
    cycle = find_cycle(waits_for, inside)
    shown = [f"{ROOT}/{index}" for index in [*cycle, cycle[0]]]
    if len(shown) > CYCLE_SHOWN:
        shown = [*shown[: CYCLE_SHOWN - 1], f"({len(cycle) - CYCLE_SHOWN + 1} more)", shown[-1]]
    detail = f"The tasks wait for each other: {' -> '.join(shown)}."
    for index in sorted(inside - flaws.keys()):
        bad = next(n for n, before in enumerate(waits_for[index]) if before in inside)
        pointer = f"{ROOT}/{index}/depends_on/{bad}"
        flaws[index] = Flaw(index, pointer, "dependency-cycle", detail)
