"""How tasks are tried again: budget, heartbeat, late results and retries by hand."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.api.running import Agent, Api, Lease, RunningNode, found, running_node

pytestmark = pytest.mark.asyncio(loop_scope="module")
# Longer than any test here holds a lease, and short: a new reaper waits so long.
LEASE_SECONDS = 4.0
NO_DELAY = {"kind": "fixed", "base_seconds": 0, "jitter": 0}
FLAKY = {"error": {"code": "flaky", "message": "not this time"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(
    tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str
) -> AsyncIterator[RunningNode]:
    """The product, with leases that are soon over."""
    directory = tmp_path_factory.mktemp("node")
    async with running_node(directory, mongodb_uri, lease_seconds=LEASE_SECONDS) as running:
        yield running


@pytest.fixture
def capability() -> str:
    """A capability that only this test's agents and tasks have."""
    return f"cap-{uuid.uuid4().hex[:8]}"


@pytest_asyncio.fixture(loop_scope="module")
async def worker(node: RunningNode, admin: Api, capability: str) -> Agent:
    """An agent that has the capability."""
    return await node.add_agent(admin, capabilities=[capability], slots=4)


async def leased(user: Api, worker: Agent, capability: str, **task: Any) -> Lease:
    """A new task in the hands of the worker."""
    task_id = await user.submit(required_capabilities=[capability], backoff=NO_DELAY, **task)
    return await worker.lease(task_id)


async def failed(user: Api, worker: Agent, capability: str, **task: Any) -> str:
    """A task of which the only attempt failed."""
    lease = await leased(user, worker, capability, **{"max_attempts": 1, **task})
    await lease.ok("fail", **FLAKY)
    return lease.task_id


async def events_of(user: Api, task_id: str, last: str) -> list[dict[str, Any]]:
    """The events of a task, once one of this type is among them."""
    return await found(
        lambda: user.pages(f"/api/v1/events?subject={task_id}"),
        lambda seen: any(event["type"] == last for event in seen),
        f"{last} of {task_id}",
    )


@pytest.mark.parametrize(
    ("task", "error", "why"),
    [
        ({"max_attempts": 1}, {}, "attempts-used"),
        ({}, {"retryable": False}, "not-retryable"),
        ({"non_retryable": ["flaky"]}, {}, "not-retryable"),
        ({"retry_seconds": 0}, {}, "budget-used"),
    ],
    ids=["attempts", "the agent says so", "the task says so", "budget"],
)
async def test_a_failed_task_says_why_it_is_not_tried_again(
    user: Api, worker: Agent, capability: str, task: dict[str, Any], error: Any, why: str
) -> None:
    """In the task, in lists and in its last event, with the error of the last attempt."""
    lease = await leased(user, worker, capability, **task)
    await lease.ok("fail", error={**FLAKY["error"], **error})
    seen = await user.task(lease.task_id)
    assert (seen["status"], seen["retries_ended"]) == ("failed", why)
    assert seen["error"] == FLAKY["error"]
    events = await events_of(user, lease.task_id, "task.failed")
    assert events[-1]["data"]["retries_ended"] == why
    assert "task.retrying" not in {event["type"] for event in events}


async def test_an_attempt_within_the_budget_is_followed_by_another(
    user: Api, worker: Agent, capability: str
) -> None:
    """The budget is shown, and nothing is ended while it lasts."""
    lease = await leased(user, worker, capability, retry_seconds=600)
    assert (await lease.ok("fail", **FLAKY))["status"] == "queued"
    again = await worker.lease(lease.task_id)
    await again.ok("complete")
    task = await user.task(lease.task_id)
    assert (task["status"], task["retry_seconds"]) == ("completed", 600)
    assert "retries_ended" not in task


async def test_a_backoff_beyond_the_budget_ends_the_task_at_once(
    user: Api, worker: Agent, capability: str
) -> None:
    """The next attempt could only begin too late: nobody waits for that."""
    backoff = {"kind": "fixed", "base_seconds": 600, "max_seconds": 900, "jitter": 0}
    task_id = await user.submit(
        required_capabilities=[capability], backoff=backoff, retry_seconds=60
    )
    lease = await worker.lease(task_id)
    assert (await lease.ok("fail", **FLAKY))["status"] == "failed"
    assert (await user.task(task_id))["retries_ended"] == "budget-used"


async def test_a_task_that_waits_too_long_for_another_attempt_ends(
    user: Api, worker: Agent, capability: str
) -> None:
    """Nobody claims it before the budget is over: it fails, and can't be claimed."""
    lease = await leased(user, worker, capability, retry_seconds=1)
    assert (await lease.ok("fail", **FLAKY))["status"] == "queued"
    task = await user.task_when(lease.task_id, "failed")
    assert (task["retries_ended"], task["error"]["code"]) == ("budget-used", "flaky")
    assert await worker.claim() == []


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("renew", {}),
        ("renew", {"progress": {"fraction": 0.5}}),
        ("logs", {"lines": [{"message": "alive"}]}),
    ],
    ids=["renewal", "progress", "log"],
)
async def test_each_sign_of_life_keeps_the_lease(
    user: Api, worker: Agent, capability: str, verb: str, body: dict[str, Any]
) -> None:
    """Renewing, progress and log lines move the end of the lease by the heartbeat."""
    lease = await leased(user, worker, capability, timeouts={"heartbeat_seconds": 20})
    before = (await user.task(lease.task_id))["lease"]["expires_at"]
    await lease.ok(verb, **body)
    assert (await user.task(lease.task_id))["lease"]["expires_at"] > before
    await lease.ok("complete")


async def test_what_its_holder_ended_has_no_late_result(
    user: Api, worker: Agent, capability: str
) -> None:
    """A lease that was given back, or shown with another fence, was not taken back."""
    lease = await leased(user, worker, capability)
    await lease.ok("release")
    await lease.send("complete", result="late")
    again = await worker.lease(lease.task_id)
    await Lease(again.api, again.lease_id, again.fence + 1, lease.task_id).send("complete")
    assert "late_result" not in await user.task(lease.task_id)


async def test_a_failed_task_is_retried_by_hand(user: Api, worker: Agent, capability: str) -> None:
    """With as many attempts again, each time; the number of attempts goes on."""
    task_id = await failed(user, worker, capability, max_attempts=2, non_retryable=["flaky"])
    for attempt in (2, 3):
        receipt = await user.ok("POST", f"/api/v1/tasks/{task_id}/retry")
        assert receipt == {"task_id": task_id, "status": "queued"}
        task = await user.task(task_id)
        assert (task["attempt"], task["max_attempts"]) == (attempt - 1, attempt + 1)
        assert task["reason"] == "retried"
        assert not task.keys() & {"error", "retries_ended", "ended_at"}
        lease = await worker.lease(task_id)
        await lease.ok("fail", **FLAKY)
    events = await events_of(user, task_id, "task.queued")
    queued = [event for event in events if event["type"] == "task.queued"]
    assert [event["data"]["reason"] for event in queued] == ["retried"] * 2


async def test_a_retry_by_hand_has_a_new_budget(user: Api, worker: Agent, capability: str) -> None:
    """Seconds count from the retry; a task with a total timeout does not die of the old one."""
    task_id = await failed(user, worker, capability, retry_seconds=0, max_attempts=3)
    await user.ok("POST", f"/api/v1/tasks/{task_id}/retry")
    await (await worker.lease(task_id)).ok("complete", result=1)
    assert (await user.task(task_id))["status"] == "completed"
    timed = await user.submit(timeouts={"total_seconds": 1})
    await user.task_when(timed, "failed")
    await user.ok("POST", f"/api/v1/tasks/{timed}/retry")
    assert (await user.task_when(timed, "failed"))["retries_ended"] == "timed-out"


async def test_only_a_failed_task_is_retried_and_only_by_those_who_may(
    user: Api, other_user: Api, admin: Api, viewer: Api, worker: Agent, capability: str
) -> None:
    """409 for any other status; its owner and admins; never a version that was not seen."""
    waiting = await user.submit()
    problem = await user.refused(409, "POST", f"/api/v1/tasks/{waiting}/retry")
    assert problem["code"] == "illegal-transition"
    await user.refused(404, "POST", "/api/v1/tasks/tsk_none/retry")
    path = f"/api/v1/tasks/{await failed(user, worker, capability)}/retry"
    for stranger in (other_user, viewer):
        await stranger.refused(403, "POST", path)
    await user.refused(412, "POST", path, headers={"If-Match": '"1"'})
    retried = await asyncio.gather(*(api.post(path) for api in (admin, user, admin)))
    assert sorted(answer.status_code for answer in retried) == [200, 409, 409]


async def test_a_task_is_retried_when_its_dependencies_have_completed(
    user: Api, worker: Agent, capability: str
) -> None:
    """First the one that failed, then those that failed because of it."""
    first = await failed(user, worker, capability)
    second = await user.submit(required_capabilities=[capability], dependencies=[first])
    assert (await user.task(second))["status"] == "failed"
    problem = await user.refused(409, "POST", f"/api/v1/tasks/{second}/retry")
    assert problem["code"] == "dependency-not-ended"
    await user.ok("POST", f"/api/v1/tasks/{first}/retry")
    await user.refused(409, "POST", f"/api/v1/tasks/{second}/retry")
    await (await worker.lease(first)).ok("complete")
    await user.ok("POST", f"/api/v1/tasks/{second}/retry")
    await (await worker.lease(second)).ok("complete")


async def test_a_retry_by_hand_needs_a_free_deduplication_key(
    user: Api, worker: Agent, capability: str
) -> None:
    """While another task holds it, that one is named; afterwards the retried task holds it."""
    deduplication = {"deduplication": {"key": capability}}
    task_id = await failed(user, worker, capability, **deduplication)
    other = await user.submit(**deduplication)
    problem = await user.refused(409, "POST", f"/api/v1/tasks/{task_id}/retry")
    assert (problem["code"], problem["task_id"]) == ("duplicate-task", other)
    assert (await user.task(task_id))["status"] == "failed"
    await user.ok("DELETE", f"/api/v1/tasks/{other}")
    await user.ok("POST", f"/api/v1/tasks/{task_id}/retry")
    body = {"name": "work", **deduplication}
    problem = await user.refused(409, "POST", "/api/v1/tasks", json=body)
    assert problem["task_id"] == task_id


async def test_a_silent_attempt_ends_at_its_heartbeat_timeout(
    user: Api, worker: Agent, capability: str
) -> None:
    """Before the lease period; the agent was told, and the task is tried again at once."""
    task_id = await user.submit(
        required_capabilities=[capability], timeouts={"heartbeat_seconds": 1}
    )
    (lease,) = await worker.claim(wait_seconds=10)
    assert lease["task"]["heartbeat_seconds"] == 1
    assert (await user.task(task_id))["lease"]["expires_at"] == lease["expires_at"]
    task = await user.task_when(task_id, "queued")
    assert task["error"]["code"] == "heartbeat-timeout"
    assert (await worker.lease(task_id)).fence == 2


LATE: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("complete", {"result": {"words": 7}}, {"status": "completed", "result": {"words": 7}}),
    ("complete", {"result": "x" * 65_536}, {"status": "completed", "result_bytes": 65_538}),
    ("fail", FLAKY, {"status": "failed", **FLAKY}),
)


async def test_what_comes_late_is_kept_and_counts_for_nothing(
    user: Api, worker: Agent, capability: str
) -> None:
    """409 as ever; the task shows it with attempt, agent, fence and time, and has its event."""
    silent = {"timeouts": {"heartbeat_seconds": 1}}
    leases = [await leased(user, worker, capability, **silent) for _ in LATE]
    for lease, (verb, body, kept) in zip(leases, LATE, strict=True):
        before = await user.task_when(lease.task_id, "queued")
        response = await lease.send(verb, **body)
        assert (response.status_code, response.json()["code"]) == (409, "lease-lost")
        task = await user.task(lease.task_id)
        late = task.pop("late_result")
        assert late.pop("time") >= before["updated_at"]
        whose = {"attempt": 1, "agent_id": worker.agent_id, "fence": lease.fence}
        assert late == {**whose, **kept}
        changed = {"version": before["version"] + 1, "updated_at": task["updated_at"]}
        assert task == {**before, **changed}
        events = await events_of(user, lease.task_id, "task.late_result")
        assert events[-1]["data"]["status"] == "queued"
        assert "late_result" not in events[-1]["data"]
        # Reported again, by an agent that lost the answer.
        assert (await lease.send(verb, **body)).status_code == 409
        assert (await user.task(lease.task_id))["version"] == task["version"]
