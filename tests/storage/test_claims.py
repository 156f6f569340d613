"""Claims on MongoDB: each task once, in order, and never over a limit that spans documents."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from hive.errors import SlotTaken
from hive.task_spec import Concurrency, TaskPriority, TaskSpec, can_run
from hive.tasks import Task
from storage.mongo.queue import FIRST, LANES, in_queue
from tests.storage.store import Store


async def test_a_hundred_claimers_get_thirty_tasks_once_each(store: Store) -> None:
    """Each task goes to one claimer, with the first fence; seventy claimers get nothing."""
    for _ in range(30):
        await store.submit()
    claimed = await asyncio.gather(*(store.claim(f"agt_{n}") for n in range(100)))
    tasks = [task for task in claimed if task is not None]
    assert len(tasks) == 30
    assert len({task.task_id for task in tasks}) == 30
    assert len({task.lease.lease_id for task in tasks if task.lease}) == 30
    assert {task.fence for task in tasks} == {1}


async def test_the_most_urgent_and_then_the_oldest_comes_first(store: Store) -> None:
    """Across queues of different capabilities, too."""
    for priority in ("low", "high", "medium", "critical", "high", "low"):
        capabilities = ("gpu",) if priority == "high" else ()
        await store.submit(
            TaskSpec(priority, priority=TaskPriority(priority), required_capabilities=capabilities)
        )
    order: list[tuple[str, str]] = []
    while task := await store.claim(f"agt_{len(order)}", capabilities=((), ("gpu",))):
        order.append((task.spec.name, task.task_id))
    assert [name for name, _ in order] == ["critical", "high", "high", "medium", "low", "low"]
    assert order[1] < order[2]
    assert order[4] < order[5]


async def test_an_agent_gets_what_it_can_run_only(store: Store) -> None:
    """Queues are kept by sets of capabilities; a subset of the agent's own will do."""
    for needs in ((), ("gpu",), ("cpu", "gpu"), ("cpu", "tpu")):
        await store.submit(required_capabilities=needs)
    queued = await store.tasks.queue.queued_keys()
    assert sorted(queued) == ["", "cpu|gpu", "cpu|tpu", "gpu"]
    has = frozenset({"cpu", "gpu"})
    keys = tuple(tuple(key.split("|")) if key else () for key in queued if can_run(has, key))
    claimed: list[tuple[str, ...]] = []
    while task := await store.claim(f"agt_{len(claimed)}", capabilities=keys):
        claimed.append(task.spec.required_capabilities)
    assert sorted(claimed) == [(), ("cpu", "gpu"), ("gpu",)]


async def test_a_slot_belongs_to_one_lease(store: Store) -> None:
    """Forty claims for four slots of one agent: four leases; each slot is free again after."""
    for _ in range(40):
        await store.submit()
    outcomes = await asyncio.gather(
        *(store.claim("agt_1", 1 + n % 4) for n in range(40)), return_exceptions=True
    )
    tasks = [task for task in outcomes if isinstance(task, Task)]
    assert Counter(task.lease.slot for task in tasks if task.lease) == {1: 1, 2: 1, 3: 1, 4: 1}
    assert all(isinstance(outcome, SlotTaken | Task) for outcome in outcomes)
    assert [task.task_id for task in await store.tasks.held_by("agt_1")] == [
        task.task_id
        for task in sorted(tasks, key=lambda task: task.lease.slot)  # type: ignore[union-attr]
    ]


async def test_a_refused_slot_leaves_the_task_as_it_is(store: Store) -> None:
    """The task is queued, without a fence spent and without an event."""
    await store.running("agt_1")
    waiting = await store.submit()
    before = await store.document(waiting.task_id)
    with pytest.raises(SlotTaken):
        await store.claim("agt_1", 1)
    assert await store.document(waiting.task_id) == before


async def test_a_concurrency_key_has_as_many_leases_as_its_limit(store: Store) -> None:
    """Thirty claimers of one key with a limit of three: three run."""
    for _ in range(10):
        await store.submit(concurrency=Concurrency("gpu", 3))
    outcomes = await asyncio.gather(
        *(store.claim(f"agt_{n}", concurrency=("gpu", 1 + n % 3)) for n in range(30)),
        return_exceptions=True,
    )
    running = [task for task in outcomes if isinstance(task, Task)]
    assert sorted(task.lease.key_slot or 0 for task in running if task.lease) == [1, 2, 3]
    assert await store.tasks.queue.key_slots("gpu") == {1, 2, 3}


async def test_keyed_and_keyless_claims_never_take_each_others_tasks(store: Store) -> None:
    """Without a key only tasks without one, with a key only tasks of that key."""
    await store.submit(concurrency=Concurrency("$gpu", 1))
    assert await store.claim() is None
    assert await store.claim(concurrency=("other", 1)) is None
    keyed = await store.claim(concurrency=("$gpu", 1))
    assert keyed is not None
    assert keyed.lease is not None
    assert (keyed.lease.key, keyed.lease.key_slot) == ("$gpu", 1)


async def test_the_keyed_head_is_the_most_urgent_task_if_it_has_a_key(store: Store) -> None:
    """Saturated keys are passed over; None once a task without a key is more urgent."""
    for name, priority in (("a", "critical"), ("b", "high"), (None, "medium"), ("c", "low")):
        concurrency = Concurrency(name, 2) if name else None
        await store.submit(concurrency=concurrency, priority=TaskPriority(priority))
    head = store.tasks.queue.keyed_head
    assert await head([""], without=[]) == ("a", 2)
    assert await head([""], without=["a"]) == ("b", 2)
    assert await head([""], without=["a", "b"]) is None
    assert await head(["gpu"], without=[]) is None


async def test_every_grant_has_a_greater_fence(store: Store) -> None:
    """Whoever held the task before has a smaller number, and can be told from the holder."""
    await store.submit()
    fences = []
    for n in range(5):
        task = await store.claim(f"agt_{n}")
        assert task is not None
        assert task.lease is not None
        assert task.lease.fence == task.fence
        fences.append(task.fence)
        await store.set_fields(task.task_id, {"lease": "$$REMOVE", "status": "queued"})
    assert fences == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("keys", [[""], ["", "cpu", "cpu|gpu", "gpu"]], ids=["one", "four"])
async def test_the_claim_reads_the_head_of_the_queue_from_its_index(
    store: Store, keys: list[str]
) -> None:
    """No scan of the collection and no sort in memory: a claim costs one seek a key."""
    for n in range(200):
        needs = tuple(keys[n % len(keys)].split("|")) if keys[n % len(keys)] else ()
        await store.submit(required_capabilities=needs)
    plan: dict[str, Any] = await store.database.command(
        {
            "explain": {
                "findAndModify": "tasks",
                "query": {**in_queue(keys, "agt_1", ()), "lane": ""},
                "sort": dict(FIRST),
                "hint": LANES,
                "update": [{"$set": {"status": "running"}}],
            },
            "verbosity": "executionStats",
        }
    )
    stages = str(plan["queryPlanner"]["winningPlan"])
    assert "'indexName': 'queue_lanes'" in stages
    assert "COLLSCAN" not in stages
    assert "'stage': 'SORT'" not in stages
    assert plan["executionStats"]["totalDocsExamined"] <= len(keys)
