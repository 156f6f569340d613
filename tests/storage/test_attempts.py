"""Attempts on MongoDB: budgets and heartbeats by the database's clock, and late results."""

from __future__ import annotations

from typing import Any

import pytest

from hive import task_machine as machine
from hive.attempts import LateReport
from hive.leases import LeaseProof
from hive.raw_json import RawJson
from hive.task_spec import Backoff, BackoffKind, Concurrency, Timeouts
from hive.tasks import RetriesEnded, TaskError, TaskStatus
from tests.storage.store import ME, Store, proof_of

FLAKY = TaskError("flaky", "x")
AT_ONCE = Backoff(BackoffKind.FIXED, 0.0)
REPORT = LateReport(TaskStatus.COMPLETED, result=RawJson(b"[1]"))


def _from_now(seconds: float) -> dict[str, Any]:
    return {"$add": ["$$NOW", round(seconds * 1000)]}


async def _fail(store: Store, proof: LeaseProof) -> TaskStatus:
    failed = await store.tasks.change_leased(
        proof, lambda task: machine.fail(task, proof, FLAKY, 0.0), ME, agent_id=None
    )
    return failed.status


@pytest.mark.parametrize(
    ("left", "delay", "status"),
    [
        (60, 0, TaskStatus.QUEUED),
        (60, 50, TaskStatus.SCHEDULED),
        (60, 70, TaskStatus.FAILED),
        (-0.1, 0, TaskStatus.FAILED),
    ],
    ids=["at once", "in time", "too late", "over"],
)
async def test_the_next_attempt_has_to_begin_within_the_budget(
    store: Store, left: float, delay: float, status: TaskStatus
) -> None:
    """One change with one event, whichever of the two it is."""
    backoff = Backoff(BackoffKind.FIXED, delay, max_seconds=900, jitter=0.0)
    task, proof = await store.running(retry_seconds=3600, backoff=backoff)
    await store.set_fields(task.task_id, {"retry_deadline": _from_now(left)})
    assert await _fail(store, proof) is status
    now = await store.tasks.get(task.task_id)
    assert now.version == task.version + 1
    is_over = status is TaskStatus.FAILED
    assert now.retries_ended == (RetriesEnded.BUDGET_USED if is_over else None)
    assert ("retry_deadline" in await store.document(task.task_id)) != is_over


async def test_a_budget_that_is_over_lets_no_further_attempt_begin(store: Store) -> None:
    """It can't be claimed, and the sweep finds it; a first attempt is neither kept nor found."""
    task, proof = await store.running(retry_seconds=3600, backoff=AT_ONCE)
    await _fail(store, proof)
    over = {"retry_deadline": _from_now(-0.1)}
    await store.set_fields(task.task_id, over)
    assert await store.claim() is None
    found = await store.sweeps.timed_out(limit=10)
    assert [(task_id, what) for task_id, _, what in found] == [(task.task_id, "retry")]
    await store.tasks.change(task.task_id, lambda t: machine.time_out(t, "retry", 0.0), ME)
    first = await store.submit(retry_seconds=0)
    retried = await store.tasks.change(task.task_id, machine.retry, ME)
    for each in (first, retried):
        await store.set_fields(each.task_id, over)
    assert await store.sweeps.timed_out(limit=10) == []
    claimed = [await store.claim(slot=slot) for slot in (1, 2)]
    assert {each and each.task_id for each in claimed} == {first.task_id, task.task_id}


async def test_a_keyed_task_over_its_budget_is_no_head_of_the_queue(store: Store) -> None:
    """The claimer would ask for it again and again."""
    task, proof = await store.running(
        retry_seconds=3600, backoff=AT_ONCE, concurrency=Concurrency("gpu", 1)
    )
    await _fail(store, proof)
    assert await store.tasks.queue.keyed_head([""], without=[]) == ("gpu", 1)
    await store.set_fields(task.task_id, {"retry_deadline": _from_now(-0.1)})
    assert await store.tasks.queue.keyed_head([""], without=[]) is None


@pytest.mark.parametrize(
    ("heartbeat", "longest"),
    [(None, 30.0), (5.0, 5.0), (300.0, 30.0)],
    ids=["none", "5 s", "300 s"],
)
async def test_a_lease_lasts_as_long_as_the_heartbeat_lets_it(
    store: Store, heartbeat: float | None, longest: float
) -> None:
    """From the grant, a renewal, progress and log lines on: never longer than either."""
    task, proof = await store.running(timeouts=Timeouts(heartbeat_seconds=heartbeat))
    lines = [{"level": "info", "message": "alive"}]
    ends = [task]
    ends.append(await store.tasks.renew(proof, 30.0, agent_id=None))
    ends.append(
        await store.tasks.change_leased(
            proof, lambda t: machine.report_progress(t, proof, {}, 30.0), ME, agent_id=None
        )
    )
    # The first one is an event, the second one is held back.
    ends += [
        await store.logs.append(proof, lines, ME, agent_id=None, seconds=30.0) for _ in range(2)
    ]
    for each in ends:
        assert each.lease is not None
    times = [each.lease.expires_at for each in ends if each.lease]
    assert times == sorted(times)
    assert longest <= (times[0] - task.updated_at).total_seconds() < longest + 0.1
    assert (times[-1] - times[0]).total_seconds() < 4


async def test_what_came_under_a_lease_that_was_taken_back_is_kept(store: Store) -> None:
    """Of the newest fence; its agent's, and an admin's, but nobody else's."""
    task, proof = await store.running("agt_1", max_attempts=3)
    proofs = [proof]
    for agent_id in ("agt_2", "agt_3"):
        await store.tasks.change(task.task_id, lambda t: machine.expire(t, 0.0), ME)
        again = await store.claim(agent_id)
        assert again is not None
        proofs.append(proof_of(again))
    version = (await store.tasks.get(task.task_id)).version

    async def keep(which: int, agent_id: str | None) -> tuple[int, int]:
        await store.tasks.keep_late_result(proofs[which], REPORT, ME, agent_id=agent_id)
        now = await store.tasks.get(task.task_id)
        return now.version - version, now.late_result.fence if now.late_result else 0

    assert await keep(0, "agt_2") == (0, 0)
    assert await keep(2, "agt_3") == (0, 0)
    assert await keep(0, "agt_1") == (1, 1)
    assert await keep(0, "agt_1") == (1, 1)
    assert await keep(1, None) == (2, 2)
    assert await keep(0, "agt_1") == (2, 2)
    wrong = LeaseProof(proofs[0].lease_id, proofs[1].fence)
    await store.tasks.keep_late_result(wrong, REPORT, ME, agent_id=None)
    now = await store.tasks.get(task.task_id)
    assert now.late_result is not None
    assert (now.late_result.attempt, now.late_result.agent_id) == (2, "agt_2")
    assert (now.late_result.result, now.late_result.error) == (RawJson(b"[1]"), None)
    assert now.status is TaskStatus.RUNNING
    (listed,) = await store.tasks.held_by("agt_3")
    assert listed.late_result is None
    await store.complete(proofs[2])
    await store.tasks.keep_late_result(proofs[2], REPORT, ME, agent_id=None)
    assert (await store.tasks.get(task.task_id)).late_result == now.late_result


async def test_an_error_that_came_late_is_kept_whole(store: Store) -> None:
    """Beside a task that was ended for good meanwhile, whose status stays."""
    task, proof = await store.running(max_attempts=1)
    await store.tasks.change(task.task_id, lambda t: machine.expire(t, 0.0), ME)
    report = LateReport(TaskStatus.FAILED, error=FLAKY)
    await store.tasks.keep_late_result(proof, report, ME, agent_id="agt_1")
    now = await store.tasks.get(task.task_id)
    assert now.late_result is not None
    assert (now.late_result.error, now.late_result.result) == (FLAKY, None)
    assert (now.status, now.retries_ended) == (TaskStatus.FAILED, RetriesEnded.ATTEMPTS_USED)
