"""How an agent stays attached: reconnects, repeated reports, REST where sockets are blocked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentzero_client import Agent, AgentStoppedError, TaskContext
from tests.client.fake_hive import FakeHive, Trouble
from tests.client.test_agent import ended, make_agent, sent


async def test_broken_link_is_resumed_with_its_leases(hive: FakeHive, running: Any) -> None:
    """The handler does not notice."""
    agent = make_agent(hive)
    finish = asyncio.Event()

    @agent.task("t")
    async def work(ctx: TaskContext) -> str:
        await finish.wait()
        return "done"

    async with running(agent):
        task_id = hive.add_task("t")
        await hive.until(lambda: hive.tasks[task_id]["status"] == "running")
        hive.abort_links()
        await hive.until(lambda: len(sent(hive, "hello")) == 2 and hive.links)
        (lease_id,) = hive.leases
        assert sent(hive, "hello")[1]["resume_leases"] == [{"lease_id": lease_id, "fence": 1}]
        finish.set()
        assert (await ended(hive, task_id))["result"] == "done"
    assert hive.tasks[task_id]["attempt"] == 1


async def test_restarted_server_gets_the_result_of_work_that_went_on(
    hive: FakeHive, running: Any
) -> None:
    """A handler that ends while the server is away keeps its result until it can be told."""
    agent = make_agent(hive)
    finish, finished = asyncio.Event(), asyncio.Event()

    @agent.task("t")
    async def work(ctx: TaskContext) -> str:
        await finish.wait()
        finished.set()
        return "done"

    async with running(agent):
        task_id = hive.add_task("t")
        await hive.until(lambda: hive.tasks[task_id]["status"] == "running")
        await hive.stop()
        finish.set()
        await finished.wait()
        await hive.start()
        assert (await ended(hive, task_id))["result"] == "done"
    assert len([e for e in hive.events if e["type"] == "task.completed"]) == 1


async def test_server_that_is_away_does_not_count_as_blocked(hive: FakeHive, running: Any) -> None:
    """Handshakes fail during a restart, too: the socket is taken again, not REST."""
    agent = make_agent(hive)
    agent.task("t")(lambda ctx: "done")
    async with running(agent):
        await hive.until(lambda: hive.links)
        address = (hive.port, "127.0.0.1")
        await hive.stop()
        # Whoever knocks meanwhile is turned away at the door, several times.
        knocks = 0
        several = asyncio.Event()

        def turn_away(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal knocks
            knocks += 1
            writer.close()
            if knocks >= 6:
                several.set()

        door = await asyncio.start_server(turn_away, address[1], address[0])
        async with asyncio.timeout(20):
            await several.wait()
        door.close()
        await door.wait_closed()
        await hive.start()
        await hive.until(lambda: hive.links)
    assert [path for _, path, _ in hive.requests if path.endswith("/leases")] == []


@pytest.mark.parametrize("kind", ["complete", "fail", "release"])
async def test_report_without_an_answer_is_repeated(
    hive: FakeHive, running: Any, kind: str
) -> None:
    """It counted, the answer was lost: told again it changes nothing, and the slot is free."""
    agent = make_agent(hive, slots=1)

    @agent.task("t")
    async def work(ctx: TaskContext) -> str:
        if kind == "fail":
            raise ValueError("no")
        if kind == "release":
            await ctx.until_cancelled()
            ctx.raise_if_cancelled()
        return "done"

    agent.task("next")(lambda ctx: "fine")
    hive.swallows = {kind}
    async with running(agent):
        task_id = hive.add_task("t")
        if kind == "release":
            await hive.until(lambda: hive.tasks[task_id]["status"] == "running")
            hive.cancel(task_id)
        await ended(hive, task_id)
        assert (await ended(hive, hive.add_task("next")))["result"] == "fine"
    reports = len([f for f in sent(hive, kind) if f["lease_id"] == sent(hive, kind)[0]["lease_id"]])
    reports += len([path for _, path, _ in hive.requests if path.endswith(f"/{kind}")])
    assert reports == 2
    assert (
        len(
            [
                e
                for e in hive.events
                if e["type"] == f"task.{hive.tasks[task_id]['status']}" and e["subject"] == task_id
            ]
        )
        == 1
    )


async def test_store_that_is_away_delays_the_report(hive: FakeHive, running: Any) -> None:
    """503 over either transport means: again."""
    hive.blocks_sockets = True
    hive.troubles.append(Trouble("POST", "/complete", 503, times=2))
    agent = make_agent(hive)
    agent.task("t")(lambda ctx: "done")
    async with running(agent):
        assert (await ended(hive, hive.add_task("t")))["result"] == "done"


async def test_result_too_large_for_a_frame_goes_over_rest(hive: FakeHive, running: Any) -> None:
    """A frame above the limit would end the link for good."""
    agent = make_agent(hive)
    agent.task("t")(lambda ctx: "x" * (1 << 20))
    async with running(agent):
        task = await ended(hive, hive.add_task("t"))
    assert len(task["result"]) == 1 << 20
    assert sent(hive, "complete") == []


async def test_result_that_the_server_refuses_fails_the_task(hive: FakeHive, running: Any) -> None:
    """413 will not become better by repeating."""
    hive.blocks_sockets = True
    hive.troubles.append(Trouble("POST", "/complete", 413, "content-too-large"))
    agent = make_agent(hive)
    agent.task("t")(lambda ctx: "x")
    async with running(agent):
        task = await ended(hive, hive.add_task("t"))
    assert task["error"]["code"] == "result-refused"
    assert "content-too-large" in task["error"]["message"]


async def test_blocked_sockets_fall_back_to_rest(hive: FakeHive, running: Any) -> None:
    """Claims, renewals, logs, cancellation and completion, all over REST."""
    hive.blocks_sockets = True
    hive.lease_seconds = 0.3
    agent = make_agent(hive)
    finish = asyncio.Event()

    @agent.task("t")
    async def work(ctx: TaskContext) -> str:
        ctx.log("hello")
        ctx.progress(0.5)
        await finish.wait()
        return "done"

    @agent.task("endless")
    async def endless(ctx: TaskContext) -> None:
        await ctx.until_cancelled()

    def renewals() -> int:
        return len([path for _, path, _ in hive.requests if path.endswith("/renew")])

    async with running(agent):
        task_id, endless_id = hive.add_task("t"), hive.add_task("endless")
        await hive.until(lambda: renewals() >= 8)
        hive.cancel(endless_id)
        assert (await ended(hive, endless_id))["status"] == "cancelled"
        finish.set()
        assert (await ended(hive, task_id))["result"] == "done"
    assert hive.tasks[task_id]["progress"] == {"fraction": 0.5}
    assert [line["message"] for line in hive.logs[task_id]] == ["hello"]
    assert hive.frames == []


async def test_socket_is_taken_again_when_it_works(
    hive: FakeHive, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """REST is not for ever."""
    monkeypatch.setattr("agentzero_client.runtime.attachment.SOCKET_AGAIN_SECONDS", 0.1)
    hive.blocks_sockets = True
    agent = make_agent(hive)
    agent.task("t")(lambda ctx: "done")
    async with running(agent):
        await ended(hive, hive.add_task("t"))
        hive.blocks_sockets = False
        await hive.until(lambda: hive.links)
        await ended(hive, hive.add_task("t"))
    assert len(sent(hive, "complete")) == 1


async def test_server_ping_is_answered(hive: FakeHive, running: Any) -> None:
    """Without an answer the server would close with 4007."""
    async with running(make_agent(hive)):
        (link,) = await hive.until(lambda: list(hive.links.values()))
        link.tell({"type": "ping", "t": 3})
        await hive.until(lambda: {"type": "pong", "t": 3} in hive.frames)


async def test_heartbeats_come_at_the_period_of_the_hive(hive: FakeHive, running: Any) -> None:
    """An agent that is silent would count as offline."""
    hive.heartbeat_seconds = 0.05
    async with running(make_agent(hive)):
        await hive.until(lambda: len(sent(hive, "heartbeat")) >= 3)


@pytest.mark.parametrize("code", [1008, 4010, 4101, 4403])
async def test_agent_that_is_turned_away_stops_with_the_reason(
    hive: FakeHive, running: Any, code: int
) -> None:
    """It gives back what it runs, as far as it may, and says who it was."""
    agent = make_agent(hive)

    @agent.task("t")
    async def work(ctx: TaskContext) -> None:
        await asyncio.Event().wait()

    async with running(agent) as serving:
        task_id = hive.add_task("t")
        await hive.until(lambda: hive.tasks[task_id]["status"] == "running")
        hive.pushes = False
        (link,) = hive.links.values()
        link.close(code, "no")
        with pytest.raises(AgentStoppedError, match=f"{code}.*agt_"):
            await serving
    assert hive.tasks[task_id]["release_reason_"] == "shutting down"


async def test_revoked_key_stops_an_agent_on_rest(hive: FakeHive, running: Any) -> None:
    """401 for claims and heartbeats."""
    hive.blocks_sockets = True
    agent_id, _ = hive.add_agent("a")
    agent = Agent("a", server=hive.url, agent_id=agent_id, api_key="revoked")
    async with running(agent) as serving:
        with pytest.raises(AgentStoppedError, match="Invalid token"):
            await serving


@pytest.mark.parametrize("blocked", [False, True])
async def test_stop_asked_by_the_hive_drains_and_is_acknowledged(
    hive: FakeHive,
    running: Any,
    blocked: bool,  # noqa: FBT001  # A column of the table.
) -> None:
    """Over either transport; an unacknowledged request would come again."""
    hive.blocks_sockets = blocked
    hive.heartbeat_seconds = 0.1
    agent = make_agent(hive)
    started = asyncio.Event()

    @agent.task("t")
    async def work(ctx: TaskContext) -> str:
        started.set()
        await hive.until(lambda: not hive.controls)
        return "done"

    async with running(agent) as serving:
        task_id = hive.add_task("t")
        await started.wait()
        hive.control("restart")
        ending = await asyncio.wait_for(serving, 15)
    assert ending.value == "restart"
    assert hive.tasks[task_id]["result"] == "done"
    assert hive.controls == []
