"""Leases are taken back from agents that are gone, and from drained ones at their deadline."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.api.running import Agent, Api, Lease, RunningNode
from tests.realtime.client import open_socket

pytestmark = pytest.mark.asyncio(loop_scope="module")
REBALANCE = "/api/v1/hive/rebalance"


async def _holder(node: RunningNode, admin: Api, user: Api) -> tuple[Agent, str, Lease]:
    capability = uuid.uuid4().hex[:12]
    agent = await node.add_agent(admin, capabilities=[capability])
    task_id = await user.submit(required_capabilities=[capability])
    return agent, task_id, await agent.lease(task_id)


async def _control(api: Api, agent: Agent, action: str, **more: Any) -> dict[str, Any]:
    path = f"/api/v1/agents/{agent.agent_id}/control"
    return dict(await api.ok("POST", path, json={"action": action, **more}))


async def _deadline_is_over(node: RunningNode, agent: Agent) -> None:
    # Two minutes ago: the database's clock decides.
    over = {"$subtract": ["$$NOW", 120_000]}
    await node.node.store.holders._agents.update_one(
        {"_id": agent.agent_id}, [{"$set": {"drain_deadline": over}}]
    )


async def test_leases_of_offline_agents_are_taken_back_now(
    node: RunningNode, admin: Api, user: Api
) -> None:
    """Each once, and the attempt counts; those of agents that are there stay."""
    gone, task_id, lease = await _holder(node, admin, user)
    _there, other_id, _ = await _holder(node, admin, user)
    await node.node.services.presence.refresh(gone.agent_id, online=False)
    answer = await admin.ok("POST", REBALANCE)
    expected = {"task_id": task_id, "agent_id": gone.agent_id, "reason": "agent-offline"}
    assert answer["taken_back"] == [expected]
    task = await user.task(task_id)
    assert (task["status"], task["attempt"]) == ("queued", 1)
    assert task["error"]["code"] == "lease-expired"
    assert (await user.task(other_id))["status"] == "running"
    path = f"/api/v1/leases/{lease.lease_id}/complete"
    problem = await gone.api.refused(409, "POST", path, json={"fence": lease.fence})
    assert problem["code"] == "lease-lost"
    assert (await admin.ok("POST", REBALANCE))["taken_back"] == []


async def test_the_reaper_takes_back_what_a_drained_agent_still_holds(
    node: RunningNode, admin: Api, user: Api
) -> None:
    """When its deadline is over, and not before; the attempt does not count; the agent is told."""
    agent, task_id, lease = await _holder(node, admin, user)
    path = f"/ws/agents/{agent.agent_id}"
    async with open_socket(node.url, path, token=agent.api.credential) as link:
        proof = {"lease_id": lease.lease_id, "fence": lease.fence}
        await link.send("hello", resume_leases=[proof])
        assert (await link.until("ready"))["resumed"] == [lease.lease_id]
        drained = await _control(admin, agent, "drain", deadline_seconds=3_600)
        assert (drained["status"], "drain_deadline" in drained) == ("draining", True)
        shown = await user.ok("GET", f"/api/v1/agents/{agent.agent_id}")
        assert shown["drain_deadline"] == drained["drain_deadline"]
        assert (await admin.ok("POST", REBALANCE))["taken_back"] == []
        await _deadline_is_over(node, agent)
        cancel = await link.until("cancel")
        told = (cancel["lease_id"], cancel["reason"], cancel["cause"])
        assert told == (lease.lease_id, "lost", "drained")
    task = await user.task_when(task_id, "queued")
    assert (task["attempt"], task["reason"]) == (0, "drained")


async def test_a_task_that_was_to_be_cancelled_is_cancelled_by_the_end_of_the_drain(
    node: RunningNode, admin: Api, user: Api
) -> None:
    """Nobody has to run it again."""
    agent, task_id, _ = await _holder(node, admin, user)
    await user.ok("DELETE", f"/api/v1/tasks/{task_id}")
    await _control(admin, agent, "drain", deadline_seconds=3_600)
    await _deadline_is_over(node, agent)
    await user.task_when(task_id, "cancelled")


async def test_a_deadline_goes_with_the_drain(node: RunningNode, admin: Api, agent: Agent) -> None:
    """Another drain replaces it, resuming ends it, and nothing else has one."""
    first = await _control(admin, agent, "drain", deadline_seconds=60)
    second = await _control(admin, agent, "drain", deadline_seconds=600)
    assert second["drain_deadline"] > first["drain_deadline"]
    assert "drain_deadline" not in await _control(admin, agent, "drain")
    await _control(admin, agent, "drain", deadline_seconds=60)
    assert "drain_deadline" not in await _control(admin, agent, "resume")
    path = f"/api/v1/agents/{agent.agent_id}/control"
    body = {"action": "pause", "deadline_seconds": 60}
    problem = await admin.refused(422, "POST", path, json=body)
    assert problem["code"] == "deadline-of-drain"
