"""Leases on MongoDB: renewed while current, lost afterwards, unknown to everybody else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from hive import task_machine as machine
from hive.errors import LeaseLost, LeaseNotFound
from hive.leases import LeaseProof
from hive.task_spec import Concurrency
from hive.tasks import Task, TaskError, TaskStatus
from tests.storage.store import ME, Store, proof_of

Report = Callable[[Store, LeaseProof, str | None], Awaitable[Task]]


async def _renew(store: Store, proof: LeaseProof, agent_id: str | None) -> Task:
    return await store.tasks.renew(proof, 60.0, agent_id=agent_id)


async def _complete(store: Store, proof: LeaseProof, agent_id: str | None) -> Task:
    return await store.tasks.change_leased(
        proof, lambda task: machine.complete(task, proof, None), ME, agent_id=agent_id
    )


async def _log(store: Store, proof: LeaseProof, agent_id: str | None) -> Task:
    lines = [{"level": "info", "message": "late"}]
    return await store.logs.append(proof, lines, ME, agent_id=agent_id)


REPORTS: dict[str, Report] = {"renew": _renew, "complete": _complete, "log": _log}
reports = pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)


@reports
@pytest.mark.parametrize("agent_id", ["agt_1", None], ids=["the holder", "anybody"])
async def test_the_current_lease_works(store: Store, report: Report, agent_id: str | None) -> None:
    """For its holder, and for an admin who names no agent."""
    task, proof = await store.running("agt_1")
    assert (await report(store, proof, agent_id)).task_id == task.task_id


@reports
async def test_a_lease_of_somebody_else_is_not_found(store: Store, report: Report) -> None:
    """An agent can't even learn that it exists."""
    task, proof = await store.running("agt_1")
    before = await store.document(task.task_id)
    with pytest.raises(LeaseNotFound):
        await report(store, proof, "agt_2")
    with pytest.raises(LeaseNotFound):
        await report(store, LeaseProof("lse_never", 1), None)
    assert await store.document(task.task_id) == before


@reports
@pytest.mark.parametrize("fence", [0, 2])
async def test_the_wrong_fence_is_a_lost_lease(store: Store, report: Report, fence: int) -> None:
    """Older and newer numbers are refused alike, and nothing changes."""
    task, proof = await store.running("agt_1")
    before = await store.document(task.task_id)
    with pytest.raises(LeaseLost):
        await report(store, LeaseProof(proof.lease_id, fence), "agt_1")
    assert await store.document(task.task_id) == before


@reports
@pytest.mark.parametrize("next_agent", ["agt_1", "agt_2"])
async def test_a_spent_lease_is_lost_whoever_has_the_task_now(
    store: Store, report: Report, next_agent: str
) -> None:
    """A holder that slept gets `lease-lost`, also when it got the same task again."""
    task, proof = await store.running("agt_1")
    await store.tasks.change(task.task_id, lambda t: machine.expire(t, 0.0), ME)
    again = await store.claim(next_agent)
    assert again is not None
    assert again.fence == proof.fence + 1
    before = await store.document(task.task_id)
    with pytest.raises(LeaseLost):
        await report(store, proof, "agt_1")
    assert await store.document(task.task_id) == before
    assert (await report(store, proof_of(again), next_agent)).task_id == task.task_id
    with pytest.raises(LeaseNotFound):
        await report(store, proof, "agt_3")


async def test_renewing_moves_the_end_and_tells_nobody(store: Store) -> None:
    """No version, no event: only the holder can see it."""
    task, proof = await store.running("agt_1", seconds=5.0)
    renewed = await store.tasks.renew(proof, 60.0, agent_id="agt_1")
    assert task.lease is not None
    assert renewed.lease is not None
    assert (renewed.lease.expires_at - task.lease.expires_at).total_seconds() > 50
    assert renewed.version == task.version
    assert renewed.lease.slot == task.lease.slot


async def test_completing_twice_is_completing_once(store: Store) -> None:
    """A retry after a lost answer gets the same task, without a second event."""
    _, proof = await store.running("agt_1")
    first = await _complete(store, proof, "agt_1")
    assert await _complete(store, proof, "agt_1") == first
    assert first.status is TaskStatus.COMPLETED


async def test_a_late_report_of_a_task_that_was_ended_is_lost(store: Store) -> None:
    """The reaper failed the task for good: its last holder is told so, and it stays failed."""
    task, proof = await store.running("agt_1", max_attempts=1)
    await store.tasks.change(task.task_id, lambda t: machine.expire(t, 0.0), ME)
    with pytest.raises(LeaseLost):
        await _complete(store, proof, "agt_1")
    error = TaskError("late", "late")
    with pytest.raises(LeaseLost):
        await store.tasks.change_leased(
            proof, lambda t: machine.fail(t, proof, error, 0.0), ME, agent_id="agt_1"
        )


async def test_a_lease_that_ends_frees_its_slots(store: Store) -> None:
    """The agent's slot and the slot of the concurrency key go with the lease."""
    concurrency = Concurrency("gpu", 1)
    _, proof = await store.running("agt_1", concurrency=concurrency)
    assert await store.tasks.queue.key_slots("gpu") == {1}
    await _complete(store, proof, "agt_1")
    assert await store.tasks.queue.key_slots("gpu") == set()
    assert await store.tasks.held_by("agt_1") == []
    await store.running("agt_1", concurrency=concurrency)
