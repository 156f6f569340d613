"""The doorbell over Redis: one channel an installation, each ring one message, nothing is kept.

    message = tag (16 bytes) + BSON {"from": ..., "tail": seq, "events": [...]}

The tag is keyed (BLAKE2b): who can write to Redis can't make this node believe an event. BSON keeps
times and numbers as the log has them. More than 256 KiB of events are not sent, only `tail`.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from hashlib import blake2b
from typing import Any, Final

import bson
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from hive.events import Event
from storage.redis.client import TIMEOUT_SECONDS, RedisAway, RedisConnection

TAG_BYTES: Final = 16
MAX_MESSAGE_BYTES: Final = 256 * 1024
SILENCE_SECONDS: Final = 1.0
"""A connection that is silent for so long is asked whether it is there, and has as long again."""

_FIELDS: Final = tuple(field.name for field in fields(Event))
_OPTIONS: Final = CodecOptions[dict[str, Any]](tz_aware=True)


class RedisDoorbell:
    """The port `hive.nodes.Doorbell`. `channel` and `key` are the installation's own."""

    def __init__(self, redis: RedisConnection, url: str, *, channel: str, key: bytes) -> None:
        self._redis = redis
        self._url = url
        self._channel = channel
        self._key = key
        self._own = secrets.token_hex(8)

    async def ring(self, events: Sequence[Event]) -> None:
        message = self._write(events)

        async def publish(client: Redis) -> None:
            await client.publish(self._channel, message)

        try:
            await self._redis.run(publish)
        except RedisError as error:
            # It answers, but not to us: a right that we don't have.
            raise RedisAway(store="redis", cause=repr(error)[:200]) from error

    async def listen(
        self, opened: Callable[[], None], heard: Callable[[int, Sequence[Event]], None]
    ) -> None:
        # A connection of its own: the pool's are for calls that end.
        client = Redis.from_url(
            self._url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            client_name="agentzero-api-doorbell",
        )
        subscription = client.pubsub()
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                await subscription.subscribe(self._channel)
                await _next(subscription)
            opened()
            while True:
                message = await _next(subscription)
                if message["type"] == "message" and isinstance(message["data"], bytes):
                    self._hear(message["data"], heard)
        except (RedisError, OSError) as error:
            raise RedisAway(store="redis", cause=type(error).__name__) from error
        finally:
            with suppress(RedisError, OSError):
                await subscription.aclose()  # type: ignore[no-untyped-call]
            with suppress(RedisError, OSError):
                await client.aclose()

    def _hear(self, message: bytes, heard: Callable[[int, Sequence[Event]], None]) -> None:
        tag, body = message[:TAG_BYTES], message[TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(body)):
            return
        try:
            told = bson.decode(body, _OPTIONS)
        except BSONError:
            return
        if told["from"] != self._own:
            heard(told["tail"], [_read(each) for each in told["events"]])

    def _write(self, events: Sequence[Event]) -> bytes:
        told: dict[str, Any] = {"from": self._own, "tail": events[-1].seq, "events": []}
        body = bson.encode({**told, "events": [_document(event) for event in events]})
        if len(body) > MAX_MESSAGE_BYTES:
            body = bson.encode(told)
        return self._tag(body) + body

    def _tag(self, body: bytes) -> bytes:
        return blake2b(body, digest_size=TAG_BYTES, key=self._key).digest()


async def _next(subscription: PubSub) -> Mapping[str, Any]:
    """The next message of any kind. Raises TimeoutError when Redis is silent for too long."""
    message: Mapping[str, Any] | None = await subscription.get_message(timeout=SILENCE_SECONDS)
    if message is None:
        await subscription.ping()
        message = await subscription.get_message(timeout=SILENCE_SECONDS)
    if message is None:
        raise TimeoutError
    return message


def _document(event: Event) -> dict[str, Any]:
    return {name: getattr(event, name) for name in _FIELDS}


def _read(document: Mapping[str, Any]) -> Event:
    # A newer release may tell more.
    return Event(**{name: document[name] for name in _FIELDS})
