"""Rate limits that all nodes share: one script on the clock of Redis, so one atomic decision.

Keys live for one window after what was taken last. They hold addresses and identifiers, no secrets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from hive.rate_limits import Charge, Standing, Verdict
from storage.redis.client import RedisAway, RedisConnection

PREFIX: Final = "agentzero:limit:"
TIMEOUT_SECONDS: Final = 0.1
_MICRO: Final = 1_000_000


class RedisRateLimiter:
    """Decides within 100 ms, or raises RedisAway; then the charges may have been taken, or not."""

    def __init__(
        self,
        redis: RedisConnection,
        *,
        prefix: str = PREFIX,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._redis = redis
        self._prefix = prefix
        self._timeout_seconds = timeout_seconds
        self._script = files(__package__).joinpath("rate_limits.lua").read_text("utf-8")
        self._digest = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()

    async def decide(self, charges: Sequence[Charge]) -> Verdict:
        keys = [f"{self._prefix}{one.policy.kind}:{one.key}" for one in charges]
        numbers = [
            part
            for one in charges
            for part in (one.policy.kind.value, one.policy.limit, one.policy.window_us, one.cost)
        ]

        async def run(client: Redis) -> list[int]:
            given: Any
            try:
                given = await client.evalsha(self._digest, len(keys), *keys, *numbers)
            except NoScriptError:
                given = await client.eval(self._script, len(keys), *keys, *numbers)
            return list(given)

        try:
            answered = await self._redis.run(run, timeout_seconds=self._timeout_seconds)
        except RedisError as error:
            # It answers, but not to us: what is no right of ours, or a key of somebody else's.
            raise RedisAway(store="redis", cause=repr(error)[:200]) from error
        allowed, now, *figures = answered
        standings = tuple(
            Standing(one.policy, remaining, reset / _MICRO, wait / _MICRO)
            for one, remaining, reset, wait in zip(
                charges, figures[::3], figures[1::3], figures[2::3], strict=True
            )
        )
        return Verdict(bool(allowed), standings, now)
