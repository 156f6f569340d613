"""The reaper does what time demands, and is patient when agents could not be heard."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from hive import task_machine as machine
from hive.agents import AgentStatus
from hive.errors import Unavailable
from hive.task_spec import TaskPriority, Timeouts
from hive.tasks import TaskStatus
from server.cancelling import cancel_and_wait
from server.presence import NodePresence
from server.reaper import Periods, Reaper
from server.releaser import Releaser
from tests.servers import eventually
from tests.storage.store import ME, Store

PAST = datetime(2026, 1, 1, tzinfo=UTC)


def _ago(seconds: float) -> dict[str, Any]:
    return {"$subtract": ["$$NOW", round(seconds * 1000)]}


def _reaper(store: Store, lease: float = 30.0) -> Reaper:
    releaser = Releaser(store.tasks, store.sweeps)
    presence = NodePresence(store.agents, store.tasks.queue)
    periods = Periods(lease=lease, grace=5.0, agent_timeout=30.0, turn=0.01)
    return Reaper(store.tasks, store.sweeps, presence, releaser, periods)


async def _until_status(store: Store, task_id: str, status: TaskStatus) -> None:
    deadline = asyncio.get_running_loop().time() + 10
    while (await store.tasks.get(task_id)).status is not status:
        assert asyncio.get_running_loop().time() < deadline, f"{task_id} is not {status}"


async def test_one_turn_does_all_that_is_due(store: Store) -> None:
    """Schedules, grace periods, timeouts, held-back logs and silent agents in one look."""
    due = await store.submit(run_at=PAST)
    blocked = await store.submit(None, "tsk_none", run_at=PAST)
    tired = await store.submit(timeouts=Timeouts(queue_seconds=1))
    await store.set_fields(tired.task_id, {"queued_at": _ago(2)})
    stubborn, proof = await store.running("agt_1", priority=TaskPriority.CRITICAL)
    await store.tasks.change(stubborn.task_id, machine.cancel, ME)
    await store.logs.append(proof, [{"level": "info", "message": "x"}], ME, agent_id=None)
    await store.logs.append(proof, [{"level": "info", "message": "x"}], ME, agent_id=None)
    await store.set_fields(stubborn.task_id, {"cancel_requested_at": _ago(6)})
    silent = await store.register()
    await store.database["agents"].update_one(
        {"_id": silent.agent_id}, [{"$set": {"last_heartbeat_at": _ago(40)}}]
    )
    await _reaper(store).turn()
    ids = [due.task_id, blocked.task_id, tired.task_id, stubborn.task_id]
    assert await store.tasks.statuses(ids) == {
        due.task_id: TaskStatus.QUEUED,
        blocked.task_id: TaskStatus.BLOCKED,
        tired.task_id: TaskStatus.FAILED,
        stubborn.task_id: TaskStatus.CANCELLED,
    }
    assert (await store.agents.get(silent.agent_id)).status is AgentStatus.OFFLINE


async def test_a_new_reaper_takes_no_lease_back_for_one_lease_period(store: Store) -> None:
    """Agents could not renew while nobody was there to hear them; all else goes on."""
    task, _ = await store.running("agt_1", seconds=0.001)
    due = await store.submit(run_at=PAST)
    work = asyncio.create_task(_reaper(store, lease=3600).work(1))
    await _until_status(store, due.task_id, TaskStatus.QUEUED)
    again = await store.submit(run_at=PAST)
    await _until_status(store, again.task_id, TaskStatus.QUEUED)
    await cancel_and_wait(work)
    assert (await store.tasks.get(task.task_id)).status is TaskStatus.RUNNING
    work = asyncio.create_task(_reaper(store, lease=0.05).work(2))
    await _until_status(store, task.task_id, TaskStatus.QUEUED)
    await cancel_and_wait(work)
    taken = await store.tasks.get(task.task_id)
    assert taken.error is not None
    assert taken.error.code == "lease-expired"


async def test_a_reaper_is_patient_again_after_an_outage(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that was away could not take renewals either."""
    reaper = _reaper(store, lease=3600)
    task, _ = await store.running("agt_1", seconds=0.001)
    look, outages = store.sweeps.due, [Unavailable()]

    async def due(*, limit: int) -> Any:
        # Its patience is over by now, and then the store goes away for a moment.
        if outages:
            reaper._patient_until = 0.0
            raise outages.pop()
        return await look(limit=limit)

    monkeypatch.setattr(store.sweeps, "due", due)
    work = asyncio.create_task(reaper.work(1))
    later = await store.submit(run_at=PAST)
    await _until_status(store, later.task_id, TaskStatus.QUEUED)
    again = await store.submit(run_at=PAST)
    await _until_status(store, again.task_id, TaskStatus.QUEUED)
    await cancel_and_wait(work)
    assert outages == []
    assert (await store.tasks.get(task.task_id)).status is TaskStatus.RUNNING


async def test_a_reaper_is_patient_again_after_its_process_was_stopped(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sleep that took far too long means that nobody heard renewals meanwhile."""
    reaper = _reaper(store, lease=3600)
    task, _ = await store.running("agt_1", seconds=0.001)
    ahead = [0.0]

    async def sleep(seconds: float) -> None:
        if not ahead[0]:
            # Longer than the patience of a new reaper.
            ahead[0] = 10_000.0
        await asyncio.sleep(seconds)

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + ahead[0])
    monkeypatch.setattr("server.reaper.time", clock)
    monkeypatch.setattr("server.reaper.asyncio", SimpleNamespace(sleep=sleep))
    work = asyncio.create_task(reaper.work(1))
    await eventually(lambda: ahead[0] > 0, "the process was stopped")
    for _ in range(2):
        later = await store.submit(run_at=PAST)
        await _until_status(store, later.task_id, TaskStatus.QUEUED)
    await cancel_and_wait(work)
    assert (await store.tasks.get(task.task_id)).status is TaskStatus.RUNNING


async def test_what_moved_on_since_the_look_is_left_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timeout that was seen in an earlier version ends nothing; a refusal stops no turn."""
    task = await store.submit(timeouts=Timeouts(queue_seconds=1, total_seconds=3600))
    await store.set_fields(task.task_id, {"queued_at": _ago(2)})
    look = store.sweeps.timed_out

    async def timed_out(*, limit: int) -> Any:
        found = await look(limit=limit)
        assert found == [(task.task_id, 1, "queue")]
        await store.claim("agt_1")
        return [("tsk_none", 1, "queue"), *found]

    monkeypatch.setattr(store.sweeps, "timed_out", timed_out)
    await _reaper(store).turn()
    assert (await store.tasks.get(task.task_id)).status is TaskStatus.RUNNING
