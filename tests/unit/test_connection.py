"""The connection's state machine over a transport that takes bytes only when the test says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hive.errors import Unavailable
from server import connection as connecting
from server.closing import CloseCode
from server.connection import EVENT_BYTES, Connection, Mode
from server.contract import Message
from server.hub import Hub
from server.liveness import PeerLimits
from server.peers import Peers
from tests.contracts import our_contract
from tests.realtime.fakes import FakeLog, authenticate, event, payload_of


@cache
def messages() -> Mapping[str, Message]:
    """The messages of the real contract."""
    return our_contract().messages


class FakeTransport:
    """Holds frames until `take` takes some."""

    def __init__(self) -> None:
        self.waiting: list[bytes] = []
        self.taken: list[bytes] = []
        self.flushed = 0
        self.most = 0
        self.is_open_wide = False
        self.closed: tuple[int, str] | None = None
        self._emptied = asyncio.Event()

    @property
    def buffered(self) -> int:
        """What waits."""
        return sum(map(len, self.waiting))

    def write(self, frame: bytes) -> None:
        """Hold the frame, or take it at once."""
        if self.closed is None:
            self.waiting.append(frame)
            if self.is_open_wide:
                self.take()
            self.most = max(self.most, self.buffered)

    def take(self, count: int | None = None) -> None:
        """Take so many frames, or all."""
        count = len(self.waiting) if count is None else count
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        self.taken += taken
        self.flushed += sum(map(len, taken))
        if not self.waiting:
            self._emptied.set()

    async def drained(self) -> None:
        """Wait until nothing waits."""
        if self.waiting:
            self._emptied.clear()
            await self._emptied.wait()

    def close(self, code: int, reason: str) -> None:
        """Remember the code."""
        self.closed = (code, reason)

    @property
    def frames(self) -> list[dict[str, Any]]:
        """What was taken, decoded."""
        return [json.loads(payload_of(frame)) for frame in self.taken]


async def connect(hub: Hub, **options: Any) -> tuple[Connection, FakeTransport]:
    """An authenticated connection."""
    transport = FakeTransport()
    connection = Connection(
        transport,
        session="con_1",
        address="127.0.0.1",
        messages=messages(),
        authenticate=authenticate,
        registry=Peers(),
        limits=PeerLimits(),
        hub=hub,
        **options,
    )
    await connection.open("user")
    return connection, transport


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(50):
        await asyncio.sleep(0)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 60)),
        st.tuples(st.just("forget"), st.integers(1, 5)),
        st.tuples(st.just("take"), st.integers(0, 40)),
        st.tuples(st.just("settle"), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=steps, start=st.integers(0, 50), ring=st.sampled_from([4, 64, 20_000]))
def test_order_completeness_and_bound_whatever_happens(
    steps: list[tuple[str, int]], start: int, ring: int
) -> None:
    """Publishing, forgetting to publish and reading in any mix: all, in order, bounded."""

    async def run() -> None:
        log = FakeLog()
        for _ in range(50):
            log.append()
        hub = Hub(log, ring_events=ring, silence_seconds=0.01)
        await hub.start()
        connection, transport = await connect(hub, cursor=str(start))
        await connection.receive(b'{"type":"subscribe"}')
        for step, count in steps:
            if step == "publish":
                hub.publish([log.append(description="x" * 3000) for _ in range(count)])
            elif step == "forget":
                for _ in range(count):
                    log.append(description="x" * 3000)
            elif step == "take":
                transport.take(count)
            else:
                await settle()
        transport.is_open_wide = True
        last = log.events[-1].seq
        async with asyncio.timeout(5):
            while connection.mode is not Mode.LIVE or hub.tail < last or transport.waiting:
                transport.take()
                await asyncio.sleep(0.001)
        frames = transport.frames
        seqs = [int(frame["seq"]) for frame in frames if "seq" in frame]
        assert seqs == list(range(start + 1, last + 1))
        ends = [n for n, frame in enumerate(frames) if frame.get("replay_end")]
        assert len(ends) == 1
        assert transport.most <= EVENT_BYTES + 8 * 1024
        assert transport.closed is None
        connection.closed()
        await hub.stop()

    asyncio.run(run())


async def test_the_tail_is_reached_without_a_task() -> None:
    """A connection that has nothing to catch up is live at once."""
    hub = Hub(FakeLog())
    connection, transport = await connect(hub)
    await connection.receive(b'{"type":"subscribe"}')
    assert connection.mode is Mode.LIVE
    assert not connection._tasks
    transport.take()
    assert [frame["type"] for frame in transport.frames] == ["subscribed"]


async def test_a_closed_connection_leaves_nothing_behind() -> None:
    """No task, no place in the hub, no further frame."""
    log = FakeLog()
    hub = Hub(log)
    connection, transport = await connect(hub)
    await connection.receive(b'{"type":"subscribe"}')
    for _ in range(200):
        hub.publish([log.append(description="x" * 3000)])
    await settle()
    assert connection.mode is Mode.BEHIND
    connection.closed()
    await settle()
    assert not connection._tasks
    assert hub._receivers == set()
    written = len(transport.waiting)
    hub.publish([log.append()])
    await connection.receive(b'{"type":"ping"}')
    connection.tick(1e9)
    connection.end(4000, "again")  # type: ignore[arg-type]
    assert len(transport.waiting) == written
    assert transport.closed is None


async def test_an_answer_waits_for_room() -> None:
    """A full buffer holds the next question up instead of growing."""
    hub = Hub(FakeLog())
    connection, transport = await connect(hub)
    transport.waiting = [b"x" * (256 * 1024 - 100)]
    asking = asyncio.create_task(connection.receive(b'{"type":"ping"}'))
    await settle()
    assert not asking.done()
    transport.take()
    await asking
    transport.take()
    assert payload_of(transport.taken[-1]) == b'{"type":"pong"}'


async def test_a_gap_is_announced_once_although_there_is_no_room() -> None:
    """The entry behind the hole waits for room, and so does the gap."""
    log = FakeLog()
    hub = Hub(log)
    connection, transport = await connect(hub)
    await connection.receive(b'{"type":"subscribe"}')
    transport.waiting = [b"x" * EVENT_BYTES]
    hub._lose(10)
    log.events = [event(11), event(12)]
    hub.publish(log.events)
    await settle()
    transport.take()
    await settle()
    transport.take()
    frames = [json.loads(payload_of(f)) for f in transport.taken[1:]]
    assert [f["type"] for f in frames] == ["gap", "task.created", "task.created"]
    assert (frames[0]["from"], frames[0]["to"]) == ("0", "10")


async def test_an_outage_in_the_middle_of_a_gap_ends_no_replay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The log says that events are gone, and then nothing: the connection asks again."""
    monkeypatch.setattr(connecting, "RETRY_SECONDS", 0.0)
    outages: list[Exception] = [Unavailable()]

    class Failing(FakeLog):
        async def oldest(self) -> int:
            if outages:
                raise outages.pop()
            return await super().oldest()

    log = Failing()
    log.events = [event(11), event(12)]
    hub = Hub(log)
    hub._lose(10)
    hub.publish(log.events)
    connection, transport = await connect(hub, cursor="2")
    await connection.receive(b'{"type":"subscribe"}')
    await settle()
    transport.take()
    assert not outages
    assert [frame["type"] for frame in transport.frames] == [
        "subscribed", "gap", "task.created", "task.created", "bookmark",
    ]  # fmt: skip


async def test_a_cursor_that_nobody_can_look_for_now_ends_the_connection() -> None:
    """To go on at the tail would be a gap that nobody announces."""
    log = FakeLog()
    log.down = True
    _, transport = await connect(Hub(log), cursor="7")
    assert transport.closed is not None
    assert transport.closed[0] == CloseCode.INTERNAL
    _, transport = await connect(Hub(FakeLog()), cursor="0" * 5000)
    assert transport.closed is not None
    assert transport.closed[0] == CloseCode.BAD_FRAME
