"""The order of tasks that depend on each other, for any tangle of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive.batches import BatchMode, BatchRefused, TooManyEdges, named, plan, read_batch
from hive.dag import CYCLE_SHOWN, Wish, arrange, depths, find_cycle, topological
from hive.graphs import Edge, Graph, Node, leaves_first
from hive.tasks import TaskStatus

SIZES = st.integers(min_value=1, max_value=12)


@st.composite
def tangles(draw: st.DrawFn, *, acyclic: bool = False) -> list[list[int]]:
    """For each of some tasks those that it waits for: with cycles, or without."""
    size = draw(SIZES)
    waits_for = []
    for index in range(size):
        most = index if acyclic else size
        before = st.integers(min_value=0, max_value=max(0, most - 1))
        waits_for.append(draw(st.lists(before, max_size=min(4, most), unique=True)))
    return waits_for


def wishes(waits_for: list[list[int]]) -> list[Wish]:
    """The tasks of a tangle, by keys."""
    return [Wish(f"k{i}", tuple(f"k{b}" for b in each)) for i, each in enumerate(waits_for)]


@given(tangles(acyclic=True), st.randoms(use_true_random=False))
def test_without_a_cycle_every_task_is_behind_what_it_waits_for(
    waits_for: list[list[int]], chance: object
) -> None:
    """Whatever the order in which they were given."""
    places = list(range(len(waits_for)))
    chance.shuffle(places)  # type: ignore[attr-defined]
    shuffled: list[list[int]] = [[] for _ in places]
    for index, each in enumerate(waits_for):
        shuffled[places[index]] = [places[before] for before in each]
    order = topological(shuffled)
    assert sorted(order) == sorted(places)
    at = {index: n for n, index in enumerate(order)}
    assert all(at[before] < at[index] for index in order for before in shuffled[index])


@given(tangles())
def test_what_is_left_out_is_in_or_behind_a_cycle(waits_for: list[list[int]]) -> None:
    """The rest can be put in order, and what is left out waits for something left out."""
    order = topological(waits_for)
    out = set(range(len(waits_for))) - set(order)
    assert all(set(waits_for[index]).isdisjoint(out) for index in order)
    assert all(set(waits_for[index]) & out for index in out)
    if out:
        cycle = find_cycle(waits_for, out)
        assert len(set(cycle)) == len(cycle)
        following = [*cycle[1:], cycle[0]]
        assert all(b in waits_for[a] for a, b in zip(cycle, following, strict=True))


@given(tangles())
def test_each_task_is_made_or_has_one_flaw(waits_for: list[list[int]]) -> None:
    """Those that are made wait only for those that are made."""
    arranged = arrange(wishes(waits_for), ())
    made = set(arranged.order)
    assert made.isdisjoint(arranged.flaws)
    assert made | arranged.flaws.keys() == set(range(len(waits_for)))
    assert all(set(arranged.waits_for[index]) <= made for index in made)
    assert all(flaw.index == index for index, flaw in arranged.flaws.items())
    assert {flaw.code for flaw in arranged.flaws.values()} <= {"dependency-cycle"}


def test_a_flaw_reaches_whatever_is_behind_it() -> None:
    """And nothing else; the pointer names the dependency."""
    batch = [Wish("a", ("gone",)), Wish("b", ("c", "a")), Wish("c"), Wish(None, ("b",))]
    arranged = arrange(batch, ())
    assert arranged.order == (2,)
    assert {index: (flaw.code, flaw.pointer) for index, flaw in arranged.flaws.items()} == {
        0: ("unknown-key", "/tasks/0/depends_on/0"),
        1: ("dependency-refused", "/tasks/1/depends_on/1"),
        3: ("dependency-refused", "/tasks/3/depends_on/0"),
    }


def test_a_long_chain_and_a_long_cycle_take_no_recursion() -> None:
    """As deep as a batch can be; a long cycle is named in part."""
    size = 20_000
    chain = [[index - 1] if index else [] for index in range(size)]
    assert topological(chain) == list(range(size))
    cycle = wishes([[(index + 1) % size] for index in range(size)])
    flaws = arrange(cycle, ()).flaws
    assert len(flaws) == size
    assert flaws[5].detail.count("/tasks/") == CYCLE_SHOWN
    assert f"({size - CYCLE_SHOWN + 1} more)" in flaws[5].detail


@given(tangles(acyclic=True))
def test_layers_hold_what_waits_for_earlier_layers_only(waits_for: list[list[int]]) -> None:
    """And each task stands as early as it can."""
    layers = depths({f"k{i}": [f"k{b}" for b in each] for i, each in enumerate(waits_for)})
    at = {name: n for n, layer in enumerate(layers) for name in layer}
    for index, each in enumerate(waits_for):
        assert at[f"k{index}"] == max((at[f"k{before}"] + 1 for before in each), default=0)


def test_leaves_come_first() -> None:
    """What waits for a task is cancelled before it."""
    nodes = {name: Node(name, name, TaskStatus.BLOCKED, "me") for name in "abcd"}
    pairs = ("ab", "ac", "bd", "cd", "ad")
    graph = Graph(9, nodes, {Edge(pair[0], pair[1]): None for pair in pairs})
    layers = [[node.task_id for node in layer] for layer in leaves_first(graph)]
    assert layers == [["d"], ["b", "c"], ["a"]]


def test_a_plan_gives_identifiers_along_the_dependencies() -> None:
    """A task that completed before is a dependency, but is not waited for."""
    bodies: list[dict[str, Any]] = [
        {"name": "last", "depends_on": ["first"], "dependencies": ["tsk_done", "tsk_open"]},
        {"name": "first", "key": "first"},
    ]
    wanted = read_batch(bodies)
    found = {"tsk_done": TaskStatus.COMPLETED, "tsk_open": TaskStatus.RUNNING}
    assert named(wanted) == ["tsk_done", "tsk_open"]
    numbers = iter(range(9))
    made = plan(
        wanted, found, "me", BatchMode.ALL_OR_NOTHING, lambda kind: f"{kind}_{next(numbers)}"
    )
    assert made.task_ids == {1: "tsk_0", 0: "tsk_1"}
    assert [one.task_id for one in made.tasks] == ["tsk_0", "tsk_1"]
    fields = made.tasks[1].change.fields
    assert fields["dependencies"] == ["tsk_0", "tsk_done", "tsk_open"]
    assert fields["waiting_on"] == ["tsk_0", "tsk_open"]


def test_all_or_nothing_and_best_effort_differ_in_what_a_flaw_does() -> None:
    """Refused as a whole, with every flaw; or in part."""
    wanted = read_batch([{"name": "good"}, {"name": "bad", "depends_on": ["nobody"]}])
    with pytest.raises(BatchRefused) as refused:
        plan(wanted, {}, "me", BatchMode.ALL_OR_NOTHING, str)
    assert [flaw.pointer for flaw in refused.value.flaws] == ["/tasks/1/depends_on/0"]
    made = plan(wanted, {}, "me", BatchMode.BEST_EFFORT, lambda _: "tsk_1")
    assert (made.task_ids, set(made.flaws)) == ({0: "tsk_1"}, {1})


def test_a_batch_has_a_bound_of_dependencies_together() -> None:
    """What was meant has to fit into one document."""
    names = [f"tsk_{n}" for n in range(10_000)]
    assert len(read_batch([{"name": "x", "dependencies": names}])) == 1
    with pytest.raises(TooManyEdges) as refused:
        read_batch([{"name": "x", "dependencies": names}, {"name": "y", "depends_on": ["x"]}])
    assert refused.value.pointer == "/tasks"
