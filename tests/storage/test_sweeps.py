"""What the reaper and the releaser look for: found when it is so by the database's clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hive import task_machine as machine
from hive.task_spec import DependencyPolicy, Timeouts
from hive.tasks import TaskStatus
from tests.storage.store import ME, Store

FUTURE = datetime.now(UTC) + timedelta(days=1)
PAST = datetime(2026, 1, 1, tzinfo=UTC)


def _ago(seconds: float) -> dict[str, Any]:
    return {"$subtract": ["$$NOW", round(seconds * 1000)]}


async def test_due_are_scheduled_tasks_whose_time_has_come(store: Store) -> None:
    """Not those of tomorrow, and none of another status."""
    due = await store.submit(run_at=PAST)
    await store.submit(run_at=FUTURE)
    await store.submit()
    assert await store.sweeps.due(limit=10) == [due.task_id]


async def test_expired_are_leases_that_are_over(store: Store) -> None:
    """A lease that was renewed in time is not among them."""
    over, _ = await store.running("agt_1")
    await store.running("agt_2")
    await store.set_fields(over.task_id, {"lease.expires_at": _ago(0.01)})
    assert await store.sweeps.expired(limit=10) == [over.task_id]


async def test_expire_takes_back_only_what_is_still_over(store: Store) -> None:
    """A renewal between the look and the deed saves the lease; the deed looks again by itself."""
    task, proof = await store.running("agt_1")
    assert await store.sweeps.expire(task.task_id, lambda t: machine.expire(t, 0.0), ME) is None
    assert (await store.tasks.get(task.task_id)).version == task.version
    await store.set_fields(task.task_id, {"lease.expires_at": _ago(0.01)})
    await store.tasks.renew(proof, 30.0, agent_id=None)
    assert await store.sweeps.expire(task.task_id, lambda t: machine.expire(t, 0.0), ME) is None
    await store.set_fields(task.task_id, {"lease.expires_at": _ago(0.01)})
    taken = await store.sweeps.expire(task.task_id, lambda t: machine.expire(t, 0.0), ME)
    assert taken is not None
    assert taken.status is TaskStatus.QUEUED


async def test_unobedient_are_those_who_run_on_after_the_grace(store: Store) -> None:
    """The period counts from the request to stop."""
    task, _ = await store.running("agt_1")
    await store.running("agt_2")
    await store.tasks.change(task.task_id, machine.cancel, ME)
    assert await store.sweeps.unobedient(5.0, limit=10) == []
    await store.set_fields(task.task_id, {"cancel_requested_at": _ago(6)})
    assert await store.sweeps.unobedient(5.0, limit=10) == [task.task_id]


@pytest.mark.parametrize(
    ("what", "running", "since", "timeouts"),
    [
        ("queue", False, {"queued_at": _ago(2)}, Timeouts(queue_seconds=1.5)),
        ("execution", True, {"started_at": _ago(2)}, Timeouts(execution_seconds=1.5)),
        ("total", False, {"total_deadline": _ago(0.1)}, Timeouts(total_seconds=60)),
        ("total", True, {"total_deadline": _ago(0.1)}, Timeouts(total_seconds=60)),
    ],
    ids=["queue", "execution", "total while queued", "total while running"],
)
async def test_each_timeout_is_found_when_it_is_over(
    store: Store,
    what: str,
    running: bool,  # noqa: FBT001 - a column of the table
    since: dict[str, Any],
    timeouts: Timeouts,
) -> None:
    """With the version that was seen, so that one that moved on is left alone; not a day before."""
    await store.submit(timeouts=Timeouts(86_400, 86_400, 86_400))
    if running:
        await store.claim("agt_9")
        task, _ = await store.running("agt_1", timeouts=timeouts)
    else:
        task = await store.submit(timeouts=timeouts)
    assert await store.sweeps.timed_out(limit=10) == []
    await store.set_fields(task.task_id, since)
    assert await store.sweeps.timed_out(limit=10) == [(task.task_id, task.version, what)]


async def test_the_queue_timeout_does_not_run_while_the_task_does(store: Store) -> None:
    """It is about waiting in the queue only."""
    task, _ = await store.running("agt_1", timeouts=Timeouts(queue_seconds=1))
    await store.set_fields(task.task_id, {"queued_at": _ago(100), "started_at": _ago(100)})
    assert await store.sweeps.timed_out(limit=10) == []


async def test_ended_tasks_wait_to_be_released_the_longest_ago_first(store: Store) -> None:
    """Until it is noted that their dependents were told."""
    ended = []
    for seconds in (10, 30, 20):
        task = await store.submit()
        await store.tasks.change(task.task_id, machine.cancel, ME)
        await store.set_fields(task.task_id, {"ended_at": _ago(seconds)})
        ended.append(task.task_id)
    pending = await store.sweeps.release_pending(limit=10)
    assert pending == [(ended[n], TaskStatus.CANCELLED) for n in (1, 2, 0)]
    assert await store.sweeps.release_pending(limit=1) == pending[:1]
    for _ in range(2):
        await store.sweeps.released([ended[1], ended[2]])
        assert [found for found, _ in await store.sweeps.release_pending(limit=10)] == [ended[0]]


async def test_dropping_the_last_dependency_leaves_a_task_to_unblock(store: Store) -> None:
    """No event and no version; dropping it again says that it was not there."""
    task = await store.submit(None, "tsk_a", "tsk_b")
    other = await store.submit(None, "tsk_a")
    ended, policies = ["tsk_a"], list(DependencyPolicy)
    found = await store.sweeps.to_end(ended, policies, limit=10)
    assert [each.task_id for each in found] == [task.task_id, other.task_id]
    assert await store.sweeps.unblocked(limit=10) == []
    dropped = await store.sweeps.drop_ended(ended, policies, limit=10)
    assert dropped == [task.task_id, other.task_id]
    left = await store.tasks.get(task.task_id)
    assert (left.waiting_on, left.version) == (("tsk_b",), 1)
    assert await store.sweeps.drop_ended(ended, policies, limit=10) == []
    assert await store.sweeps.drop_ended(["tsk_b"], [DependencyPolicy.RUN], limit=10) == []
    await store.sweeps.drop_ended(["tsk_b"], policies, limit=10)
    assert await store.sweeps.unblocked(limit=10) == [task.task_id, other.task_id]


async def test_silent_agents_are_those_not_heard_of(store: Store) -> None:
    """Those that are known to be offline are not found again."""
    silent = await store.register()
    await store.register()
    agents = store.database["agents"]
    await agents.update_one({"_id": silent.agent_id}, [{"$set": {"last_heartbeat_at": _ago(40)}}])
    assert await store.sweeps.silent_agents(30.0, limit=10) == [silent.agent_id]
    await store.agents.heard_of(silent.agent_id, controls_taken=None)
    assert await store.sweeps.silent_agents(30.0, limit=10) == []
    await agents.update_one(
        {"_id": silent.agent_id}, [{"$set": {"last_heartbeat_at": _ago(40), "online": False}}]
    )
    assert await store.sweeps.silent_agents(30.0, limit=10) == []


@pytest.mark.parametrize(
    "sweep",
    [
        "due",
        "expired",
        "unobedient",
        "timed_out",
        "release_pending",
        "settle_pending",
        "unblocked",
        "logs",
    ],
)
async def test_no_sweep_reads_the_whole_collection(store: Store, sweep: str) -> None:
    """Sweeps run twice a second for ever: finished and waiting tasks must not cost anything."""
    task = await store.submit(None, "tsk_a", timeouts=Timeouts(5, 5, 5))
    await store.sweeps.settled(task.task_id)
    waiting = dict(await store.document(task.task_id))
    del waiting["total_deadline"]
    await store.tasks.change(task.task_id, machine.cancel, ME)
    await store.sweeps.released([task.task_id])
    ended = await store.document(task.task_id)
    await store.database["tasks"].insert_many({**ended, "_id": f"tsk_x{n}"} for n in range(300))
    await store.database["tasks"].insert_many({**waiting, "_id": f"tsk_y{n}"} for n in range(300))
    await store.database["system.profile"].drop()
    calls = {
        "due": store.sweeps.due(limit=10),
        "expired": store.sweeps.expired(limit=10),
        "unobedient": store.sweeps.unobedient(1.0, limit=10),
        "timed_out": store.sweeps.timed_out(limit=10),
        "release_pending": store.sweeps.release_pending(limit=10),
        "settle_pending": store.sweeps.settle_pending(limit=10),
        "unblocked": store.sweeps.unblocked(limit=10),
        "logs": store.sweeps.announce_logs(ME, limit=10),
    }
    await store.database.command({"profile": 2})
    try:
        for name, call in calls.items():
            if name == sweep:
                await call
            else:
                call.close()
    finally:
        await store.database.command({"profile": 0})
    profiled = store.database["system.profile"].find({"ns": f"{store.database.name}.tasks"})
    examined = [row["docsExamined"] async for row in profiled]
    assert examined
    assert max(examined) == 0
