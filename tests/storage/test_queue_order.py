"""The order of the queue on MongoDB: ageing, fairness, head starts, and strategies under races."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from hive import task_machine as machine
from hive.submission import TaskUpdate, update
from hive.task_spec import (
    AgentLabels,
    Backoff,
    Concurrency,
    ConcurrencyStrategy,
    Fairness,
    Sticky,
    TaskPriority,
)
from hive.tasks import Task, TaskError, TaskStatus
from storage.mongo.fairness import FairTurns
from storage.mongo.queue import FIRST, KEYED, LANES, in_queue
from storage.mongo.queue_places import give_places
from tests.storage.store import ME, Store, proof_of

AGE_MS = 300_000
AT_ONCE = Backoff(base_seconds=0)


async def _waited(store: Store, task: Task, milliseconds: int) -> None:
    """As if the task had been queued so much earlier."""
    await store.set_fields(
        task.task_id, {"queue_order": {"$subtract": ["$queue_order", milliseconds]}}
    )


async def _order(store: Store) -> list[str]:
    """The queued tasks in the order in which they are taken."""
    queued = store.database["tasks"].find({"status": "queued"}, {"_id": True}).sort(FIRST)
    return [row["_id"] async for row in queued]


async def _open(store: Store) -> list[str]:
    found = store.database["tasks"].find(
        {"status": {"$in": ["queued", "running"]}, "cancel_requested": {"$ne": True}}
    )
    return [row["_id"] async for row in found.sort("_id", 1)]


async def test_a_task_that_has_waited_long_enough_is_before_a_more_urgent_one(
    store: Store,
) -> None:
    """A low one after three periods is level with a critical one that has just come."""
    young = await store.submit(priority=TaskPriority.LOW)
    old = await store.submit(priority=TaskPriority.LOW)
    await _waited(store, young, 3 * AGE_MS - 10_000)
    await _waited(store, old, 3 * AGE_MS + 10_000)
    urgent = await store.submit(priority=TaskPriority.CRITICAL)
    assert await _order(store) == [old.task_id, urgent.task_id, young.task_id]


async def test_a_released_task_goes_back_to_its_place_and_a_failed_one_behind(
    store: Store,
) -> None:
    """What is given back was first, and is first again; another attempt waits like a new task."""
    first, second = await store.submit(backoff=AT_ONCE), await store.submit()
    await _waited(store, first, 5_000)
    await _waited(store, second, 2_000)
    for decide, order in (
        (lambda task: machine.release(task, proof_of(task), None), [first, second]),
        (
            lambda task: machine.fail(task, proof_of(task), TaskError("x", "x"), 0.0),
            [second, first],
        ),
    ):
        task = await store.claim()
        assert task is not None
        await store.tasks.change(task.task_id, decide, ME)
        assert await _order(store) == [task.task_id for task in order]


async def test_another_priority_moves_a_queued_task_to_where_it_would_have_been(
    store: Store,
) -> None:
    """It is as old as before: between the two that are as urgent now."""
    before = await store.submit(priority=TaskPriority.HIGH)
    moved = await store.submit(priority=TaskPriority.LOW)
    behind = await store.submit(priority=TaskPriority.HIGH)
    for task, waited in ((before, 3_000), (moved, 2_000), (behind, 1_000)):
        await _waited(store, task, waited)
    assert (await _order(store))[-1] == moved.task_id
    wanted = TaskUpdate(priority=TaskPriority.HIGH)
    await store.tasks.change(moved.task_id, lambda task: update(task, wanted), ME)
    assert await _order(store) == [before.task_id, moved.task_id, behind.task_id]


async def test_a_burst_of_a_thousand_delays_the_next_key_by_a_few_tasks(store: Store) -> None:
    """The thousand take a thousand turns; the single task of another key takes its first."""
    burst = [Fairness("noisy")] * 1_000
    turns = FairTurns(store.database)
    # What a submission does for its key, without a thousand documents.
    taken = [await turns.take(each) for each in burst]
    single = await store.submit(fairness=Fairness("quiet"))
    order = (await store.document(single.task_id))["queue_order"] + AGE_MS
    assert taken == sorted(set(taken))
    ahead = sum(turn <= order for turn in taken)
    # One a second, and it took some seconds to take them all.
    assert ahead <= 1 + (order - taken[0]) / 1_000
    assert ahead < 100


async def test_keys_share_by_their_weights(store: Store) -> None:
    """Of what is taken first, a key of weight 3 has three times as much as one of weight 1."""
    for _ in range(30):
        await asyncio.gather(
            *(store.submit(name=key, fairness=Fairness(key, weight))
              for key, weight in (("one", 1), ("three", 3), ("three", 3), ("three", 3)))
        )  # fmt: skip
    rows = store.database["tasks"].find({}, {"name": True}).sort(FIRST).limit(80)
    taken = Counter([row["name"] async for row in rows])
    assert 16 <= taken["one"] <= 24


async def test_the_turns_of_a_key_are_forgotten_when_they_are_over(store: Store) -> None:
    """The database takes the document of a key away once its last turn is in the past."""
    turns = FairTurns(store.database)
    await turns.prepare()
    last = await turns.take(Fairness("brief", 1_000))
    [row] = await store.database["fairness"].find({"_id": "brief"}).to_list()
    assert 0 <= row["expires_at"].timestamp() * 1_000 - last <= 1_001
    indexes = await store.database["fairness"].index_information()
    assert indexes["expiry"]["expireAfterSeconds"] == 0


async def test_a_key_never_pays_for_more_than_the_horizon(store: Store) -> None:
    """However far ahead its turns are, the next one is within an hour."""
    turns = FairTurns(store.database)
    first = await turns.take(Fairness("huge"))
    await store.database["fairness"].update_one({"_id": "huge"}, {"$inc": {"last": 1e12}})
    assert await turns.take(Fairness("huge")) - first < 3_600_000 + 60_000


@pytest.mark.parametrize("by", ["labels", "task", "attempt"])
async def test_preferred_agents_have_a_head_start_and_no_more(store: Store, by: str) -> None:
    """Others get nothing until it is over, and then the task."""
    ran, _ = await store.running("agt_1", name="ran", backoff=AT_ONCE, sticky=Sticky(seconds=60))
    ways: dict[str, dict[str, Any]] = {
        "labels": {"agent_labels": AgentLabels({}, {"zone": "eu"}, 60)},
        "task": {"sticky": Sticky(ran.task_id, 60)},
    }
    preferring = ways.get(by)
    if preferring:
        await store.submit(**preferring)
    else:
        lost = TaskError("x", "x")
        await store.tasks.change(
            ran.task_id, lambda task: machine.fail(task, proof_of(ran), lost, 0.0), ME
        )
    words = ("gpu=1", "zone=eu")
    assert await store.claim("agt_2", labels=("zone=us",)) is None
    first = await store.claim("agt_1", 2, labels=words if by == "labels" else ())
    assert first is not None
    await store.tasks.change(
        first.task_id, lambda task: machine.release(task, proof_of(first), None), ME
    )
    assert await store.claim("agt_2") is None
    await store.set_fields(first.task_id, {"reserved.until": "$$NOW"})
    assert (await store.claim("agt_2")) is not None


async def test_sticking_to_what_was_never_run_is_no_preference(store: Store) -> None:
    """Neither to a task that waits, nor to one that does not exist."""
    waiting = await store.submit(required_capabilities=("none",))
    for named in (waiting.task_id, "tsk_none"):
        await store.submit(sticky=Sticky(named, 60))
        assert await store.claim(f"agt_{named}") is not None


async def test_a_new_task_over_the_limit_is_turned_away_however_many_come_at_once(
    store: Store,
) -> None:
    """Forty at once for three places: three stay, and each place is given again after its end."""
    newest = Concurrency("k", 3, ConcurrencyStrategy.CANCEL_NEWEST)
    tasks = await asyncio.gather(*(store.submit(concurrency=newest) for _ in range(40)))
    assert Counter(task.status for task in tasks) == {TaskStatus.QUEUED: 3, "cancelled": 37}
    refused = next(task for task in tasks if task.status is TaskStatus.CANCELLED)
    assert (refused.reason, refused.version) == ("concurrency", 1)
    kept = next(task for task in tasks if task.status is TaskStatus.QUEUED)
    await store.tasks.change(kept.task_id, machine.cancel, ME)
    again = [(await store.submit(concurrency=newest)).status for _ in range(2)]
    assert again == [TaskStatus.QUEUED, TaskStatus.CANCELLED]


async def test_the_newest_stay_however_many_come_at_once(store: Store) -> None:
    """Thirty at once for two places: exactly the two newest are left."""
    oldest = Concurrency("k", 2, ConcurrencyStrategy.CANCEL_OLDEST)
    running, _ = await store.running("agt_1", concurrency=oldest)
    tasks = await asyncio.gather(*(store.submit(concurrency=oldest) for _ in range(30)))
    newest = sorted(tasks, key=lambda task: (task.created_at, task.task_id))[-2:]
    assert await _open(store) == sorted(task.task_id for task in newest)
    asked = await store.tasks.get(running.task_id)
    assert (asked.status, asked.cancel_requested) == (TaskStatus.RUNNING, True)
    assert asked.reason == "concurrency"
    assert not await store.database["tasks"].count_documents({"supersede_pending": True})


async def test_what_a_crash_left_standing_is_cancelled_later(store: Store) -> None:
    """A task that was inserted, and whose node died before it looked at the others."""
    oldest = Concurrency("k", 1, ConcurrencyStrategy.CANCEL_OLDEST)
    first = await store.submit(concurrency=oldest)
    second = await store.submit(concurrency=Concurrency("other", 1))
    held = {"key": "k", "limit": 1, "strategy": "cancel-oldest"}
    await store.set_fields(
        second.task_id, {"concurrency": {"$literal": held}, "supersede_pending": True}
    )
    await store.sweeps.supersede(ME, limit=10)
    assert await _open(store) == [second.task_id]
    assert (await store.tasks.get(first.task_id)).reason == "concurrency"
    assert "supersede_pending" not in await store.document(second.task_id)


async def test_the_slots_of_a_dead_agent_go_with_its_lease(store: Store) -> None:
    """Its own slot and the key's: both are free in the write that takes the lease back."""
    await store.running("agt_1", concurrency=Concurrency("k", 1), seconds=-1.0)
    [dead] = await store.sweeps.expired(limit=10)
    assert await store.tasks.queue.key_slots("k") == {1}
    await store.sweeps.expire(dead, lambda task: machine.expire(task, 0.0), ME)
    assert await store.tasks.queue.key_slots("k") == set()
    assert await store.tasks.queue.slots_in_use("agt_1") == set()
    assert await store.claim("agt_1", concurrency=("k", 1)) is not None


async def test_tasks_of_saturated_keys_are_passed_over_in_the_index(store: Store) -> None:
    """Neither a claim without a key nor the look for the next key reads any of them."""
    for _ in range(100):
        await store.submit(concurrency=Concurrency("full", 1))
    await store.submit()
    queued = in_queue([""], "agt_1", ())
    for query, hint in (
        ({**queued, "lane": ""}, LANES),
        ({**queued, "concurrency.key": {"$exists": True, "$nin": ["full"]}}, KEYED),
    ):
        plan: dict[str, Any] = await store.database.command(
            {
                "explain": {
                    "find": "tasks", "filter": query, "sort": dict(FIRST), "limit": 1, "hint": hint,
                },
                "verbosity": "executionStats",
            }
        )  # fmt: skip
        assert "'stage': 'SORT'" not in str(plan["queryPlanner"]["winningPlan"])
        assert plan["executionStats"]["totalDocsExamined"] <= 1


async def test_queues_are_listed_from_the_index_alone(store: Store) -> None:
    """One seek a queue, however long it is."""
    for n in range(60):
        await store.submit(required_capabilities=(f"c{n % 3}",))
    assert sorted(await store.tasks.queue.queued_keys()) == ["c0", "c1", "c2"]
    plan: dict[str, Any] = await store.database.command(
        {
            "explain": {
                "distinct": "tasks", "key": "capability_key", "query": {"status": "queued"},
            },
            "verbosity": "executionStats",
        }
    )  # fmt: skip
    assert plan["executionStats"]["totalDocsExamined"] == 0
    assert plan["executionStats"]["totalKeysExamined"] <= 5


async def test_tasks_of_earlier_versions_get_a_place(store: Store) -> None:
    """By their age and priority, so that they are claimed in the order that they had."""
    tasks = [
        await store.submit(priority=priority)
        for priority in (TaskPriority.LOW, TaskPriority.CRITICAL, TaskPriority.LOW)
    ]
    for task in tasks:
        await store.set_fields(task.task_id, {"lane": "$$REMOVE", "queue_order": "$$REMOVE"})
    assert await store.claim() is None
    await give_places(store.database)
    assert await _order(store) == [tasks[1].task_id, tasks[0].task_id, tasks[2].task_id]
    assert await store.claim() is not None
