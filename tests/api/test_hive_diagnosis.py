"""A task that waits says why, over the wire: every cause, arranged for real."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from tests.api.running import Api, RunningNode

pytestmark = pytest.mark.asyncio(loop_scope="module")
CONTROL = "/api/v1/hive/control"


@pytest.fixture
def capability() -> str:
    """One that only this test knows."""
    return f"cap-{uuid.uuid4().hex[:12]}"


@pytest_asyncio.fixture(loop_scope="module")
async def running_hive(admin: Api) -> AsyncIterator[None]:
    """The hive is resumed behind the test."""
    yield
    await admin.ok("POST", CONTROL, json={"action": "resume"})


async def _diagnosis(api: Api, task_id: str) -> dict[str, Any]:
    return dict(await api.ok("GET", f"/api/v1/tasks/{task_id}/diagnosis"))


async def test_each_cause_in_the_queue_gives_way_to_the_next(
    node: RunningNode, admin: Api, user: Api, capability: str
) -> None:
    """Nobody can; they are offline; paused; the key is at its limit; no slot; and then it runs."""
    key = {"key": capability, "limit": 1}
    task_id = await user.submit(required_capabilities=[capability], concurrency=key)
    assert (await _diagnosis(user, task_id))["cause"] == "no-capable-agent"

    agent = await node.add_agent(admin, capabilities=[capability], slots=1)
    presence = node.node.services.presence
    await presence.refresh(agent.agent_id, online=False)
    assert (await _diagnosis(user, task_id))["cause"] == "capable-agents-offline"

    await presence.refresh(agent.agent_id, online=True)
    await admin.ok("POST", f"/api/v1/agents/{agent.agent_id}/control", json={"action": "drain"})
    assert (await _diagnosis(user, task_id))["cause"] == "capable-agents-paused"

    await admin.ok("POST", f"/api/v1/agents/{agent.agent_id}/control", json={"action": "resume"})
    assert (await _diagnosis(user, task_id))["cause"] == "not-claimed"

    lease = await agent.lease(task_id)
    running = await _diagnosis(user, task_id)
    assert (running["waits"], running["status"]) == (False, "running")
    assert "cause" not in running
    second = await user.submit(required_capabilities=[capability], concurrency=key)
    limited = await _diagnosis(user, second)
    assert (limited["cause"], limited["concurrency_key"]) == ("concurrency-limit", capability)
    plain = await user.submit(required_capabilities=[capability])
    assert (await _diagnosis(user, plain))["cause"] == "no-free-slot"
    path = f"/api/v1/leases/{lease.lease_id}/complete"
    await agent.api.ok("POST", path, json={"fence": lease.fence})
    assert (await _diagnosis(user, second))["cause"] == "not-claimed"


async def test_what_is_not_queued_says_what_it_waits_for(
    node: RunningNode, admin: Api, user: Api, capability: str
) -> None:
    """A time, other tasks, or the next attempt."""
    run_at = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    later = await user.submit(run_at=run_at)
    seen = await _diagnosis(user, later)
    assert seen["cause"] == "run-at"
    assert seen["run_at"] == (await user.task(later))["run_at"]

    blocked = await user.submit(dependencies=[later])
    seen = await _diagnosis(user, blocked)
    assert (seen["cause"], seen["waiting_on"]) == ("dependency", [later])

    agent = await node.add_agent(admin, capabilities=[capability])
    backoff = {"kind": "fixed", "base_seconds": 600}
    failing = await user.submit(required_capabilities=[capability], backoff=backoff)
    lease = await agent.lease(failing)
    error = {"code": "flaky", "message": "again"}
    path = f"/api/v1/leases/{lease.lease_id}/fail"
    await agent.api.ok("POST", path, json={"fence": lease.fence, "error": error})
    seen = await _diagnosis(user, failing)
    assert (seen["cause"], seen["status"]) == ("backoff", "scheduled")
    assert seen["run_at"] == (await user.task(failing))["run_at"]


@pytest.mark.usefixtures("running_hive")
async def test_a_paused_hive_is_the_cause(admin: Api, user: Api) -> None:
    """Before anything that concerns agents."""
    task_id = await user.submit()
    await admin.ok("POST", CONTROL, json={"action": "pause"})
    assert (await _diagnosis(user, task_id))["cause"] == "hive-paused"


async def test_all_that_waits_is_listed_page_by_page(user: Api, viewer: Api) -> None:
    """The oldest first; what runs or has ended is not there; each agrees with its own diagnosis."""
    made = [await user.submit() for _ in range(3)]
    gone = await user.submit()
    await user.ok("DELETE", f"/api/v1/tasks/{gone}")
    listed = await viewer.pages("/api/v1/hive/diagnosis?limit=2")
    identifiers = [each["task_id"] for each in listed]
    assert identifiers == sorted(identifiers)
    assert identifiers[-3:] == made
    assert gone not in identifiers
    assert all(each["waits"] for each in listed)
    assert await _diagnosis(viewer, made[0]) == listed[-3]
    (shown,) = await viewer.ok("GET", "/api/v1/hive/diagnosis?limit=1&fields=cause")
    assert set(shown) == {"task_id", "name", "status", "version", "created_at", "waits", "cause"}


async def test_an_unknown_task_has_no_diagnosis(user: Api) -> None:
    """404, as for the task itself."""
    problem = await user.refused(404, "GET", "/api/v1/tasks/tsk_none/diagnosis")
    assert problem["code"] == "task-not-found"
