"""The agent's link: work goes out into free slots, reports enter the REST operations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from hive.agents import AgentAction, ControlRequest, DesiredState
from hive.raw_json import RawJson
from hive.task_spec import TaskSpec
from tests.realtime.client import Frame, JudgedSocket
from tests.realtime.conftest import RealtimeNode
from tests.realtime.fakes import NOW


@asynccontextmanager
async def ready(node: RealtimeNode, **hello: Any) -> AsyncIterator[tuple[JudgedSocket, Frame]]:
    """A link behind `hello`, and the answer."""
    async with node.link() as socket:
        await socket.send("hello", **hello)
        yield socket, await socket.expect("ready")


async def report(socket: JudgedSocket, kind: str, number: int, **fields: Any) -> Frame:
    """Send a report on a lease, and give its result."""
    await socket.send(kind, id=f"r{number}", lease_id=f"lse_{number}", fence=1, **fields)
    return await socket.until("result")


async def test_hello_is_answered_by_ready(node: RealtimeNode) -> None:
    """With the periods that the agent keeps to, and what it announced."""
    hello = {"capabilities": ["text.profile"], "slots": 3, "version": "1.2.0"}
    async with ready(node, **hello) as (_, answer):
        assert (answer["heartbeat_seconds"], answer["lease_seconds"]) == (15, 30)
        assert answer["slots"] == 3
        assert node.agents.agent.spec.capabilities == ("text.profile",)
        assert node.agents.agent.agent_version == "1.2.0"
        assert node.agents.presence == [True]


async def test_hello_keeps_what_it_leaves_out(node: RealtimeNode) -> None:
    """A second hello without a version does not take the version away."""
    async with ready(node, version="1.2.0"):
        pass
    async with ready(node) as (_, answer):
        assert node.agents.agent.agent_version == "1.2.0"
        assert answer["slots"] == 2


async def test_a_task_is_assigned_accepted_and_completed(node: RealtimeNode) -> None:
    """The whole way; free-form values go through byte for byte."""
    raw = RawJson(b'{"b" : 1, "a":1.50}')
    async with ready(node) as (socket, _):
        node.tasks.offer(1, spec=TaskSpec(name="t", parameters=raw))
        await socket.socket.send('{"type":"ping"}')
        lease = (await socket.until("assign"))["lease"]
        assert lease["task"]["parameters"] == {"b": 1, "a": 1.5}
        accepted = await report(socket, "accept", 1)
        assert (accepted["status"], accepted["body"]["cancel_requested"]) == (200, False)
        await report(socket, "progress", 1, progress={"fraction": 0.5})
        await socket.send_text(
            '{"type":"complete","id":"r9","lease_id":"lse_1","fence":1,'
            '"result":{"z":1e2 ,"z2": [ ]}}'
        )
        done = await socket.until("result")
        assert done["body"] == {"task_id": "tsk_1", "status": "completed"}
        assert node.tasks.tasks["lse_1"].result == RawJson(b'{"z":1e2 ,"z2": [ ]}')
        assert node.tasks.order == ["renew", "task.progress", "task.completed"]


async def test_work_goes_only_into_free_slots(node: RealtimeNode) -> None:
    """Two slots, three tasks: the third comes when one is done."""
    async with ready(node) as (socket, _):
        for number in (1, 2, 3):
            node.tasks.offer(number)
        got = {(await socket.until("assign"))["lease"]["lease_id"] for _ in range(2)}
        assert got == {"lse_1", "lse_2"}
        await socket.send("ping")
        await socket.expect("pong")
        await report(socket, "fail", 1, error={"code": "broken", "message": "no"})
        assert (await socket.until("assign"))["lease"]["lease_id"] == "lse_3"
        assert max(node.tasks.claims) == 2


async def test_a_heartbeat_can_hold_slots_back(node: RealtimeNode) -> None:
    """An agent that is busy with something else says so."""
    async with ready(node) as (socket, _):
        await socket.send("heartbeat", id="h", free_slots=0, load=0.9)
        result = await socket.until("result")
        assert (result["id"], result["body"]["desired_state"]) == ("h", "active")
        await node.until(lambda: not node.tasks.queue)
        link = node.links._links["agt_1"]
        assert link.free_slots == 0
        await socket.send("heartbeat", free_slots=2)
        await node.until(lambda: link.free_slots == 2)


async def test_a_refused_report_gives_the_problem_of_its_twin(node: RealtimeNode) -> None:
    """The same problem as REST, in `result`."""
    async with ready(node) as (socket, _):
        result = await report(socket, "progress", 77)
        assert result["status"] == 404
        assert result["problem"]["code"] == "lease-not-found"
        assert result["problem"]["instance"] == "/api/v1/leases/lse_77/renew"


@pytest.mark.parametrize("kind", ["reject", "release"])
async def test_a_task_is_given_back(node: RealtimeNode, kind: str) -> None:
    """By an agent that can't take it, or can't go on."""
    async with ready(node) as (socket, _):
        node.tasks.offer(1)
        await socket.until("assign")
        assert (await report(socket, kind, 1, reason="busy"))["status"] == 200
        assert node.tasks.released == ["tsk_1"]


async def test_an_agent_that_rejects_gets_nothing_until_its_next_heartbeat(
    node: RealtimeNode,
) -> None:
    """A task that it can't take does not bounce between the agent and the queue."""
    async with ready(node) as (socket, _):
        node.tasks.offer(1)
        await socket.until("assign")
        await report(socket, "reject", 1, reason="draining")
        link = node.links._links["agt_1"]
        await node.until(lambda: link.free_slots == 0)
        await socket.send("heartbeat")
        await node.until(lambda: link.free_slots == 2)


async def test_an_agent_whose_lease_ran_out_gets_nothing_until_it_is_heard_of(
    node: RealtimeNode,
) -> None:
    """A hung process burns no attempts, however long its socket stays open."""
    async with ready(node) as (socket, _):
        node.tasks.offer(1)
        await socket.until("assign")
        link = node.links._links["agt_1"]
        error = {"code": "lease-expired", "message": "late"}
        node.publish("task.retrying", task_id="tsk_1", agent_id="agt_1", version=9, error=error)
        assert (await socket.expect("cancel"))["reason"] == "lost"
        assert link.free_slots == 0
        await socket.send("ping")
        await node.until(lambda: link.free_slots == 2)


async def test_reports_of_a_lease_stay_in_order_and_leases_go_side_by_side(
    node: RealtimeNode,
) -> None:
    """A completion that waits holds neither another lease nor the link's own cancel up."""
    async with ready(node) as (socket, _):
        node.tasks.offer(1)
        node.tasks.offer(2)
        await socket.until("assign")
        await socket.until("assign")
        node.tasks.gate.clear()
        await socket.send("complete", id="slow", lease_id="lse_1", fence=1)
        await socket.send("progress", id="behind", lease_id="lse_1", fence=1)
        await socket.send("progress", id="beside", lease_id="lse_2", fence=1)
        assert (await socket.expect("result"))["id"] == "beside"
        node.publish("task.cancelling", task_id="tsk_2", agent_id="agt_1", version=3)
        assert (await socket.expect("cancel"))["lease_id"] == "lse_2"
        node.tasks.gate.set()
        assert [(await socket.expect("result"))["id"] for _ in range(2)] == ["slow", "behind"]


async def test_a_cancellation_reaches_the_agent_once(node: RealtimeNode) -> None:
    """Told by the log; a second request says nothing new."""
    async with ready(node) as (socket, _):
        node.tasks.offer(1)
        await socket.until("assign")
        for version in (3, 4):
            node.publish("task.cancelling", task_id="tsk_1", agent_id="agt_1", version=version)
        cancel = await socket.receive()
        assert cancel == {"type": "cancel", "lease_id": "lse_1", "reason": "requested"}
        await socket.send("ping")
        await socket.expect("pong")


async def test_a_cancellation_that_overtakes_the_assignment_is_not_lost(
    node: RealtimeNode,
) -> None:
    """The event may be faster than the claim's answer."""
    async with ready(node) as (socket, _):
        node.publish("task.cancelling", task_id="tsk_1", agent_id="agt_1", version=3)
        node.tasks.offer(1)
        await socket.expect("assign")
        assert (await socket.receive())["type"] == "cancel"


async def test_an_event_of_an_earlier_lease_does_not_harm(node: RealtimeNode) -> None:
    """The hub may be behind the store."""
    async with ready(node) as (socket, _):
        node.tasks.offer(1)
        await socket.until("assign")
        node.publish("task.retrying", task_id="tsk_1", agent_id="agt_1", version=1)
        await socket.send("ping")
        await socket.expect("pong")
        assert node.links._links["agt_1"].free_slots == 1


async def test_a_lease_that_was_taken_back_is_told_and_frees_the_slot(
    node: RealtimeNode,
) -> None:
    """The reaper took it: stop working on it."""
    async with ready(node) as (socket, _):
        node.tasks.offer(1)
        await socket.until("assign")
        node.publish("task.retrying", task_id="tsk_1", agent_id="agt_1", version=3)
        assert (await socket.expect("cancel"))["reason"] == "lost"
        assert node.links._links["agt_1"].free_slots == 2


async def test_a_reconnect_resumes_its_leases(node: RealtimeNode) -> None:
    """Those named with their fence go on, the others are lost, cancellations are told again."""
    for number in (1, 2):
        node.tasks.offer(number)
    await node.tasks.claim("agt_1", max_leases=2, wait_seconds=1)
    node.tasks.tasks["lse_1"] = replace(node.tasks.tasks["lse_1"], cancel_requested=True)
    named = [
        {"lease_id": "lse_1", "fence": 1},
        {"lease_id": "lse_2", "fence": 7},
        {"lease_id": "lse_3", "fence": 1},
    ]
    async with ready(node, resume_leases=named) as (socket, answer):
        assert (answer["resumed"], answer["lost"]) == (["lse_1"], ["lse_2", "lse_3"])
        assert (await socket.expect("cancel"))["lease_id"] == "lse_1"
        assert (await report(socket, "complete", 1))["status"] == 200


async def test_a_newer_link_takes_over(node: RealtimeNode) -> None:
    """The older one ends with 4010, and the agent stays online."""
    async with ready(node) as (older, _), ready(node) as (newer, _):
        assert await older.close_code() == 4010
        node.tasks.offer(1)
        assert (await newer.expect("assign"))["lease"]["lease_id"] == "lse_1"
        assert node.agents.agent.online


async def test_a_closed_link_makes_the_agent_offline(node: RealtimeNode) -> None:
    """Its leases stay as they are."""
    async with ready(node) as (socket, _):
        node.tasks.offer(1)
        await socket.until("assign")
    await node.until(lambda: node.agents.presence == [True, False])
    assert node.tasks.released == []


async def test_a_lease_that_comes_for_a_dead_socket_is_given_back(node: RealtimeNode) -> None:
    """A claim may outlive its link, but leaks nothing."""
    async with ready(node):
        await node.until(lambda: node.tasks.claims)
    await node.until(lambda: "agt_1" not in node.links)
    node.tasks.offer(1)
    await node.until(lambda: node.tasks.released == ["tsk_1"])


async def test_pause_and_resume_stop_and_start_the_flow(node: RealtimeNode) -> None:
    """The server holds work back by itself, and tells the agent."""
    async with ready(node) as (socket, _):
        node.publish(
            "agent.status_changed", agent_id="agt_1", desired_state="paused", slots=2, version=9
        )
        assert await socket.expect("control") == {"type": "control", "action": "pause"}
        count = len(node.tasks.claims)
        await asyncio.sleep(0)
        node.publish(
            "agent.status_changed", agent_id="agt_1", desired_state="active", slots=2, version=10
        )
        assert (await socket.expect("control"))["action"] == "resume"
        node.tasks.offer(1)
        await socket.expect("assign")
        assert len(node.tasks.claims) >= count


async def test_a_paused_agent_claims_nothing(node: RealtimeNode) -> None:
    """From hello on."""
    node.agents.agent = replace(node.agents.agent, desired_state=DesiredState.PAUSED)
    async with ready(node) as (socket, answer):
        assert answer["desired_state"] == "paused"
        node.tasks.offer(1)
        await socket.send("ping")
        await socket.expect("pong")
        assert node.tasks.claims == []


async def test_stored_controls_come_at_hello_and_new_ones_at_once(node: RealtimeNode) -> None:
    """Until a heartbeat says that they were taken."""
    first = ControlRequest(1, AgentAction.RESTART, NOW, "new version")
    node.agents.agent = replace(node.agents.agent, controls=(first,))
    async with ready(node) as (socket, _):
        control = await socket.expect("control")
        assert control == {
            "type": "control",
            "control_id": 1,
            "action": "restart",
            "reason": "new version",
        }
        second = ControlRequest(2, AgentAction.STOP, NOW)
        node.agents.agent = replace(node.agents.agent, controls=(first, second))
        node.publish("agent.control_requested", agent_id="agt_1")
        assert (await socket.expect("control"))["control_id"] == 2
        await socket.send("heartbeat", id="h", controls_taken=2)
        assert (await socket.until("result"))["body"]["controls"] == []


async def test_an_unregistered_agent_is_told_to_stop(node: RealtimeNode) -> None:
    """4101: coming back is no use."""
    async with ready(node) as (socket, _):
        node.publish("agent.unregistered", agent_id="agt_1")
        assert await socket.close_code() == 4101


async def test_reports_before_hello_are_refused(node: RealtimeNode) -> None:
    """An agent introduces itself first."""
    async with node.link() as socket:
        await socket.send("heartbeat", id="h")
        assert (await socket.expect("error"))["code"] == "hello-first"


async def test_no_hello_in_time_closes_with_4007(make_node: Callable[..., Any]) -> None:
    """Who holds a link works."""
    node = await make_node(hello_seconds=0.1)
    async with node.link() as socket:
        assert await socket.close_code() == 4007


async def test_a_second_hello_closes_with_4409(node: RealtimeNode) -> None:
    """As a second connect does."""
    async with ready(node) as (socket, _):
        await socket.send("hello")
        assert await socket.close_code() == 4409


async def test_connect_can_bring_the_token_of_a_link(node: RealtimeNode) -> None:
    """As on `/ws`."""
    async with node.open("/ws/agents/agt_1", token=None) as socket:
        await socket.send("connect", token="agent")
        assert (await socket.expect("welcome"))["limits"]["frame_bytes"] == 1024 * 1024
        await socket.send("hello")
        await socket.expect("ready")


@pytest.mark.parametrize("token", ["user", "viewer"])
async def test_only_agents_may_have_a_link(node: RealtimeNode, token: str) -> None:
    """agents:work is needed."""
    async with node.open("/ws/agents/agt_1", token=token) as socket:
        assert await socket.close_code() == 4403


async def test_another_agents_link_is_forbidden(node: RealtimeNode) -> None:
    """An agent works for itself."""
    async with node.open("/ws/agents/agt_2", token="agent") as socket:
        assert await socket.close_code() == 4403


async def test_the_link_of_no_agent_closes_with_4403(node: RealtimeNode) -> None:
    """An admin may open any link, of agents that exist."""
    async with node.open("/ws/agents/agt_2", token="admin") as socket:
        await socket.send("hello")
        assert await socket.close_code() == 4403


async def test_a_frame_of_a_megabyte_is_read_and_a_larger_one_is_not(
    node: RealtimeNode,
) -> None:
    """Results may be large."""
    async with ready(node) as (socket, _):
        node.tasks.offer(1)
        await socket.until("assign")
        result = await report(socket, "complete", 1, result="x" * 1_000_000)
        assert result["status"] == 200
        await socket.send("complete", id="r", lease_id="lse_2", fence=1, result="x" * 1_048_576)
        assert await socket.close_code() == 1009


async def test_a_thousand_reports_a_second_are_taken(node: RealtimeNode) -> None:
    """The data plane is not throttled like a client."""
    async with ready(node) as (socket, _):
        node.tasks.offer(1)
        await socket.until("assign")
        for number in range(1000):
            await socket.send("progress", id=str(number), lease_id="lse_1", fence=1)
        ids = [(await socket.expect("result"))["id"] for _ in range(1000)]
        assert ids == [str(number) for number in range(1000)]


async def test_stop_waits_for_reports_under_way(node: RealtimeNode) -> None:
    """A completion that was read is carried out although the socket is gone."""
    async with ready(node) as (socket, _):
        node.tasks.offer(1)
        await socket.until("assign")
        node.tasks.gate.clear()
        await socket.send("complete", id="r", lease_id="lse_1", fence=1)
        await socket.send("ping")
        await socket.expect("pong")
        node.links.prepare_stop()
    await node.until(lambda: len(node.peers) == 0)
    node.tasks.gate.set()
    await node.links.stop()
    assert node.tasks.order == ["task.completed"]
    assert node.agents.presence == [True]
