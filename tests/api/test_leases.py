"""Leases over the wire: renewed, logged to, completed, failed, released, and lost."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from hive.tasks import Task
from storage.mongo.tasks import MongoTasks
from tests.api.running import Agent, Api, Lease, RunningNode, found

pytestmark = pytest.mark.asyncio(loop_scope="module")
VERBS: dict[str, dict[str, Any]] = {
    "renew": {"progress": {"fraction": 0.9}},
    "logs": {"lines": [{"message": "late"}]},
    "complete": {"result": "late"},
    "fail": {"error": {"code": "late", "message": "late"}},
    "release": {"reason": "late"},
}
NO_DELAY = {"kind": "fixed", "base_seconds": 0, "jitter": 0}


@pytest.fixture
def capability() -> str:
    """A capability that only this test's agents and tasks have."""
    return f"cap-{uuid.uuid4().hex[:8]}"


@pytest_asyncio.fixture(loop_scope="module")
async def worker(node: RunningNode, admin: Api, capability: str) -> Agent:
    """An agent that has the capability."""
    return await node.add_agent(admin, capabilities=[capability])


async def leased(user: Api, worker: Agent, capability: str, **task: Any) -> Lease:
    """A new task in the hands of the worker."""
    task_id = await user.submit(required_capabilities=[capability], **task)
    return await worker.lease(task_id)


async def test_renewing_extends_the_lease(user: Api, worker: Agent, capability: str) -> None:
    """The end moves on; version and event log don't."""
    lease = await leased(user, worker, capability)
    before = await user.task(lease.task_id)
    state = await lease.ok("renew")
    assert state["lease_id"] == lease.lease_id
    assert state["fence"] == lease.fence
    assert state["cancel_requested"] is False
    assert state["expires_at"] > before["lease"]["expires_at"]
    after = await user.task(lease.task_id)
    assert after["lease"]["expires_at"] == state["expires_at"]
    assert after["version"] == before["version"]


async def test_progress_is_seen_and_recorded(user: Api, worker: Agent, capability: str) -> None:
    """Each report is in the task and in the log, complete, also when they differ by little."""
    lease = await leased(user, worker, capability)
    reports = [{"fraction": n / 10, "message": f"step {n}"} for n in range(1, 4)]
    for report in reports:
        await lease.ok("renew", progress=report)
    assert (await user.task(lease.task_id))["progress"] == reports[-1]
    events = await found(
        lambda: user.pages(f"/api/v1/events?subject={lease.task_id}&type=task.progress"),
        lambda seen: len(seen) == 3,
        "three events of progress",
    )
    assert [event["data"]["progress"] for event in events] == reports


async def test_progress_under_a_lease_that_is_lost_at_once_is_refused(
    user: Api, worker: Agent, capability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease was taken back between the write and the answer: 409, not a fault."""
    lease = await leased(user, worker, capability)
    change_leased = MongoTasks.change_leased

    async def too_late(self: MongoTasks, *args: Any, **named: Any) -> Task:
        return replace(await change_leased(self, *args, **named), lease=None)

    with monkeypatch.context() as patched:
        patched.setattr(MongoTasks, "change_leased", too_late)
        response = await lease.send("renew", progress={"fraction": 0.5})
    assert response.status_code == 409, response.text
    assert response.json()["code"] == "lease-lost"
    await lease.ok("complete", result=None)


async def test_log_lines_are_kept_in_order(user: Api, worker: Agent, capability: str) -> None:
    """Lines are numbered from 1, with time, level and attempt; `limit` and `after` select."""
    lease = await leased(user, worker, capability)
    levels = ["debug", "info", "warning", "error"]
    lines = [
        {"message": f"line {n} \u2028 \x1b[31m 😀", "level": level}
        for n, level in enumerate(levels)
    ]
    assert (await lease.ok("logs", lines=lines))["log_count"] == 4
    reply = await lease.ok("logs", lines=[{"message": "the level is info"}])
    assert reply == {"task_id": lease.task_id, "log_count": 5}
    path = f"/api/v1/tasks/{lease.task_id}/logs"
    logs = (await user.ok("GET", path))["logs"]
    assert [line["line"] for line in logs] == [1, 2, 3, 4, 5]
    assert [line["level"] for line in logs] == [*levels, "info"]
    assert [line["message"] for line in logs[:4]] == [line["message"] for line in lines]
    assert {line["attempt"] for line in logs} == {1}

    async def numbers(query: str) -> list[int]:
        return [line["line"] for line in (await user.ok("GET", f"{path}?{query}"))["logs"]]

    assert await numbers("limit=2") == [4, 5]
    assert await numbers("after=0&limit=2") == [1, 2]
    assert await numbers("after=2") == [3, 4, 5]
    assert await numbers("after=5") == []
    assert (await user.task(lease.task_id))["log_count"] == 5


async def test_parallel_appends_number_every_line(
    user: Api, worker: Agent, capability: str
) -> None:
    """Appends at the same time leave no hole and no double."""
    lease = await leased(user, worker, capability)
    await asyncio.gather(
        *(lease.ok("logs", lines=[{"message": f"{n}/{m}"} for m in range(10)]) for n in range(10))
    )
    path = f"/api/v1/tasks/{lease.task_id}/logs?limit=1000"
    logs = (await user.ok("GET", path))["logs"]
    assert [line["line"] for line in logs] == list(range(1, 101))
    assert len({line["message"] for line in logs}) == 100


async def test_completing_ends_the_task(user: Api, worker: Agent, capability: str) -> None:
    """The result is there, the lease is gone, and the agent that ran it is named."""
    lease = await leased(user, worker, capability)
    receipt = await lease.ok("complete", result={"words": 1200})
    assert receipt == {"task_id": lease.task_id, "status": "completed"}
    task = await user.task(lease.task_id)
    assert task["status"] == "completed"
    assert task["result"] == {"words": 1200}
    assert task["agent_id"] == worker.agent_id
    assert "lease" not in task
    assert task["started_at"] <= task["ended_at"]


async def test_completing_again_gives_the_same(user: Api, worker: Agent, capability: str) -> None:
    """A repeated completion is answered alike and changes nothing, even with another result."""
    lease = await leased(user, worker, capability)
    first = await lease.ok("complete", result=1)
    task = await user.task(lease.task_id)
    assert await lease.ok("complete", result=1) == first
    assert await lease.ok("complete", result=2) == first
    assert await user.task(lease.task_id) == task


async def test_parallel_completions_end_it_once(user: Api, worker: Agent, capability: str) -> None:
    """Of many completions at once one counts, and all are told the same."""
    lease = await leased(user, worker, capability)
    receipts = await asyncio.gather(*(lease.ok("complete", result=n) for n in range(8)))
    assert receipts == [receipts[0]] * 8
    events = await found(
        lambda: user.pages(f"/api/v1/events?subject={lease.task_id}"),
        lambda seen: any(event["type"] == "task.completed" for event in seen),
        "the completion is in the log",
    )
    assert [event["type"] for event in events].count("task.completed") == 1


async def test_failure_is_tried_again_with_a_new_fence(
    user: Api, worker: Agent, capability: str
) -> None:
    """Until the attempts are used up; the fence grows, the error is shown."""
    lease = await leased(user, worker, capability, max_attempts=3, backoff=NO_DELAY)
    fences, statuses = [], []
    for attempt in range(1, 4):
        fences.append(lease.fence)
        statuses.append(
            (await lease.ok("fail", error={"code": "flaky", "message": f"no {attempt}"}))["status"]
        )
        if attempt < 3:
            lease = await worker.lease(lease.task_id)
    assert statuses == ["queued", "queued", "failed"]
    assert fences == sorted(set(fences))
    task = await user.task(lease.task_id)
    assert task["attempt"] == 3
    assert task["error"] == {"code": "flaky", "message": "no 3"}
    assert "result" not in task


async def test_backoff_delays_the_next_attempt(user: Api, worker: Agent, capability: str) -> None:
    """A task with a backoff is scheduled for later, not queued."""
    backoff = {"kind": "fixed", "base_seconds": 600, "max_seconds": 900, "jitter": 0}
    lease = await leased(user, worker, capability, backoff=backoff)
    receipt = await lease.ok("fail", error={"code": "flaky", "message": "later"})
    assert receipt["status"] == "scheduled"
    task = await user.task(lease.task_id)
    assert task["run_at"] > task["updated_at"]
    assert task["backoff"] == backoff
    assert await worker.claim() == []


async def test_due_retry_is_claimed_again(user: Api, worker: Agent, capability: str) -> None:
    """When the backoff is over, the task is queued and the waiting agent gets it."""
    backoff = {"kind": "fixed", "base_seconds": 0.1, "jitter": 0}
    lease = await leased(user, worker, capability, backoff=backoff)
    await lease.ok("fail", error={"code": "flaky", "message": "soon"})
    again = await worker.lease(lease.task_id)
    assert again.fence > lease.fence
    assert (await user.task(lease.task_id))["attempt"] == 2


@pytest.mark.parametrize(
    ("error", "task"),
    [
        ({"code": "bad-file", "message": "no", "retryable": False}, {}),
        ({"code": "bad-file", "message": "no"}, {"non_retryable": ["other", "bad-file"]}),
        ({"code": "bad-file", "message": "no"}, {"max_attempts": 1}),
    ],
)
async def test_failure_that_is_final(
    user: Api, worker: Agent, capability: str, error: dict[str, Any], task: dict[str, Any]
) -> None:
    """Not retryable, a code that the task names, or no attempt left: failed at once."""
    lease = await leased(user, worker, capability, **task)
    assert (await lease.ok("fail", error=error))["status"] == "failed"
    assert (await user.task(lease.task_id))["error"] == {"code": "bad-file", "message": "no"}
    # Repeated by a client that lost the answer.
    assert (await lease.ok("fail", error=error))["status"] == "failed"


async def test_release_gives_the_attempt_back(user: Api, worker: Agent, capability: str) -> None:
    """A released task is queued at once and its attempt does not count; the fence still grows."""
    lease = await leased(user, worker, capability)
    receipt = await lease.ok("release", reason="shutting down")
    assert receipt == {"task_id": lease.task_id, "status": "queued"}
    assert (await user.task(lease.task_id))["attempt"] == 0
    again = await worker.lease(lease.task_id)
    assert again.fence > lease.fence
    assert (await user.task(lease.task_id))["attempt"] == 1


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("ending", ["release", "fail", "complete"])
async def test_lost_lease_changes_nothing(
    user: Api, worker: Agent, capability: str, ending: str, verb: str
) -> None:
    """After a lease has ended, every verb is 409 `lease-lost` and the task stays as it is."""
    lease = await leased(user, worker, capability, max_attempts=1)
    await lease.ok(ending, **({"error": {"code": "x", "message": "x"}} if ending == "fail" else {}))
    before = await user.task(lease.task_id)
    response = await lease.send(verb, **VERBS[verb])
    if verb == ending and verb != "release":
        assert response.status_code == 200
    else:
        assert (response.status_code, response.json()["code"]) == (409, "lease-lost")
    assert await user.task(lease.task_id) == before


@pytest.mark.parametrize("verb", VERBS)
async def test_stale_fence_changes_nothing(
    user: Api, worker: Agent, capability: str, verb: str
) -> None:
    """The right lease with another fence is 409, and with an older lease of the task as well."""
    old = await leased(user, worker, capability, max_attempts=5)
    await old.ok("release")
    lease = await worker.lease(old.task_id)
    before = await user.task(lease.task_id)
    stale = [
        Lease(worker.api, lease.lease_id, lease.fence + 1, lease.task_id),
        Lease(worker.api, lease.lease_id, old.fence, lease.task_id),
        Lease(worker.api, old.lease_id, lease.fence, lease.task_id),
        old,
    ]
    for one in stale:
        response = await one.send(verb, **VERBS[verb])
        assert (response.status_code, response.json()["code"]) == (409, "lease-lost")
    assert await user.task(lease.task_id) == before
    assert (await user.ok("GET", f"/api/v1/tasks/{lease.task_id}/logs"))["logs"] == []
    await lease.ok("complete")


@pytest.mark.parametrize("verb", VERBS)
async def test_lease_of_another_agent_does_not_exist(
    node: RunningNode, admin: Api, user: Api, worker: Agent, capability: str, verb: str
) -> None:
    """To another agent a lease is 404, as one that never was; an admin may use it."""
    other = await node.add_agent(admin)
    lease = await leased(user, worker, capability, max_attempts=1)
    before = await user.task(lease.task_id)
    foreign = Lease(other.api, lease.lease_id, lease.fence, lease.task_id)
    never = Lease(other.api, "lse_never", lease.fence, lease.task_id)
    answers = [(await one.send(verb, **VERBS[verb])).json() for one in (foreign, never)]
    assert [answer["code"] for answer in answers] == ["lease-not-found"] * 2
    assert _same(answers[0]) == _same(answers[1])
    assert await user.task(lease.task_id) == before
    await Lease(admin, lease.lease_id, lease.fence, lease.task_id).ok(verb, **VERBS[verb])


async def test_spent_lease_of_another_agent_does_not_exist(
    node: RunningNode, admin: Api, user: Api, worker: Agent, capability: str
) -> None:
    """Whoever never held the lease learns nothing of it, also after it has ended."""
    lease = await leased(user, worker, capability)
    await lease.ok("release")
    other = await node.add_agent(admin, capabilities=[capability])
    theirs = await other.lease(lease.task_id)
    third = await node.add_agent(admin)
    for held in (lease, theirs):
        response = await Lease(third.api, held.lease_id, held.fence, held.task_id).send("renew")
        assert response.status_code == 404, response.text
    # Its holder of then is told that it is lost.
    response = await lease.send("renew")
    assert (response.status_code, response.json()["code"]) == (409, "lease-lost")


async def test_running_task_is_asked_to_stop(user: Api, worker: Agent, capability: str) -> None:
    """Cancelling a running task marks it; its agent learns from the renewal and obeys."""
    lease = await leased(user, worker, capability)
    answer = await user.ok("DELETE", f"/api/v1/tasks/{lease.task_id}")
    assert answer["result"] == {
        "task_id": lease.task_id,
        "status": "running",
        "cancel_requested": True,
    }
    assert (await lease.ok("renew"))["cancel_requested"] is True
    error = {"code": "cancelled", "message": "stopped as asked"}
    assert (await lease.ok("fail", error=error))["status"] == "cancelled"
    task = await user.task(lease.task_id)
    assert (task["status"], task["reason"]) == ("cancelled", "cancelled")


async def test_fences_grow_over_all_attempts(user: Api, worker: Agent, capability: str) -> None:
    """Released, failed and claimed again: no fence of a task comes twice."""
    task_id = await user.submit(
        required_capabilities=[capability], max_attempts=10, backoff=NO_DELAY
    )
    fences = []
    for verb in ("release", "fail", "release", "fail", "complete"):
        lease = await worker.lease(task_id)
        fences.append(lease.fence)
        error = {"error": {"code": "x", "message": "x"}} if verb == "fail" else {}
        await lease.ok(verb, **error)
    assert all(a < b for a, b in itertools.pairwise(fences))


def _same(problem: dict[str, Any]) -> dict[str, Any]:
    """What two refusals have in common when they tell nothing apart."""
    return {k: v for k, v in problem.items() if k not in ("instance", "request_id")}
