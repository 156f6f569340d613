"""Over REST a completion brings the next lease: one call less for each task."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentzero_client import Agent, AsyncClient, TaskContext
from tests.client.fake_hive import FakeHive, Trouble
from tests.client.test_agent import begun, ended, make_agent


@pytest.fixture(autouse=True)
def _rest_at_once(hive: FakeHive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets are blocked."""
    monkeypatch.setattr("agentzero_client.runtime.attachment.HANDSHAKES_BEFORE_REST", 1)
    hive.blocks_sockets = True


def asked(hive: FakeHive, verb: str) -> list[Any]:
    """The bodies of the requests of a verb."""
    return [body for _, path, body in hive.requests if path.endswith(f"/{verb}")]


def gated(agent: Agent) -> tuple[asyncio.Event, list[int]]:
    """A handler `t` that waits for the event, and how many of it ran at each start."""
    gate, running = asyncio.Event(), [0]

    @agent.task("t")
    async def work(ctx: TaskContext) -> str:
        running.append(running[-1] + 1)
        ctx.progress(0)
        await gate.wait()
        running.append(running[-1] - 1)
        return "done"

    return gate, running


@pytest.mark.parametrize("slots", [1, 3])
async def test_completion_brings_the_next_lease(hive: FakeHive, running: Any, slots: int) -> None:
    """A full agent claims once; what follows comes with its completions, a slot each."""
    agent = make_agent(hive, slots=slots)
    gate, at_once = gated(agent)
    tasks = [hive.add_task("t") for _ in range(4 * slots)]
    async with running(agent):
        for task_id in tasks[:slots]:
            await begun(hive, task_id)
        assert len(asked(hive, "leases")) == 1
        gate.set()
        for task_id in tasks:
            assert (await ended(hive, task_id))["result"] == "done"
            assert hive.tasks[task_id]["attempt"] == 1
        # The second one is for what is free at the end.
        assert len(asked(hive, "leases")) <= 2
    assert all(body["claim_next"] for body in asked(hive, "complete"))
    assert max(at_once) == slots
    assert asked(hive, "release") == []


async def test_agent_that_drains_asks_for_nothing(hive: FakeHive, running: Any) -> None:
    """What it completes then brings nothing; the queue stays as it is."""
    agent = make_agent(hive, slots=1)
    gate, _ = gated(agent)
    async with running(agent) as serving:
        task_id, late = hive.add_task("t"), hive.add_task("t")
        await begun(hive, task_id)
        agent.stop()
        await hive.until(lambda: [b for b in asked(hive, "heartbeat") if b.get("free_slots") == 0])
        gate.set()
        await asyncio.wait_for(serving, 15)
    assert hive.tasks[task_id]["result"] == "done"
    assert "claim_next" not in asked(hive, "complete")[0]
    assert hive.tasks[late]["status"] == "queued"


async def test_next_lease_that_comes_while_draining_is_given_back(
    hive: FakeHive, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drain began while the completion was under way."""
    agent = make_agent(hive, slots=1)
    gate, _ = gated(agent)
    following = hive.following

    def drain_first(body: dict[str, Any]) -> dict[str, Any]:
        agent.stop()
        return following(body)

    monkeypatch.setattr(hive, "following", drain_first)
    async with running(agent) as serving:
        task_id, late = hive.add_task("t"), hive.add_task("t")
        await begun(hive, task_id)
        gate.set()
        await asyncio.wait_for(serving, 15)
    assert hive.tasks[task_id]["result"] == "done"
    assert hive.tasks[late]["status"] in ("queued", "completed")
    assert hive.leases == {}


async def test_server_of_an_earlier_version_is_not_asked_again(
    hive: FakeHive, running: Any
) -> None:
    """It refuses members that it does not know; the result counts all the same."""
    hive.troubles.append(Trouble("POST", "/complete", 400, "invalid-body"))
    agent = make_agent(hive, slots=1)
    agent.task("t")(lambda ctx: "done")
    async with running(agent):
        for task_id in [hive.add_task("t") for _ in range(3)]:
            assert (await ended(hive, task_id))["result"] == "done"
    assert ["claim_next" in body for body in asked(hive, "complete")] == [True, *[False] * 3]


async def test_refused_result_is_still_refused(hive: FakeHive, running: Any) -> None:
    """Without the member, too: then it was the result, and the next completion asks again."""
    hive.troubles.append(Trouble("POST", "/complete", 400, "invalid-body", times=2))
    agent = make_agent(hive, slots=1)
    agent.task("t")(lambda ctx: "done")
    async with running(agent):
        refused = await ended(hive, hive.add_task("t"))
        assert refused["error"]["code"] == "result-refused"
        assert (await ended(hive, hive.add_task("t")))["result"] == "done"
    assert ["claim_next" in body for body in asked(hive, "complete")] == [True, False, True]


async def test_client_completes_and_takes_the_next(hive: FakeHive, client: AsyncClient) -> None:
    """By hand: `next` is there when something was queued."""
    agent = await client.agents.register("a")
    hive.add_task("t")
    second = hive.add_task("t")
    (lease,) = await client.agents.claim(agent.agent_id, wait_seconds=0.5)
    done = await client.leases.complete(lease.lease_id, lease.fence, 1, claim_next=True)
    assert done.next is not None
    assert (done.status, done.next.task.task_id) == ("completed", second)
    last = await client.leases.complete(done.next.lease_id, done.next.fence, claim_next=True)
    assert last.next is None
