"""What time does by itself: leases that expire, cancellations nobody obeys, agents gone silent."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.api.running import Api, RunningNode, found, running_node

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(
    tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str
) -> AsyncIterator[RunningNode]:
    """A node with the shortest periods that the settings allow."""
    periods = {
        "lease_seconds": 1,
        "cancel_grace_seconds": 1,
        "heartbeat_seconds": 0.5,
        "agent_timeout_seconds": 1,
    }
    async with running_node(tmp_path_factory.mktemp("node"), mongodb_uri, **periods) as running:
        yield running


async def test_expired_lease_is_taken_back(node: RunningNode, admin: Api) -> None:
    """Another agent gets the task under a greater fence, and the late one changes nothing."""
    slow = await node.add_agent(admin, capabilities=["expiry"])
    task_id = await admin.submit(required_capabilities=["expiry"])
    lost = await slow.lease(task_id)
    other = await node.add_agent(admin, capabilities=["expiry"])
    lease = await other.lease(task_id)
    assert lease.fence > lost.fence
    response = await lost.send("complete", result="late")
    assert (response.status_code, response.json()["code"]) == (409, "lease-lost")
    await lease.ok("complete", result="in time")
    task = await admin.task(task_id)
    assert (task["attempt"], task["result"]) == (2, "in time")


async def test_last_attempt_that_expires_fails(node: RunningNode, admin: Api) -> None:
    """With `lease-expired`."""
    agent = await node.add_agent(admin, capabilities=["last"])
    task_id = await admin.submit(required_capabilities=["last"], max_attempts=1)
    await agent.lease(task_id)
    task = await admin.task_when(task_id, "failed")
    assert task["error"]["code"] == "lease-expired"


async def test_renewed_lease_does_not_expire(node: RunningNode, admin: Api) -> None:
    """As long as the agent renews, the task stays its own, however long it takes."""
    agent = await node.add_agent(admin, capabilities=["long"])
    task_id = await admin.submit(required_capabilities=["long"])
    lease = await agent.lease(task_id)
    first = (await admin.task(task_id))["lease"]["expires_at"]
    await found(
        lambda: lease.ok("renew"),
        lambda state: state["expires_at"][:19] > first[:19],
        "the lease outlived its first period",
    )
    await lease.ok("complete")


async def test_disobeyed_cancellation_is_enforced(node: RunningNode, admin: Api) -> None:
    """After the grace period the lease is revoked although it is renewed."""
    agent = await node.add_agent(admin, capabilities=["stubborn"])
    task_id = await admin.submit(required_capabilities=["stubborn"])
    lease = await agent.lease(task_id)
    await admin.ok("DELETE", f"/api/v1/tasks/{task_id}")
    lost = await found(
        lambda: lease.send("renew"), lambda answer: answer.status_code == 409, "the lease is lost"
    )
    assert lost.json()["code"] == "lease-lost"
    assert (await admin.task(task_id))["status"] == "cancelled"


async def test_silent_agent_is_offline_until_it_is_heard_of(node: RunningNode, admin: Api) -> None:
    """The status says so, and a heartbeat brings it back."""
    agent = await node.add_agent(admin)
    path = f"/api/v1/agents/{agent.agent_id}"
    await found(
        lambda: admin.ok("GET", path), lambda seen: seen["status"] == "offline", "it is offline"
    )
    assert (await agent.heartbeat())["status"] == "idle"
    assert (await admin.ok("GET", path))["status"] == "idle"


async def test_task_of_an_unregistered_agent_goes_on(node: RunningNode, admin: Api) -> None:
    """Its lease is taken back when it expires, and another agent completes the task."""
    gone = await node.add_agent(admin, capabilities=["orphan"])
    task_id = await admin.submit(required_capabilities=["orphan"])
    await gone.lease(task_id)
    await admin.ok("DELETE", f"/api/v1/agents/{gone.agent_id}")
    other = await node.add_agent(admin, capabilities=["orphan"])
    await (await other.lease(task_id)).ok("complete")
    assert (await admin.task(task_id))["status"] == "completed"
