"""The end of a task reaches everything that waits on it, whatever is in between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.read_concern import ReadConcern

from hive import task_machine as machine
from hive.errors import Unavailable
from hive.task_spec import DependencyPolicy
from hive.tasks import Task, TaskError, TaskStatus
from server.presence import NodePresence
from server.reaper import Periods, Reaper
from server.releaser import Releaser
from tests.servers import eventually
from tests.storage.store import ME, Store, proof_of

FAIL, SKIP, RUN = DependencyPolicy.FAIL, DependencyPolicy.SKIP_ME, DependencyPolicy.RUN


@pytest.fixture
async def releaser(store: Store) -> AsyncIterator[Releaser]:
    """A releaser at work that is told of each commit."""
    working = Releaser(store.tasks, store.sweeps)
    store.tasks.on_commit(working.committed)
    working.start()
    yield working
    await working.stop()


@pytest.fixture
def statuses(store: Store, mongodb_client: MongoClient[dict[str, Any]]) -> Any:
    """The statuses of tasks, for conditions that can't await."""
    database = mongodb_client[store.database.name]
    # As the store reads: what only the primary has yet is not there for it.
    tasks = database.get_collection("tasks", read_concern=ReadConcern("majority"))

    def look(task_ids: Iterable[str]) -> list[str]:
        wanted = list(task_ids)
        found = {row["_id"]: row["status"] for row in tasks.find({"_id": {"$in": wanted}})}
        return [found[task_id] for task_id in wanted]

    return look


async def _end(store: Store, task: Task, status: TaskStatus) -> None:
    if status is TaskStatus.CANCELLED:
        await store.tasks.change(task.task_id, machine.cancel, ME)
        return
    running = await store.claim(f"agt_{task.task_id}")
    assert running is not None
    assert running.task_id == task.task_id
    proof = proof_of(running)
    error = TaskError("boom", "It broke.", retryable=False)
    await store.tasks.change(
        task.task_id,
        lambda t: (
            machine.complete(t, proof, None)
            if status is TaskStatus.COMPLETED
            else machine.fail(t, proof, error, 0.0)
        ),
        ME,
    )


@pytest.mark.parametrize(
    ("policy", "end", "expected"),
    [
        (FAIL, TaskStatus.COMPLETED, "queued"),
        (FAIL, TaskStatus.FAILED, "failed"),
        (FAIL, TaskStatus.CANCELLED, "failed"),
        (SKIP, TaskStatus.FAILED, "cancelled"),
        (SKIP, TaskStatus.CANCELLED, "cancelled"),
        (RUN, TaskStatus.FAILED, "queued"),
        (RUN, TaskStatus.CANCELLED, "queued"),
    ],
)
async def test_a_diamond_ends_as_its_policy_says(
    store: Store,
    releaser: Releaser,
    statuses: Any,
    policy: DependencyPolicy,
    end: TaskStatus,
    expected: str,
) -> None:
    """Top, two sides, bottom: ends go through both sides; else the bottom waits for them."""
    top = await store.submit()
    sides = [await store.submit(None, top.task_id, on_dependency_failure=policy) for _ in range(2)]
    bottom = await store.submit(
        None, *(side.task_id for side in sides), on_dependency_failure=policy
    )
    await _end(store, top, end)
    side_ids = [side.task_id for side in sides]
    await eventually(lambda: statuses(side_ids) == [expected] * 2, "the sides are told")
    if expected == "queued":
        assert statuses([bottom.task_id]) == ["blocked"]
        return
    await eventually(lambda: statuses([bottom.task_id]) == [expected], "the bottom is told")
    last = await store.tasks.get(bottom.task_id)
    assert last.waiting_on == ()
    if expected == "failed":
        assert last.error is not None
        assert last.error.code == "dependency-failed"
    else:
        assert last.reason == "skipped"


async def test_a_diamond_runs_its_bottom_when_both_sides_are_done(
    store: Store, releaser: Releaser, statuses: Any
) -> None:
    """The last of several dependencies frees it, not the first."""
    sides = [await store.submit() for _ in range(2)]
    bottom = await store.submit(None, *(side.task_id for side in sides))
    await _end(store, sides[0], TaskStatus.COMPLETED)
    await eventually(lambda: releaser._ended == {}, "it is told")
    assert statuses([bottom.task_id]) == ["blocked"]
    await _end(store, sides[1], TaskStatus.COMPLETED)
    await eventually(lambda: statuses([bottom.task_id]) == ["queued"], "the bottom is queued")


async def test_a_long_chain_falls_to_its_end(
    store: Store, releaser: Releaser, statuses: Any
) -> None:
    """Each end tells the next; no depth is too deep."""
    chain = [await store.submit()]
    for _ in range(40):
        chain.append(await store.submit(None, chain[-1].task_id))
    await store.tasks.change(chain[0].task_id, machine.cancel, ME)
    rest = [task.task_id for task in chain[1:]]
    await eventually(lambda: statuses(rest) == ["failed"] * 40, "the whole chain has failed")


async def test_two_hundred_dependents_are_all_told(
    store: Store, releaser: Releaser, statuses: Any
) -> None:
    """More than one batch of them; afterwards nothing is left to release."""
    top = await store.submit()
    waiting = [(await store.submit(None, top.task_id)).task_id for _ in range(210)]
    await _end(store, top, TaskStatus.COMPLETED)
    await eventually(lambda: set(statuses(waiting)) == {"queued"}, "all are queued", 30)
    await eventually(lambda: releaser._ended == {}, "it is done")
    assert await store.sweeps.to_end([top.task_id], list(DependencyPolicy), limit=10) == []


async def test_a_scheduled_task_can_fail_before_its_time(
    store: Store, releaser: Releaser, statuses: Any
) -> None:
    """A dependency that fails decides at once; one that completes only shortens the list."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    top = await store.submit()
    later = [
        await store.submit(None, top.task_id, run_at=tomorrow, on_dependency_failure=policy)
        for policy in (FAIL, RUN)
    ]
    await store.tasks.change(top.task_id, machine.cancel, ME)
    ids = [task.task_id for task in later]
    await eventually(lambda: statuses(ids) == ["failed", "scheduled"], "both are told")
    await eventually(lambda: releaser._ended == {}, "it is done")
    assert (await store.tasks.get(ids[1])).waiting_on == ()


async def test_a_task_is_settled_when_its_dependency_has_ended_meanwhile(store: Store) -> None:
    """Inserted first, looked at second: an end in between is not missed."""
    releaser = Releaser(store.tasks, store.sweeps)
    top = await store.submit()
    await _end(store, top, TaskStatus.COMPLETED)
    late = await store.submit(None, top.task_id)
    assert (await releaser.settle(late)).status is TaskStatus.QUEUED
    other = await store.submit()
    mixed = await store.submit(None, top.task_id, other.task_id)
    settled = await releaser.settle(mixed)
    assert (settled.status, settled.waiting_on) == (TaskStatus.BLOCKED, (other.task_id,))


async def test_a_task_is_settled_although_another_one_is_about_to(store: Store) -> None:
    """Between taking the last dependency off and queueing, the receipt would say `blocked`."""
    top = await store.submit()
    await store.tasks.change(top.task_id, machine.cancel, ME)
    late = await store.submit(None, top.task_id, on_dependency_failure=RUN)
    await store.sweeps.drop_ended([top.task_id], list(DependencyPolicy), limit=10)
    settled = await Releaser(store.tasks, store.sweeps).settle(late)
    assert settled.status is TaskStatus.QUEUED


async def test_what_a_crash_left_between_insert_and_settling_is_found(
    store: Store, statuses: Any
) -> None:
    """Its dependency ended, and was released, before it was there: nobody else would look."""
    top = await store.submit()
    await _end(store, top, TaskStatus.CANCELLED)
    await store.sweeps.released([top.task_id])
    late = [
        (await store.submit(None, top.task_id, on_dependency_failure=policy)).task_id
        for policy in (FAIL, SKIP, RUN)
    ]
    presence = NodePresence(store.agents, store.tasks.queue)
    releaser = Releaser(store.tasks, store.sweeps)
    await Reaper(store.tasks, store.sweeps, presence, releaser, Periods(30, 10, 30)).turn()
    assert statuses(late) == ["failed", "cancelled", "queued"]
    assert await store.sweeps.settle_pending(limit=10) == []


async def test_what_a_crash_left_between_end_and_release_is_found(
    store: Store, statuses: Any
) -> None:
    """The end was written, its dependents were not told: the reaper hands it to the releaser."""
    top = await store.submit()
    waiting = await store.submit(None, top.task_id)
    half_told = await store.submit(None, top.task_id)
    for task in (waiting, half_told):
        await store.sweeps.settled(task.task_id)
    await _end(store, top, TaskStatus.COMPLETED)
    # The other crash: the dependency is off the list, the task was not queued.
    await store.database["tasks"].update_one(
        {"_id": half_told.task_id}, {"$set": {"waiting_on": []}}
    )
    releaser = Releaser(store.tasks, store.sweeps)
    presence = NodePresence(store.agents, store.tasks.queue)
    reaper = Reaper(store.tasks, store.sweeps, presence, releaser, Periods(30, 10, 30))
    releaser.start()
    await reaper.turn()
    both = [waiting.task_id, half_told.task_id]
    await eventually(lambda: statuses(both) == ["queued", "queued"], "both are queued")
    await eventually(lambda: not releaser._ended, "it is done")
    await releaser.stop()
    assert statuses(both) == ["queued", "queued"]


async def test_an_outage_while_releasing_is_made_good_later(
    store: Store, statuses: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark stays until the dependents were told; the releaser goes on working."""
    releaser = Releaser(store.tasks, store.sweeps)
    store.tasks.on_commit(releaser.committed)
    releaser.start()
    outages = [Unavailable(), ValueError("a fault")]
    look = store.sweeps.drop_ended

    async def failing(ended: Any, policies: Any, *, limit: int) -> Any:
        if outages:
            raise outages.pop()
        return await look(ended, policies, limit=limit)

    monkeypatch.setattr(store.sweeps, "drop_ended", failing)
    top = await store.submit()
    waiting = await store.submit(None, top.task_id)
    await _end(store, top, TaskStatus.COMPLETED)
    await eventually(lambda: len(outages) < 2, "it failed")
    assert await store.sweeps.release_pending(limit=10) == [(top.task_id, "completed")]
    releaser.add(top.task_id, TaskStatus.COMPLETED)
    await eventually(lambda: not outages, "it failed again")
    assert await store.sweeps.release_pending(limit=10) == [(top.task_id, "completed")]
    releaser.add(top.task_id, TaskStatus.COMPLETED)
    await eventually(lambda: statuses([waiting.task_id]) == ["queued"], "it is queued")
    await releaser.stop()
