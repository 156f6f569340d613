"""The hive is paused, drained and resumed as a whole, and shows of what it is made."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from agentzero_client import AsyncClient
from hive.coordination import HiveControl, HiveState
from server import audit_duty, key_expiry, outbox, reaper, recorder, retention, scheduler
from server.hive_gate import HiveGate
from tests.api.running import Api, RunningNode, found

pytestmark = pytest.mark.asyncio(loop_scope="module")
CONTROL = "/api/v1/hive/control"
STATUS = "/api/v1/hive/status"
TOPOLOGY = "/api/v1/hive/topology"
MODULES = (audit_duty, key_expiry, outbox, reaper, recorder, retention, scheduler)
DUTIES = {module.DUTY for module in MODULES}


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def running_hive(admin: Api) -> AsyncIterator[None]:
    """Whatever a test asks of the hive is over behind it."""
    yield
    await admin.ok("POST", CONTROL, json={"action": "resume"})


@pytest.mark.parametrize(("action", "state"), [("pause", "paused"), ("drain", "draining")])
async def test_no_lease_is_granted_until_the_hive_is_resumed(
    node: RunningNode, admin: Api, user: Api, action: str, state: str
) -> None:
    """A claim waits meanwhile, and is answered at once by the resumption."""
    capability = f"gate-{action}"
    agent = await node.add_agent(admin, capabilities=[capability], slots=2)
    running = await user.submit(required_capabilities=[capability])
    lease = await agent.lease(running)
    asked = await admin.ok("POST", CONTROL, json={"action": action, "reason": "maintenance"})
    assert (asked["state"], asked["reason"]) == (state, "maintenance")
    assert asked["running"] >= 1
    task_id = await user.submit(required_capabilities=[capability])
    path = f"/api/v1/agents/{agent.agent_id}/leases"
    assert await agent.api.ok("POST", path, json={}) == []
    claim = asyncio.create_task(agent.api.ok("POST", path, json={"wait_seconds": 20}))
    await agent.api.ok(
        "POST", f"/api/v1/leases/{lease.lease_id}/complete", json={"fence": lease.fence}
    )
    assert (await user.task(running))["status"] == "completed"
    status = await user.ok("GET", STATUS)
    assert (status["state"], status["reason"]) == (state, "maintenance")
    assert not claim.done()
    again = await admin.ok("POST", CONTROL, json={"action": action, "reason": "maintenance"})
    assert again["version"] == asked["version"]
    resumed = await admin.ok("POST", CONTROL, json={"action": "resume"})
    assert resumed["state"] == "running"
    assert "reason" not in resumed
    assert [one["task"]["task_id"] for one in await claim] == [task_id]


async def test_every_decision_is_an_event(admin: Api, viewer: Api) -> None:
    """One event each, in the write of the decision; none for what was so already."""
    tail = int((await admin.ok("GET", STATUS))["event_log"]["seq"])
    for action in ("resume", "pause", "pause", "drain", "resume"):
        await admin.ok("POST", CONTROL, json={"action": action})
    query = {"after": tail, "type": "hive.*"}
    events = await found(
        lambda: viewer.ok("GET", "/api/v1/events", params=query),
        lambda seen: len(seen) >= 3,
        "three events of the hive",
    )
    assert [event["type"] for event in events] == ["hive.paused", "hive.draining", "hive.resumed"]
    assert {event["source"] for event in events} == {STATUS}
    versions = [event["data"]["version"] for event in events]
    assert versions == list(range(versions[0], versions[0] + 3))


async def test_another_node_follows_and_a_restart_changes_nothing(
    node: RunningNode, admin: Api
) -> None:
    """A gate that hears no event learns it from the store within its second."""
    deaf = HiveGate(node.node.store.hive)
    assert await deaf.is_open()
    await admin.ok("POST", CONTROL, json={"action": "pause"})
    paused_at = asked_at = time.monotonic()
    while await deaf.is_open():
        # Who asks later than that is told.
        assert asked_at - paused_at < 1
        await asyncio.sleep(0.01)
        asked_at = time.monotonic()
    assert not await HiveGate(node.node.store.hive).is_open()


async def test_a_late_read_does_not_undo_what_an_event_said(node: RunningNode) -> None:
    """The newer version counts, in whichever order they come."""
    gate = HiveGate(node.node.store.hive)
    opened: list[bool] = []
    gate.on_open(lambda: opened.append(True))
    gate.committed(HiveControl(state=HiveState.PAUSED, version=9_000), "hive.paused")
    assert not await gate.is_open()
    gate.committed(HiveControl(version=8_999), "hive.resumed")
    assert opened == []
    gate.committed(HiveControl(version=9_001), "hive.resumed")
    assert opened == [True]


async def test_topology_counts_agents_queue_and_leaders(
    node: RunningNode, admin: Api, viewer: Api
) -> None:
    """By capability, by set and priority with the oldest age, and by duty with its term."""
    name = f"topology-{uuid.uuid4().hex[:8]}"
    await node.add_agent(admin, capabilities=[name, f"{name}-other"])
    for priority in ("low", "high", "high"):
        await admin.submit(required_capabilities=[name, "b", "a"], priority=priority)
    seen = await viewer.ok("GET", TOPOLOGY)
    use = {each["capability"]: each["agents"] for each in seen["capabilities"]}
    assert use[name] == {"idle": 1, "busy": 0, "paused": 0, "draining": 0, "offline": 0}
    depths = {
        each["priority"]: each for each in seen["queue"] if name in each["required_capabilities"]
    }
    assert {priority: depth["tasks"] for priority, depth in depths.items()} == {"low": 1, "high": 2}
    assert all(0 <= depth["oldest_seconds"] < 60 for depth in depths.values())
    leaders = {each["duty"]: each for each in seen["leaders"]}
    assert {"recorder", "reaper"} <= set(leaders)
    assert leaders["recorder"]["current"]
    assert leaders["recorder"]["term"] >= 1
    (listed,) = [each for each in seen["nodes"] if each["alive"]]
    assert listed["node_id"] == leaders["recorder"]["node_id"]


async def test_topology_names_every_duty_of_a_node(viewer: Api) -> None:
    """What a node says of itself is what its leases say, once it has said it."""
    seen = await found(
        lambda: viewer.ok("GET", TOPOLOGY),
        lambda seen: len(seen["nodes"][0]["duties"]) == len(DUTIES),
        "the node names its duties",
    )
    held = {each["duty"] for each in seen["leaders"] if each["current"]}
    assert set(seen["nodes"][0]["duties"]) == held == DUTIES


async def test_the_python_client_speaks_for_the_hive(node: RunningNode, admin: Api) -> None:
    """Its models take what the hive answers."""
    agent = await node.add_agent(admin)
    task_id = await admin.submit()
    async with AsyncClient(node.url, api_key=str(admin.credential)) as client:
        paused = await client.hive.control("pause", reason="maintenance")
        assert (paused.state, paused.reason) == ("paused", "maintenance")
        assert (await client.hive.status()).state == "paused"
        assert (await client.hive.diagnose(task_id)).cause == "hive-paused"
        waiting = [one async for one in client.hive.diagnoses()]
        assert task_id in {one.task_id for one in waiting}
        assert (await client.hive.control("resume")).state == "running"
        topology = await client.hive.topology()
        assert topology.leaders
        assert await client.hive.rebalance() == []
        drained = await client.agents.control(agent.agent_id, "drain", deadline_seconds=60)
        assert drained.drain_deadline is not None
        receipt = await client.messages.send(agent.agent_id, {"n": 1})
        result = await client.messages.broadcast({"n": 2}, status="draining")
        assert result.sent == result.matched >= 1
        first, second = await client.messages.read(agent.agent_id)
        assert (first.message_id, first.data, second.data) == (
            receipt.message_id,
            {"n": 1},
            {"n": 2},
        )
        await client.messages.acknowledge(agent.agent_id, first.message_id)
        assert await client.messages.read(agent.agent_id) == [second]
