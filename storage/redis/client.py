"""The node's connection to Redis: what it shares with other nodes for a moment, never needs.

    redis = RedisConnection(url)
    redis.start()
    value = await redis.run(lambda client: client.get("key"))  # raises RedisAway
    await redis.stop()

Every call ends within 250 ms and is sent once. After the first that fails, all others fail at once,
without a byte sent, until Redis answers a ping again: it is asked every 200 ms. That this process
stood still is not held against Redis. One connection, one
breaker: whoever uses it must be able to go on without Redis.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from hive.errors import Unavailable

TIMEOUT_SECONDS = 0.25
# A call that is later than this many times its limit was kept waiting by this process.
LATE = 1.5
PROBE_SECONDS = 0.2
MAX_CONNECTIONS = 50

T = TypeVar("T")
log = structlog.get_logger(__name__)

# Builtin TimeoutError is an OSError; BusyLoadingError is a RedisConnectionError.
_AWAY: tuple[type[Exception], ...] = (
    RedisConnectionError,
    RedisTimeoutError,
    OSError,
    AuthenticationError,
    OutOfMemoryError,
    ReadOnlyError,
)


class RedisAway(Unavailable):
    """Redis does not answer, or not in time; whether the call took effect is not known."""


class RedisConnection:
    """A pool of connections behind a breaker. Safe for concurrent use on one event loop."""

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        probe_seconds: float = PROBE_SECONDS,
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._probe_seconds = probe_seconds
        self._client: Redis = Redis.from_pool(
            BlockingConnectionPool.from_url(
                url,
                max_connections=MAX_CONNECTIONS,
                # Whoever waits for a connection waits within the time of the call.
                timeout=timeout_seconds,
                socket_timeout=timeout_seconds,
                socket_connect_timeout=timeout_seconds,
                retry=Retry(NoBackoff(), 0),
                client_name="agentzero-api",
            )
        )
        self._is_up = True
        self._fell = asyncio.Event()
        self._probing: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        """Whether calls are sent; False from a failure until Redis answers again."""
        return self._is_up

    def start(self) -> None:
        """Begin to look for Redis whenever it is away; the event loop runs."""
        self._probing = asyncio.create_task(self._probe())

    async def stop(self) -> None:
        """Close the connections. Idempotent."""
        if self._probing is not None:
            self._probing.cancel()
            with suppress(asyncio.CancelledError):
                await self._probing
            self._probing = None
        await self._client.aclose()

    async def run(
        self, call: Callable[[Redis], Awaitable[T]], *, timeout_seconds: float | None = None
    ) -> T:
        """Send what `call` asks for, once. Raises RedisAway; other errors of Redis are faults.

        `timeout_seconds` may only shorten the wait.
        """
        if not self._is_up:
            raise RedisAway(store="redis", cause="it was away a moment ago")
        seconds = timeout_seconds or self._timeout_seconds
        began = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                return await call(self._client)
        except _AWAY as error:
            took = time.monotonic() - began
            is_timeout = isinstance(error, TimeoutError | RedisTimeoutError)
            if not is_timeout or took <= LATE * seconds:
                self._fall(error)
            raise RedisAway(store="redis", cause=type(error).__name__) from error

    def _fall(self, error: Exception) -> None:
        if self._is_up:
            self._is_up = False
            log.warning("redis.away", cause=type(error).__name__)
            self._fell.set()

    async def _probe(self) -> None:
        while True:
            await self._fell.wait()
            self._fell.clear()
            while not self._is_up:
                await asyncio.sleep(self._probe_seconds)
                self._is_up = await self._answers()
            log.info("redis.back")

    async def _answers(self) -> bool:
        ping: Awaitable[Any] = self._client.ping()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return bool(await ping)
        except (RedisError, OSError):
            return False
