"""Tasks with thousands of dependencies, and with thousands that depend on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bson
import pytest

from hive import task_machine as machine
from hive.batches import Planned
from hive.changes import Actor
from hive.errors import Unavailable
from hive.task_spec import DependencyPolicy, TaskSpec
from hive.tasks import SHOWN_AT_MOST, TaskStatus
from server.batches import NodeBatches
from server.releaser import Releaser
from storage.mongo.batches import MongoBatches
from tests.storage.store import ME, Store

FEW = pytest.param(300, id="few")
MANY = pytest.param(2_000, marks=pytest.mark.more, id="many")
MOST = pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(600)], id="most")


async def add_dependents(store: Store, count: int, *on: str, **fields: Any) -> None:
    """So many tasks that wait for these."""
    spec = TaskSpec("fan", dependencies=on, **fields)
    for start in range(0, count, 100):
        writes = [
            ({"_id": store.new("tsk"), "version": 0}, machine.submit(spec, "usr_me", on))
            for _ in range(start, min(count, start + 100))
        ]
        await store.tasks.resources.save_all(writes, ME, upsert=True)


@pytest.mark.parametrize("size", [FEW, MANY, MOST])
@pytest.mark.parametrize(
    ("policy", "expected"),
    [(DependencyPolicy.FAIL, TaskStatus.QUEUED), (DependencyPolicy.RUN, TaskStatus.QUEUED)],
)
async def test_the_end_of_one_task_reaches_thousands(
    store: Store, size: int, policy: DependencyPolicy, expected: TaskStatus
) -> None:
    """Completed, or failed with dependents that run all the same: each is queued with one event."""
    top = (await store.submit(required_capabilities=("other",))).task_id
    await add_dependents(store, size, top, on_dependency_failure=policy)
    ended = TaskStatus.COMPLETED if policy is DependencyPolicy.FAIL else TaskStatus.FAILED
    await Releaser(store.tasks, store.sweeps).release({top: ended})
    assert (await store.tasks.count_by_status())[expected] == size + 1
    documents = store.database["tasks"].find({"dependencies": top}, {"event": 1, "version": 1})
    async for document in documents:
        assert document["version"] == 2
        assert document["event"]["v2"]["type"] == "task.queued"


@pytest.mark.parametrize("size", [FEW, MANY, MOST])
async def test_thousands_of_ends_free_one_task(store: Store, size: int) -> None:
    """In one part after the other; its events and what lists show stay small."""
    names = tuple(f"tsk_{number:026d}" for number in range(size))
    task = await store.submit(TaskSpec("fan", dependencies=names), *names)
    document = await store.document(task.task_id)
    assert len(document["waiting_on"]) == size
    assert len(bson.encode(document["event"])) < 20_000
    assert document["event"]["v1"]["data"]["dependency_count"] == size
    assert len(document["event"]["v1"]["data"]["waiting_on"]) == SHOWN_AT_MOST
    releaser = Releaser(store.tasks, store.sweeps)
    for start in range(0, size, 1_000):
        part = names[start : start + 1_000]
        await releaser.release(dict.fromkeys(part, TaskStatus.COMPLETED))
    freed = await store.tasks.get(task.task_id)
    assert (freed.status, freed.waiting_on, freed.version) == (TaskStatus.QUEUED, (), 2)


async def test_a_batch_that_was_interrupted_is_carried_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first part of it MongoDB went away: the rest comes later, nothing comes twice."""
    accepted = MongoBatches(store.database, store.tasks)
    batches = NodeBatches(accepted, store.tasks, Releaser(store.tasks, store.sweeps))
    names = [f"tsk_{number}" for number in range(9)]
    planned = [Planned(name, machine.submit(TaskSpec("x"), "usr_me", ())) for name in names]
    make, parts = accepted._make, []

    async def make_once(tasks: Sequence[Any], actor: Actor) -> None:
        parts.append(len(tasks))
        if len(parts) == 2:
            raise Unavailable
        await make(tasks, actor)

    monkeypatch.setattr("storage.mongo.batches.CHUNK", 4)
    monkeypatch.setattr(accepted, "_make", make_once)
    with pytest.raises(Unavailable):
        await batches.submit("bat_2", planned, ME)
    assert len(await store.tasks.statuses(names)) == 4
    await age(store, "bat_2")
    await batches.carry_on(limit=10)
    assert parts == [4, 4, 4, 4, 1]
    assert {(await store.tasks.get(name)).version for name in names} == {1}
    assert await store.database["batches"].count_documents({"_id": "bat_2"}) == 0


async def age(store: Store, batch_id: str) -> None:
    """Let nobody have been heard of the batch for a minute."""
    await store.database["batches"].update_one(
        {"_id": batch_id}, [{"$set": {"accepted_at": {"$subtract": ["$$NOW", 60_000]}}}]
    )


async def test_a_batch_that_nobody_attends_is_finished(store: Store) -> None:
    """Accepted, and then nothing: the reaper makes it once it is old enough, and forgets it."""
    accepted = MongoBatches(store.database, store.tasks)
    batches = NodeBatches(accepted, store.tasks, Releaser(store.tasks, store.sweeps))
    first = ("tsk_a",)
    planned = [
        Planned("tsk_a", machine.submit(TaskSpec("a"), "usr_me", ())),
        Planned("tsk_b", machine.submit(TaskSpec("b", dependencies=first), "usr_me", first)),
    ]
    for _ in range(2):
        await accepted.accept("bat_1", planned, ME)
    await batches.carry_on(limit=10)
    assert await store.tasks.statuses(["tsk_a", "tsk_b"]) == {}
    await age(store, "bat_1")
    await batches.carry_on(limit=10)
    statuses = await store.tasks.statuses(["tsk_a", "tsk_b"])
    assert statuses == {"tsk_a": TaskStatus.QUEUED, "tsk_b": TaskStatus.BLOCKED}
    assert await accepted.carry_out("bat_1") is None
    assert await store.sweeps.settle_pending(limit=10) == []
    await accepted.accept("bat_1", planned, ME)
    assert (await batches.submit("bat_1", planned, ME)) == statuses
    assert (await store.tasks.get("tsk_a")).version == 1
