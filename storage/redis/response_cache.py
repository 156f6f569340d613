"""Answers in Redis, for all nodes: the port `hive.response_cache.ResponseStore`.

Redis bounds its memory itself (`maxmemory` with `allkeys-lfu`); no entry outlives its seconds.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from redis.asyncio import Redis

from hive.response_cache import KeptResponse
from storage.redis.client import RedisAway, RedisConnection

MAX_ENTRY_BYTES: Final = 1024 * 1024


class RedisResponses:
    """`prefix` sets the keys apart from those of other servers and of other releases."""

    def __init__(self, redis: RedisConnection, prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix

    async def find(self, key: str) -> KeptResponse | None:
        name = self._prefix + key

        async def read(client: Redis) -> list[object]:
            # A transaction: between the two the entry could be replaced.
            async with client.pipeline() as asked:
                asked.get(name)
                asked.pttl(name)
                return await asked.execute()

        try:
            encoded, milliseconds = await self._redis.run(read)
        except RedisAway:
            return None
        if not isinstance(encoded, bytes) or not isinstance(milliseconds, int) or milliseconds <= 0:
            return None
        return KeptResponse(encoded, milliseconds / 1000)

    async def keep(self, key: str, encoded: bytes, *, seconds: float) -> None:
        milliseconds = int(seconds * 1000)
        if milliseconds <= 0 or len(encoded) > MAX_ENTRY_BYTES:
            return

        async def write(client: Redis) -> None:
            await client.set(self._prefix + key, encoded, px=milliseconds)

        with suppress(RedisAway):
            await self._redis.run(write)
