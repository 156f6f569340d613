"""The queue over the wire: who gets which task, and when."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.api.running import Agent, Api, RunningNode, running_node

pytestmark = pytest.mark.asyncio(loop_scope="module")
AT_ONCE = {"kind": "fixed", "base_seconds": 0, "jitter": 0}


@pytest.fixture
def capability() -> str:
    """A capability that only this test's agents and tasks have."""
    return f"cap-{uuid.uuid4().hex[:8]}"


@pytest_asyncio.fixture(loop_scope="module")
async def worker(node: RunningNode, admin: Api, capability: str) -> Agent:
    """An agent that has the capability, with four slots."""
    return await node.add_agent(admin, capabilities=[capability], slots=4)


async def test_what_orders_the_queue_comes_back(user: Api) -> None:
    """Everything that was asked for is in the task."""
    asked: dict[str, Any] = {
        "concurrency": {"key": "k", "limit": 64, "strategy": "cancel-oldest"},
        "fairness": {"key": "tenant 1", "weight": 3},
        "agent_labels": {"required": {"zone": "eu"}, "preferred": {"disk": "ssd"}},
        "sticky": {"task_id": "tsk_other", "seconds": 2.5},
    }
    task = await user.task(await user.submit(**asked))
    asked["agent_labels"]["head_start_seconds"] = 1
    assert {name: task[name] for name in asked} == asked


@pytest.mark.parametrize(
    "wrong",
    [
        {"fairness": {"key": "k", "weight": 0}},
        {"fairness": {"weight": 1}},
        {"agent_labels": {"required": {"a.b": "1"}}},
        {"sticky": {"seconds": 3601}},
        {"concurrency": {"key": "k", "limit": 1, "strategy": "cancel"}},
    ],
    ids=["weight", "no key", "label", "seconds", "strategy"],
)
async def test_what_the_queue_does_not_know_is_refused(user: Api, wrong: dict[str, Any]) -> None:
    """By the contract, before anything is written."""
    await user.refused(400, "POST", "/api/v1/tasks", json={"name": "work", **wrong})


async def test_required_labels_decide_who_gets_the_task(
    node: RunningNode, user: Api, admin: Api, capability: str, worker: Agent
) -> None:
    """All of them, besides the capabilities; labels may have more."""
    abroad = await node.add_agent(
        admin, capabilities=[capability], labels={"zone": "us&x=1", "disk": "ssd"}
    )
    task_id = await user.submit(
        required_capabilities=[capability], agent_labels={"required": {"zone": "us&x=1"}}
    )
    assert await worker.claim() == []
    await abroad.lease(task_id)


async def test_preferred_agents_come_first_and_others_when_the_head_start_is_over(
    node: RunningNode, user: Api, admin: Api, capability: str, worker: Agent
) -> None:
    """A claim that waits is served at the end of it, without any other event."""
    needs = {"required_capabilities": [capability]}
    at_home = await node.add_agent(admin, capabilities=[capability], labels={"zone": "eu"})
    preferred = {"preferred": {"zone": "eu"}, "head_start_seconds": 3600}
    task_id = await user.submit(**needs, agent_labels=preferred)
    assert await worker.claim() == []
    lease = await at_home.lease(task_id)
    await lease.ok("complete")
    waiting = asyncio.ensure_future(worker.claim(wait_seconds=10))
    brief = {"preferred": {"zone": "mars"}, "head_start_seconds": 0.2}
    task_id = await user.submit(**needs, agent_labels=brief)
    assert [lease["task"]["task_id"] for lease in await waiting] == [task_id]


async def test_a_task_sticks_to_the_agent_of_another(
    node: RunningNode, user: Api, admin: Api, capability: str, worker: Agent
) -> None:
    """Also when that one ends only after the task was submitted."""
    other = await node.add_agent(admin, capabilities=[capability])
    needs = {"required_capabilities": [capability]}
    first = await user.submit(**needs)
    second = await user.submit(
        **needs, dependencies=[first], sticky={"task_id": first, "seconds": 3600}
    )
    lease = await worker.lease(first)
    await lease.ok("complete")
    await user.task_when(second, "queued")
    assert await other.claim() == []
    await worker.lease(second)


async def test_an_attempt_sticks_to_the_agent_of_the_last(
    node: RunningNode, user: Api, admin: Api, capability: str, worker: Agent
) -> None:
    """Another agent gets nothing meanwhile."""
    other = await node.add_agent(admin, capabilities=[capability])
    task_id = await user.submit(
        required_capabilities=[capability], backoff=AT_ONCE, sticky={"seconds": 3600}
    )
    lease = await worker.lease(task_id)
    await lease.ok("fail", error={"code": "x", "message": "x"})
    assert await other.claim() == []
    assert (await worker.lease(task_id)).fence == 2


async def test_the_newest_is_cancelled_over_the_limit(user: Api) -> None:
    """At once, and with its reason; a place that is free again is given again."""
    concurrency = {"key": uuid.uuid4().hex, "limit": 1, "strategy": "cancel-newest"}
    kept = await user.submit(concurrency=concurrency)
    refused = await user.task(await user.submit(concurrency=concurrency))
    assert (refused["status"], refused["reason"]) == ("cancelled", "concurrency")
    assert "ended_at" in refused
    await user.ok("DELETE", f"/api/v1/tasks/{kept}")
    assert (await user.task(await user.submit(concurrency=concurrency)))["status"] == "queued"


async def test_the_oldest_is_cancelled_over_the_limit(
    user: Api, capability: str, worker: Agent
) -> None:
    """One that waits at once; one that runs is asked to stop, and the new one runs after it."""
    concurrency = {"key": uuid.uuid4().hex, "limit": 1, "strategy": "cancel-oldest"}
    asked = {"required_capabilities": [capability], "concurrency": concurrency}
    running = await worker.lease(await user.submit(**asked))
    waiting = await user.submit(**asked)
    last = await user.submit(**asked)
    superseded = await user.task(waiting)
    assert (superseded["status"], superseded["reason"]) == ("cancelled", "concurrency")
    assert (await user.task(running.task_id))["cancel_requested"] is True
    assert await worker.claim() == []
    await running.ok("release")
    stopped = await user.task(running.task_id)
    assert (stopped["status"], stopped["reason"]) == ("cancelled", "concurrency")
    await worker.lease(last)


async def test_completing_takes_the_next_lease(user: Api, capability: str, worker: Agent) -> None:
    """When there is one; without being asked, none is taken."""
    needs = {"required_capabilities": [capability]}
    first, second, third = [await user.submit(**needs) for _ in range(3)]
    lease = await worker.lease(first)
    completed = await lease.ok("complete", result=1, claim_next=True)
    assert (completed["task_id"], completed["status"]) == (first, "completed")
    following = completed["next"]
    assert following["task"]["task_id"] == second
    path = f"/api/v1/leases/{following['lease_id']}/complete"
    plain = await worker.api.ok("POST", path, json={"fence": following["fence"]})
    assert "next" not in plain
    last = await worker.lease(third)
    assert "next" not in await last.ok("complete", claim_next=True)


async def test_a_completion_that_is_refused_takes_nothing(
    user: Api, capability: str, worker: Agent
) -> None:
    """The next task stays where it is."""
    needs = {"required_capabilities": [capability]}
    first, second = [await user.submit(**needs) for _ in range(2)]
    lease = await worker.lease(first)
    await lease.ok("release")
    again = await worker.lease(first)
    refused = await lease.send("complete", claim_next=True)
    assert refused.status_code == 409
    assert (await user.task(second))["status"] == "queued"
    await again.ok("complete")


@pytest_asyncio.fixture(loop_scope="module")
async def impatient(tmp_path: Path, mongodb_uri: str) -> AsyncIterator[RunningNode]:
    """A node where a level of priority is worth nothing."""
    async with running_node(tmp_path, mongodb_uri, priority_age_seconds=0) as node:
        yield node


async def test_without_an_age_the_oldest_comes_first(impatient: RunningNode) -> None:
    """Whatever its priority: the setting reaches the queue."""
    admin = await impatient.log_in("admin")
    worker = await impatient.add_agent(admin, capabilities=["any"])
    needs = {"required_capabilities": ["any"]}
    first = await admin.submit(**needs, priority="low")
    await admin.submit(**needs, priority="critical")
    await worker.lease(first)
