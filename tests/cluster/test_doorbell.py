"""What one node records reaches the hubs of the others: at once, or by their own looking."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from hive.events import Event
from server.doorbell import HubDoorbell
from server.hub import Hub
from storage.redis.client import RedisConnection
from storage.redis.doorbell import MAX_MESSAGE_BYTES, RedisDoorbell
from tests.realtime.fakes import FakeLog
from tests.servers import RedisProcess, eventually, running_redis

NEVER = 600.0
SOON = 0.2
KEY = b"k" * 32


@dataclass
class Ear:
    """A node as far as events go: its hub, its doorbell and what its sockets would be told."""

    hub: Hub
    doorbell: HubDoorbell
    heard: list[Event] = field(default_factory=list)

    @property
    def seqs(self) -> list[int]:
        """What was heard, in order."""
        return [event.seq for event in self.heard]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    """A Redis of the test's own, to be ended and stopped."""
    with running_redis(tmp_path / "redis") as process:
        yield process


@contextlib.asynccontextmanager
async def ear(
    url: str, log: FakeLog, *, silence_seconds: float = NEVER, key: bytes = KEY
) -> AsyncIterator[Ear]:
    """A node that has begun to listen."""
    connection = RedisConnection(url)
    connection.start()
    hub = Hub(log, silence_seconds=silence_seconds)
    bell = RedisDoorbell(connection, url, channel="test", key=key)
    node = Ear(hub, HubDoorbell(bell, hub))
    hub.subscribe(node.heard.extend)
    await hub.start()
    node.doorbell.start()
    try:
        yield node
    finally:
        await node.doorbell.stop()
        await hub.stop()
        await connection.stop()


@contextlib.asynccontextmanager
async def two_nodes(url: str, log: FakeLog, **options: Any) -> AsyncIterator[tuple[Ear, Ear]]:
    """A recorder's node, and one that hears it by the doorbell."""
    async with ear(url, log, **options) as recorder, ear(url, log, **options) as other:
        await subscribed(url, 2)
        yield recorder, other


async def subscribed(url: str, nodes: int) -> None:
    """Return once so many nodes listen."""
    async with Redis.from_url(url) as client:
        found = 0

        async def look() -> None:
            nonlocal found
            ((_, found),) = await client.pubsub_numsub("test")

        await look()
        while found < nodes:
            await look()


def record(recorder: Ear, log: FakeLog, count: int = 1, **fields: Any) -> None:
    """As the recorder: append, then publish."""
    events = [log.append(**fields) for _ in range(count)]
    recorder.hub.publish(events)
    recorder.doorbell.ring(events)


async def test_another_node_hears_at_once(redis: RedisProcess) -> None:
    """Without its hub looking by itself, and exactly as the log has it; nothing comes back."""
    log = FakeLog()
    async with two_nodes(redis.url, log) as (recorder, other):
        time = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
        record(recorder, log, data={"n": 2**40, "at": time, "of": ["a", 1.5, True]})
        record(recorder, log, 3)
        await eventually(lambda: len(other.heard) == 4, "the other node has heard")
        assert other.heard == log.events == recorder.heard


async def test_what_is_too_large_is_read_from_the_log(redis: RedisProcess) -> None:
    """The ring says only how far the log goes."""
    log = FakeLog()
    async with two_nodes(redis.url, log) as (recorder, other):
        await eventually(lambda: log.reads >= 2, "both have looked after their start")
        before = log.reads
        record(recorder, log, data={"text": "x" * MAX_MESSAGE_BYTES})
        await eventually(lambda: len(other.heard) == 1, "the other node has heard")
        assert other.heard == log.events
        assert log.reads > before


async def test_a_lost_ring_is_made_good_by_the_next(redis: RedisProcess) -> None:
    """The hole in `seq` is read from the log, and the order stays."""
    log = FakeLog()
    async with two_nodes(redis.url, log) as (recorder, other):
        record(recorder, log)
        await eventually(lambda: other.seqs == [1], "the first was heard")
        recorder.hub.publish([log.append()])
        record(recorder, log)
        await eventually(lambda: len(other.heard) == 3, "the hole was filled")
        assert other.seqs == [1, 2, 3]


async def test_nobody_else_can_ring(redis: RedisProcess) -> None:
    """A message without our key, a cut one, and one of another hive are nothing."""
    log = FakeLog()
    async with (
        two_nodes(redis.url, log) as (recorder, other),
        ear(redis.url, FakeLog(), key=b"o" * 32) as stranger,
        Redis.from_url(redis.url) as client,
    ):
        await subscribed(redis.url, 3)
        stranger.doorbell.ring([FakeLog().append(data={"text": "forged"})])
        for message in (b"", b"x" * 8, b"x" * 64):
            await client.publish("test", message)
        record(recorder, log, data={"text": "ours"})
        await heard(other, 1)
        assert other.heard == log.events


@pytest.mark.parametrize("fault", ["killed", "stopped"])
async def test_events_go_on_without_redis_and_with_it_again(
    redis: RedisProcess, fault: str
) -> None:
    """Redis away: the hub looks by itself. Back: it is told again. Never lost, never twice."""
    log = FakeLog()
    async with two_nodes(redis.url, log, silence_seconds=SOON) as (recorder, other):
        record(recorder, log, 2)
        await eventually(lambda: len(other.heard) == 2, "the doorbell works")
        redis.kill() if fault == "killed" else redis.pause()
        for count in (3, 4, 5):
            record(recorder, log)
            await heard(other, count)
        redis.start() if fault == "killed" else redis.resume()
        await subscribed(redis.url, 2)
        await eventually(lambda: recorder_hears(recorder), "the connection is back")
        record(recorder, log, 2)
        await eventually(lambda: len(other.heard) == 7, "all were heard")
        assert other.seqs == recorder.seqs == [1, 2, 3, 4, 5, 6, 7]


async def test_what_was_missed_is_read_when_redis_is_back(redis: RedisProcess) -> None:
    """The hub does not wait for a silence then."""
    log = FakeLog()
    async with two_nodes(redis.url, log) as (recorder, other):
        redis.kill()
        record(recorder, log, 3)
        assert other.heard == []
        redis.start()
        await eventually(lambda: other.seqs == [1, 2, 3], "what was missed was read")


async def heard(node: Ear, count: int) -> None:
    """Return once the node has heard of so many events."""
    await eventually(lambda: len(node.heard) == count, f"{count} were heard")


def recorder_hears(node: Ear) -> bool:
    """Whether the node would ring again."""
    bell = node.doorbell._doorbell
    return isinstance(bell, RedisDoorbell) and bell._redis.is_up
