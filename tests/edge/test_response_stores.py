"""What every store of answers guarantees, in memory and in a real Redis."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hive.response_cache import ResponseStore
from storage.memory.response_cache import ENTRY_BYTES, MemoryResponses
from storage.redis.client import RedisConnection
from storage.redis.response_cache import MAX_ENTRY_BYTES, RedisResponses
from tests.api.running import found
from tests.servers import running_redis

# A busy machine may stop this process for longer than a call may take.
PATIENCE_SECONDS = 5.0


@pytest.fixture
async def redis(request: pytest.FixtureRequest) -> AsyncIterator[RedisConnection]:
    """A connection to the Redis of this run."""
    url = request.getfixturevalue("redis_url")
    connection = RedisConnection(url, timeout_seconds=PATIENCE_SECONDS)
    connection.start()
    yield connection
    await connection.stop()


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> ResponseStore:
    """Each store, empty."""
    if request.param == "memory":
        return MemoryResponses()
    return RedisResponses(request.getfixturevalue("redis"), f"{uuid.uuid4().hex}:")


async def test_what_was_kept_is_found_byte_for_byte(store: ResponseStore) -> None:
    """Whatever the bytes are; another key has nothing."""
    encoded = bytes(range(256)) * 4
    await store.keep("one", encoded, seconds=60)
    kept = await store.find("one")
    assert kept is not None
    assert kept.encoded == encoded
    assert 50 < kept.seconds_left <= 60
    assert await store.find("other") is None


async def test_what_was_kept_last_is_found(store: ResponseStore) -> None:
    """With its own time."""
    await store.keep("one", b"old", seconds=60)
    await store.keep("one", b"new", seconds=5)
    kept = await store.find("one")
    assert kept is not None
    assert kept.encoded == b"new"
    assert kept.seconds_left <= 5


async def test_nothing_is_found_once_its_time_is_over(store: ResponseStore) -> None:
    """It goes by itself."""
    await store.keep("one", b"1", seconds=0.05)
    await found(lambda: store.find("one"), lambda kept: kept is None, "it is gone")


@pytest.mark.parametrize("seconds", [0, -1])
async def test_what_has_no_time_left_is_not_kept(store: ResponseStore, seconds: float) -> None:
    """Its making took longer than it may live."""
    await store.keep("one", b"1", seconds=seconds)
    assert await store.find("one") is None


async def test_memory_is_bounded_and_the_least_recently_used_make_room() -> None:
    """Keys, bytes and what an entry costs are counted; nothing is left over."""
    size = ENTRY_BYTES + len("0") + 100
    store = MemoryResponses(3 * size)
    for key in "012":
        await store.keep(key, bytes(100), seconds=60)
    await store.find("0")
    await store.keep("3", bytes(100), seconds=60)
    assert [key for key in "0123" if await store.find(key)] == ["0", "2", "3"]
    assert store.used_bytes == 3 * size
    await store.keep("4", bytes(3 * size), seconds=60)
    assert await store.find("4") is None
    await store.keep("5", bytes(200), seconds=60)
    assert store.used_bytes <= 3 * size


async def test_what_is_too_large_does_not_go_to_redis(redis: RedisConnection) -> None:
    """An answer of a megabyte would hold up all others."""
    store = RedisResponses(redis, f"{uuid.uuid4().hex}:")
    await store.keep("one", bytes(MAX_ENTRY_BYTES + 1), seconds=60)
    assert await store.find("one") is None


async def test_without_redis_nothing_is_found_and_nobody_fails(tmp_path: Path) -> None:
    """It is as if nothing had been kept, until Redis is back."""
    with running_redis(tmp_path / "redis") as process:
        connection = RedisConnection(process.url, probe_seconds=0.01)
        connection.start()
        store = RedisResponses(connection, "x:")
        await store.keep("one", b"1", seconds=60)
        process.kill()
        assert await store.find("one") is None
        await store.keep("one", b"1", seconds=60)
        process.start()

        async def kept_again() -> bool:
            await store.keep("one", b"2", seconds=60)
            return await store.find("one") is not None

        await found(kept_again, bool, "Redis is used again")
        await connection.stop()


async def test_keys_of_one_installation_are_not_those_of_another(redis: RedisConnection) -> None:
    """The prefix sets them apart."""
    one, other = (RedisResponses(redis, f"{uuid.uuid4().hex}:") for _ in range(2))
    await one.keep("key", b"1", seconds=60)
    assert await other.find("key") is None
