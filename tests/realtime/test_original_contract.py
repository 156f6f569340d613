"""The original contract's WebSocket, as it was written."""

from __future__ import annotations

import pytest

from tests.realtime.conftest import RealtimeNode


async def test_ping_is_answered_by_pong_as_the_first_frame(node: RealtimeNode) -> None:
    """A client that connects with `?token=` and says ping hears pong, and nothing before it."""
    async with node.open("/ws?token=user", token=None) as socket:
        await socket.send("ping")
        assert await socket.receive() == {"type": "pong"}


async def test_subscribe_is_answered_and_the_event_arrives(node: RealtimeNode) -> None:
    """`subscribed` has the same list; then the event comes with type and data."""
    async with node.open("/ws?token=user", token=None) as socket:
        await socket.send("subscribe", events=["task.completed"])
        answer = await socket.receive()
        assert (answer["type"], answer["events"]) == ("subscribed", ["task.completed"])
        node.publish("task.created", task_id="tsk_1")
        node.publish("task.completed", task_id="tsk_1", status="completed")
        event = await socket.receive()
        assert event["type"] == "task.completed"
        assert event["data"]["task_id"] == "tsk_1"
        assert event["time"] == "2026-11-21T09:00:00.000Z"


async def test_subscribe_without_events_means_all(node: RealtimeNode) -> None:
    """The original's default is `["*"]`."""
    async with node.open() as socket:
        await socket.send("subscribe")
        assert (await socket.receive())["events"] == ["*"]
        node.publish("agent.registered")
        await socket.expect("agent.registered")


async def test_unsubscribe_is_answered_and_nothing_of_it_follows(node: RealtimeNode) -> None:
    """After `unsubscribed` only the other subscription's events come."""
    async with node.open() as socket:
        await socket.subscribe("task.completed", "task.failed")
        await socket.send("unsubscribe", events=["task.completed"])
        assert (await socket.expect("unsubscribed"))["events"] == ["task.completed"]
        node.publish("task.completed")
        node.publish("task.failed")
        await socket.expect("task.failed")


@pytest.mark.parametrize("token", ["bad", "", "x" * 9000])
async def test_a_bad_token_is_accepted_and_closed_with_1008(node: RealtimeNode, token: str) -> None:
    """A browser can read a close code, but not the status of a failed handshake."""
    async with node.open(f"/ws?token={token}", token=None) as socket:
        assert await socket.close_code() == 1008
