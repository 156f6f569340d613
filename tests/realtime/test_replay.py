"""Replay, bookmark, live: strict order and nothing lost, whatever the socket and the log do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.realtime.client import JudgedSocket
from tests.realtime.conftest import RealtimeNode
from tests.realtime.fakes import FakeLog, event


def filled_log(count: int, first: int = 1) -> FakeLog:
    """A log that holds so many events."""
    log = FakeLog()
    log.events = [event(seq) for seq in range(first, first + count)]
    return log


async def receive_up_to(socket: JudgedSocket, last: int) -> None:
    """Receive until the event `last`; order is judged by the client."""
    while not socket.seqs or socket.seqs[-1] < last:
        await socket.receive()


async def test_cursor_replays_then_bookmarks_then_goes_live(make_node: Callable[..., Any]) -> None:
    """What was missed comes first, then `replay_end`, then what happens."""
    node = await make_node(log=filled_log(5))
    async with node.open("/ws?cursor=2") as socket:
        answer = await socket.subscribe("*")
        assert answer["cursor"] == "2"
        assert [(await socket.receive())["seq"] for _ in range(3)] == ["3", "4", "5"]
        assert await socket.receive() == {"type": "bookmark", "cursor": "5", "replay_end": True}
        node.publish()
        assert (await socket.receive())["seq"] == "6"


async def test_since_in_subscribe_replays(make_node: Callable[..., Any]) -> None:
    """`since` does what the query's cursor does."""
    node = await make_node(log=filled_log(5))
    async with node.open() as socket:
        await socket.subscribe("*", since="0")
        await receive_up_to(socket, 5)
        assert socket.seqs == [1, 2, 3, 4, 5]
        assert (await socket.expect("bookmark"))["replay_end"] is True


async def test_since_is_refused_once_live(node: RealtimeNode) -> None:
    """A live connection can't go back: `seq` only grows."""
    async with node.open() as socket:
        await socket.subscribe("task.created")
        await socket.send("subscribe", id="again", events=["task.failed"], since="0")
        error = await socket.expect("error")
        assert (error["code"], error["id"]) == ("cannot-resume", "again")


async def test_without_a_cursor_only_what_happens_next_comes(make_node: Callable[..., Any]) -> None:
    """No replay, no bookmark: the first frame behind `subscribed` is the next event."""
    node = await make_node(log=filled_log(5))
    async with node.open() as socket:
        assert (await socket.subscribe("*"))["cursor"] == "5"
        node.publish()
        assert (await socket.receive())["seq"] == "6"


async def test_connect_with_a_cursor_is_welcomed_and_replays(make_node: Callable[..., Any]) -> None:
    """`welcome` tells what the log still has behind the cursor."""
    node = await make_node(log=filled_log(5))
    async with node.open(token=None) as socket:
        await socket.send("connect", token="user", cursor="3", client={"name": "test"})
        welcome = await socket.expect("welcome")
        assert (welcome["cursor"], welcome["recovered"], welcome["replayed"]) == ("3", True, 2)
        await socket.subscribe("*")
        await receive_up_to(socket, 5)
        assert socket.seqs == [4, 5]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ring_events", [8, 20_000])
async def test_replay_meets_concurrent_publishing(
    make_node: Callable[..., Any], seed: int, ring_events: int
) -> None:
    """Connections that resume anywhere while events pour in see every event once and in order."""
    chance = random.Random(seed)
    node = await make_node(log=filled_log(300), ring_events=ring_events, silence_seconds=0.05)
    total = 450

    async def pour() -> None:
        while len(node.log.events) < total:
            batch = [node.log.append() for _ in range(chance.randint(1, 20))]
            # Some are never told, some twice, some late: the hub must not care.
            fate = chance.random()
            if fate < 0.7:
                node.hub.publish(batch)
            elif fate < 0.8:
                node.hub.publish(batch[1:])
            elif fate < 0.9:
                node.hub.publish(batch)
                node.hub.publish(batch)
            await asyncio.sleep(0)

    async def follow(start: int) -> None:
        async with node.open() as socket:
            await socket.subscribe("*", since=str(start))
            await receive_up_to(socket, total)
            assert socket.seqs[: total - start] == list(range(start + 1, total + 1))

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(follow(chance.randint(0, 300)))
        group.create_task(pour())


async def test_a_hole_in_what_is_told_is_healed_at_once(make_node: Callable[..., Any]) -> None:
    """An event that does not follow makes the hub read the log, not wait for silence."""
    node = await make_node(silence_seconds=60)
    async with node.open() as socket:
        await socket.subscribe("*")
        node.log.append()
        node.publish()
        await receive_up_to(socket, 2)
        assert socket.seqs == [1, 2]


async def test_silence_is_healed_from_the_log(make_node: Callable[..., Any]) -> None:
    """Nothing depends on being told: after a silence the hub looks by itself."""
    node = await make_node(silence_seconds=0.1)
    async with node.open() as socket:
        await socket.subscribe("*")
        node.log.append()
        await receive_up_to(socket, 1)


async def test_a_log_that_is_down_delays_and_loses_nothing(make_node: Callable[..., Any]) -> None:
    """The replay goes on when the log answers again."""
    node = await make_node(log=filled_log(3), silence_seconds=0.1)
    node.log.down = True
    async with node.open() as socket:
        await socket.subscribe("*", since="0")
        node.log.append()
        await node.until(lambda: node.log.reads > 1)
        node.log.down = False
        await receive_up_to(socket, 4)
        assert socket.seqs == [1, 2, 3, 4]


async def test_a_trimmed_log_gives_gap_and_goes_on(make_node: Callable[..., Any]) -> None:
    """What retention took is announced, with where to find the present state."""
    node = await make_node(log=filled_log(5, first=101))
    async with node.open() as socket:
        await socket.subscribe("*", since="50")
        gap = await socket.expect("gap")
        assert (gap["from"], gap["to"], gap["reason"]) == ("50", "100", "trimmed")
        await receive_up_to(socket, 105)
        assert socket.seqs == [101, 102, 103, 104, 105]
        assert (await socket.expect("bookmark"))["replay_end"] is True


async def test_from_the_beginning_of_a_trimmed_log_gives_gap_too(
    make_node: Callable[..., Any],
) -> None:
    """Cursor 0 of a log that starts at 101: never silent."""
    node = await make_node(log=filled_log(2, first=101))
    async with node.open() as socket:
        await socket.subscribe("*", since="0")
        assert (await socket.expect("gap"))["to"] == "100"
        await receive_up_to(socket, 102)


async def test_welcome_tells_that_events_are_gone(make_node: Callable[..., Any]) -> None:
    """`recovered` is false when the log no longer has all behind the cursor."""
    node = await make_node(log=filled_log(5, first=101))
    async with node.open() as socket:
        await socket.send("connect", cursor="50")
        welcome = await socket.expect("welcome")
        assert (welcome["recovered"], welcome["replayed"]) == (False, 5)


async def test_a_reset_log_gives_gap_to_live_connections(node: RealtimeNode) -> None:
    """A lost source is announced whatever was subscribed to."""
    async with node.open() as socket:
        await socket.subscribe("agent.registered")
        node.publish()
        node.publish("log.reset")
        gap = await socket.expect("gap")
        assert (gap["from"], gap["to"], gap["reason"]) == ("1", "2", "reset")


async def test_a_hub_that_lost_events_makes_its_connections_say_so(
    make_node: Callable[..., Any],
) -> None:
    """A node that slept longer than the retention gives gap to those who were live."""
    node = await make_node(log=filled_log(3), silence_seconds=0.05)
    async with node.open() as socket:
        await socket.subscribe("*")
        node.log.events = [event(seq) for seq in range(50, 53)]
        gap = await socket.expect("gap")
        assert (gap["from"], gap["to"]) == ("3", "49")
        await receive_up_to(socket, 52)
        assert socket.seqs == [50, 51, 52]


@pytest.mark.parametrize("cursor", ["99", "9999999999999999"])
async def test_a_cursor_beyond_the_log_closes_with_4009(node: RealtimeNode, cursor: str) -> None:
    """It is of another log."""
    async with node.open(f"/ws?cursor={cursor}") as socket:
        assert await socket.close_code() == 4009


@pytest.mark.parametrize("cursor", ["x", "-1", "", "1.0", "1" * 30, "1&cursor=2", "%D9%A1"])
async def test_a_malformed_cursor_closes_with_4400(node: RealtimeNode, cursor: str) -> None:
    """A cursor is a decimal number."""
    async with node.open(f"/ws?cursor={cursor}") as socket:
        assert await socket.close_code() == 4400


async def test_since_beyond_the_log_is_an_error(node: RealtimeNode) -> None:
    """The connection goes on."""
    async with node.open() as socket:
        await socket.send("subscribe", events=["*"], since="7")
        assert (await socket.expect("error"))["code"] == "cannot-resume"
        await socket.send("ping")
        await socket.expect("pong")


async def test_a_cursor_just_ahead_of_this_node_is_looked_up(
    make_node: Callable[..., Any],
) -> None:
    """A client that comes from a node that knew more is not refused."""
    node = await make_node(silence_seconds=60)
    node.log.append()
    async with node.open("/ws?cursor=1") as socket:
        assert (await socket.subscribe("*"))["cursor"] == "1"


async def test_filtered_events_are_bookmarked_by_number(node: RealtimeNode) -> None:
    """500 events that were left out move the client's cursor."""
    async with node.open() as socket:
        await socket.subscribe("task.failed")
        for _ in range(500):
            node.publish()
        assert await socket.receive() == {"type": "bookmark", "cursor": "500"}


async def test_filtered_events_are_bookmarked_by_time(
    node: RealtimeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few events that were left out move it, too, a little later."""
    monkeypatch.setattr("server.connection.BOOKMARK_SECONDS", 0.2)
    async with node.open() as socket:
        await socket.subscribe("task.failed")
        node.publish()
        assert await socket.receive() == {"type": "bookmark", "cursor": "1"}
