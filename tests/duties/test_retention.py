"""What is old goes, and nothing that somebody still needs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from hive import agents as agent_machine
from hive import task_machine as machine
from hive.errors import Unavailable
from hive.tasks import TaskStatus
from server import retention as duty
from server.cancelling import cancel_and_wait
from server.releaser import Releaser
from server.retention import Retention
from storage.mongo.logs import MongoTaskLogs
from storage.mongo.retention import MongoOldData
from tests.duties.recording import recording
from tests.servers import eventually
from tests.storage.store import ME, Store, proof_of

DAYS = 30


def _ago(days: float) -> dict[str, Any]:
    return {"$subtract": ["$$NOW", round(days * 86_400_000)]}


def _old_data(store: Store, *, retired_seconds: float = 0.0) -> MongoOldData:
    return MongoOldData(store.database, retired_seconds=retired_seconds)


async def _recorded(store: Store) -> None:
    """Say that the log has everything: as the recorder's checkpoint an hour from now does."""
    found = await store.database.client.admin.command("hello")
    ahead = found["$clusterTime"]["clusterTime"].time + 3600
    token = {"_data": f"82{ahead:08X}00000001"}
    await store.database["leaders"].update_one(
        {"_id": "recorder"}, {"$set": {"checkpoint": {"token": token}}}, upsert=True
    )


async def _ended(store: Store, days: float, **fields: Any) -> str:
    """A task with a log line that completed so long ago."""
    task, proof = await store.running("agt_1", **fields)
    await store.logs.append(proof, [{"level": "info", "message": "x"}], ME, agent_id=None)
    await store.complete(proof)
    await store.sweeps.released([task.task_id])
    await store.set_fields(task.task_id, {"ended_at": _ago(days)})
    return task.task_id


async def _ids(store: Store, collection: str, field: str = "_id") -> Sequence[str]:
    return sorted(await store.database[collection].distinct(field))


async def test_old_tasks_go_with_their_lines_and_young_ones_stay(store: Store) -> None:
    """Older than the retention and ended: both are needed."""
    await _recorded(store)
    await _ended(store, DAYS + 1)
    young = await _ended(store, DAYS - 1)
    waiting = await store.submit()
    await store.set_fields(waiting.task_id, {"created_at": _ago(DAYS + 1)})
    await Retention(_old_data(store), task_days=DAYS).turn()
    assert await _ids(store, "tasks") == sorted([young, waiting.task_id])
    assert await _ids(store, "task_logs", "task_id") == [young]


async def test_retention_of_no_days_keeps_tasks_for_ever(store: Store) -> None:
    """0 is no retention, not one that takes all."""
    await _recorded(store)
    old = await _ended(store, 10_000)
    await Retention(_old_data(store), task_days=0).turn()
    assert await _ids(store, "tasks") == [old]


async def test_more_than_a_page_goes_in_one_turn(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks that are kept don't hide those behind them; equal times lose nobody."""
    monkeypatch.setattr(duty, "PAGE", 2)
    monkeypatch.setattr(duty, "PAUSE_SECONDS", 0.0)
    await _recorded(store)
    needed = [await _ended(store, DAYS + 9) for _ in range(2)]
    dependent = await store.submit(None, *needed)
    for _ in range(5):
        await _ended(store, DAYS + 1)
    await store.database["tasks"].update_many(
        {"_id": {"$nin": needed}, "status": "completed"}, [{"$set": {"ended_at": _ago(DAYS + 1)}}]
    )
    await Retention(_old_data(store), task_days=DAYS).turn()
    assert await _ids(store, "tasks") == sorted([*needed, dependent.task_id])


async def test_what_is_not_in_the_log_is_not_deleted(store: Store) -> None:
    """Without a recorder there is no event; with it there is one, and the task goes."""
    await _ended(store, DAYS + 1)
    retention = Retention(_old_data(store), task_days=DAYS)
    await retention.turn()
    assert len(await _ids(store, "tasks")) == 1
    async with recording(store) as recorder:
        await recorder.until(1)
    await _recorded(store)
    await retention.turn()
    assert await _ids(store, "tasks") == []
    assert "task.completed" in await store.database["events"].distinct("type")


async def test_what_something_unended_depends_on_stays(store: Store) -> None:
    """Also when the dependent was told long ago; its end sets the other one free."""
    await _recorded(store)
    first = await _ended(store, DAYS + 1)
    second = await store.submit(None, first)
    await store.set_fields(second.task_id, {"waiting_on": []})
    retention = Retention(_old_data(store), task_days=DAYS)
    await retention.turn()
    assert await _ids(store, "tasks") == sorted([first, second.task_id])
    await store.tasks.change(second.task_id, machine.cancel, ME)
    await retention.turn()
    assert await _ids(store, "tasks") == [second.task_id]


async def test_a_retired_task_cannot_be_depended_upon(store: Store) -> None:
    """It is read for another hour, and a submission that names it finds nothing."""
    await _recorded(store)
    old = await _ended(store, DAYS + 1)
    await Retention(_old_data(store, retired_seconds=3600), task_days=DAYS).turn()
    assert (await store.tasks.get(old)).status is TaskStatus.COMPLETED
    assert await store.tasks.statuses([old]) == {}


async def test_a_task_that_came_while_its_dependency_was_retired_is_told(store: Store) -> None:
    """It had looked before, and was written after: the dependency stays and releases it."""
    await _recorded(store)
    old = await _ended(store, DAYS + 1)
    patient = Retention(_old_data(store, retired_seconds=3600), task_days=DAYS)
    await patient.turn()
    late = await store.submit(None, old)
    await Releaser(store.tasks, store.sweeps).settle(late)
    assert (await store.tasks.get(late.task_id)).status is TaskStatus.BLOCKED
    await Retention(_old_data(store), task_days=DAYS).turn()
    releaser = Releaser(store.tasks, store.sweeps)
    await releaser.release(dict(await store.sweeps.release_pending(limit=10)))
    assert (await store.tasks.get(late.task_id)).status is TaskStatus.QUEUED
    assert await store.tasks.statuses([old]) == {old: TaskStatus.COMPLETED}


async def test_a_task_that_ran_again_is_young_again(store: Store) -> None:
    """A mark from before a retry by hand does not delete what ended just now."""
    await _recorded(store)
    old = await _ended(store, DAYS + 1)
    await Retention(_old_data(store, retired_seconds=3600), task_days=DAYS).turn()
    await store.set_fields(old, {"ended_at": {"$add": ["$retired_at", 1]}})
    await Retention(_old_data(store, retired_seconds=-60), task_days=DAYS).turn()
    assert await _ids(store, "tasks") == [old]
    assert "retired_at" not in await store.document(old)


async def test_tombstones_go_after_a_week(store: Store) -> None:
    """An agent that is there stays, however old."""
    await _recorded(store)
    agents = [await store.register() for _ in range(3)]
    for agent in agents[:2]:
        await store.agents.change(agent.agent_id, agent_machine.unregister, ME)
    await store.database["agents"].update_one(
        {"_id": agents[0].agent_id}, [{"$set": {"deleted_at": _ago(8)}}]
    )
    await Retention(_old_data(store), task_days=DAYS).turn()
    assert await _ids(store, "agents") == [agent.agent_id for agent in agents[1:]]


async def test_the_duty_goes_on_after_an_outage(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is away ends a turn, not the duty."""
    monkeypatch.setattr(duty, "TURN_SECONDS", 0.01)
    old, turns = _old_data(store), [Unavailable()]
    delete = old.delete_tombstones
    done: list[int] = []

    async def delete_tombstones(*, limit: int) -> int:
        if turns:
            raise turns.pop()
        done.append(await delete(limit=limit))
        return done[-1]

    monkeypatch.setattr(old, "delete_tombstones", delete_tombstones)
    work = asyncio.create_task(Retention(old, task_days=DAYS).work(1))
    await eventually(lambda: done, "another turn")
    await cancel_and_wait(work)


async def test_old_lines_of_a_long_log_are_dropped_and_counted(store: Store) -> None:
    """The newest stay under their numbers; those of other tasks are left alone."""
    logs = MongoTaskLogs(store.database, store.tasks, keep=10)
    _, other = await store.running("agt_1")
    await logs.append(other, [{"level": "info", "message": "other"}], ME, agent_id=None)
    task, proof = await store.running("agt_1")
    for number in range(8):
        lines = [{"level": "info", "message": f"{number} {index}"} for index in range(3)]
        await logs.append(proof, lines, ME, agent_id=None)
    kept = await logs.read(task.task_id, after=0, limit=100)
    assert [line.line for line in kept] == list(range(15, 25))
    assert await logs.dropped(task.task_id) == 14
    assert (await store.tasks.get(task.task_id)).log_count == 24
    assert await logs.dropped(other.lease_id) == 0
    assert await store.database["task_logs"].count_documents({"message": "other"}) == 1
    assert proof_of(await store.tasks.get(task.task_id)) == proof
