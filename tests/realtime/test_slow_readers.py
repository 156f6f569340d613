"""A peer that stops reading costs a bounded buffer, is told that it lags, and loses nothing."""

from __future__ import annotations

import asyncio
import socket as sockets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from server.connection import Connection, Mode
from tests.realtime.conftest import RealtimeNode

PADDING = "x" * 4000


@asynccontextmanager
async def stalled(node: RealtimeNode) -> AsyncIterator[tuple[Any, Connection]]:
    """A subscribed connection through small kernel buffers, whose client does not read yet."""
    host, _, port = node.url.removeprefix("http://").partition(":")
    raw = sockets.socket()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    raw.setblocking(False)  # noqa: FBT003 - the socket's signature
    await asyncio.get_running_loop().sock_connect(raw, (host, int(port)))
    async with node.open(sock=raw, max_queue=1) as client:
        await client.subscribe("*")
        (peer,) = node.peers._peers
        assert isinstance(peer, Connection)
        stream: Any = peer._transport
        raw_server = stream._protocol.stream.socket
        raw_server.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, 4096)
        client.socket.transport.pause_reading()
        yield client, peer


async def test_a_stalled_reader_is_bounded_and_catches_up(node: RealtimeNode) -> None:
    """8 MB for a peer that reads nothing cost under 256 KiB, and later it gets them all."""
    async with stalled(node) as (client, peer):
        most = 0
        for _ in range(2000):
            node.publish(description=PADDING)
            most = max(most, peer._transport.buffered)
            if peer._tasks:
                await asyncio.sleep(0)
        assert peer.mode is Mode.BEHIND
        assert 0 < most <= 256 * 1024
        client.socket.transport.resume_reading()
        while not client.seqs or client.seqs[-1] < 2000:
            await client.receive()
        assert client.seqs == list(range(1, 2001))
        await node.until(lambda: peer.mode is Mode.LIVE)


async def test_others_are_not_held_up_by_a_stalled_reader(node: RealtimeNode) -> None:
    """A live neighbour gets each event at once."""
    async with stalled(node) as (_, peer), node.open() as neighbour:
        await neighbour.subscribe("*")
        for number in range(200):
            node.publish(description=PADDING)
            assert (await neighbour.receive())["seq"] == str(number + 1)
        assert peer.mode is Mode.BEHIND


async def test_a_reader_that_lags_is_told_and_told_when_it_caught_up(
    node: RealtimeNode, monkeypatch: Any
) -> None:
    """`lagging` and `caught_up`, each once."""
    monkeypatch.setattr("server.connection.LAGGING_SECONDS", 0.0)
    async with stalled(node) as (client, peer):
        for _ in range(300):
            node.publish(description=PADDING)
        await node.until(lambda: peer.mode is Mode.BEHIND)
        client.socket.transport.resume_reading()
        kinds = [(await client.until("notice"))["kind"] for _ in range(2)]
        assert kinds == ["lagging", "caught_up"]


async def test_a_stuck_reader_closes_with_4008(make_node: Callable[..., Any]) -> None:
    """Nothing was read for too long, although the peer still speaks."""
    node = await make_node(stuck_seconds=0.3)
    async with stalled(node) as (client, peer):
        for _ in range(300):
            node.publish(description=PADDING)
        await node.until(lambda: peer.ended)
        client.socket.transport.resume_reading()
        assert await client.close_code() == 4008


async def test_a_peer_that_asks_and_never_reads_is_not_read_from(
    make_node: Callable[..., Any],
) -> None:
    """Answers wait for room: the flood stops at the sender, not in our memory."""
    node = await make_node(frames_per_second=1e6, frames_burst=1_000_000)
    async with stalled(node) as (client, peer):
        question = '{"type":"subscribe","events":["nothing.here"],"id":"' + "y" * 64 + '"}'
        for _ in range(300):
            node.publish(description=PADDING)
        await node.until(lambda: peer._transport.buffered > 100_000)
        asking = asyncio.create_task(_ask(client, question, 20_000))
        done, _ = await asyncio.wait({asking}, timeout=1.0)
        assert peer._transport.buffered <= 256 * 1024
        assert not peer.ended
        client.socket.transport.resume_reading()
        for _ in range(100):
            await client.receive()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        del done


async def _ask(client: Any, question: str, count: int) -> None:
    for _ in range(count):
        await client.send_text(question)


async def test_a_huge_event_goes_out_without_its_data(node: RealtimeNode) -> None:
    """No connection could buffer it; none may choke on it for ever."""
    async with node.open() as client:
        await client.subscribe("log.reset")
        node.publish("log.reset", text="x" * 300_000)
        await client.expect("gap")
        event = await client.expect("log.reset")
        assert event["data"] == {"omitted": "/api/v1/events"}
