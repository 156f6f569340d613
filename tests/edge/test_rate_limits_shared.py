"""Two nodes that share their limits over Redis, and what they do without it."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from server.rate_limits import SharedRateLimiter
from storage.redis.client import RedisConnection
from storage.redis.rate_limits import TIMEOUT_SECONDS, RedisRateLimiter
from tests.api.running import RunningNode, found, running_node
from tests.edge.limited import limits, limits_of
from tests.servers import RedisProcess, running_redis

pytestmark = pytest.mark.asyncio(loop_scope="module")

PUBLIC = "/openapi.json"
RECOVERY_SECONDS = 2.0
PATIENCE_SECONDS = 5.0
_addresses = (f"203.0.113.{n}" for n in itertools.count(1))


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A Redis that tests may stop."""
    with running_redis(tmp_path_factory.mktemp("shared")) as process:
        yield process


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(
    tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str, redis: RedisProcess
) -> AsyncIterator[list[RunningNode]]:
    """Two of two nodes. They share Redis only; the second believes no proxy."""
    async with AsyncExitStack() as stack:
        opened = []
        for proxies in ("127.0.0.1", ""):
            node = running_node(
                tmp_path_factory.mktemp("node"),
                mongodb_uri,
                rate_limit_enabled=True,
                rate_limit_nodes=2,
                redis_url=redis.url,
                trusted_proxies=proxies,
            )
            opened.append(await stack.enter_async_context(node))
            pool = connection_of(opened[-1])._client.connection_pool
            pool.connection_kwargs["socket_timeout"] = PATIENCE_SECONDS
            wait_for_redis(opened[-1], PATIENCE_SECONDS)
        yield opened


async def ask(nodes: Sequence[RunningNode], count: int, **headers: str) -> Counter[int]:
    """So many requests without a credential, one node after the other; what was answered."""
    seen: Counter[int] = Counter()
    clients = [node.client(headers=headers) for node in nodes]
    for client in itertools.islice(itertools.cycle(clients), count):
        seen[(await client.get(PUBLIC)).status_code] += 1
    return seen


def limiter_of(node: RunningNode) -> RedisRateLimiter:
    """What decides for both nodes."""
    limiter = limits_of(node)._limiter
    assert isinstance(limiter, SharedRateLimiter)
    assert isinstance(limiter._shared, RedisRateLimiter)
    return limiter._shared


def connection_of(node: RunningNode) -> RedisConnection:
    """The node's connection to Redis."""
    return limiter_of(node)._redis


def wait_for_redis(node: RunningNode, seconds: float) -> None:
    """How long a decision may take: on a busy machine Redis seems to be away for no reason."""
    limiter_of(node)._timeout_seconds = seconds


async def is_up(node: RunningNode) -> bool:
    """Whether the node finds Redis."""
    return connection_of(node).is_up


async def test_nodes_share_one_limit(nodes: list[RunningNode]) -> None:
    """Asking another node is no way around, and no header of an untrusted peer is."""
    with limits(*nodes, read=20):
        assert await ask(nodes, 30) == {200: 20, 429: 10}
        for number in range(10):
            claims = {
                "X-Forwarded-For": f"192.0.2.{number}",
                "X-Real-IP": f"192.0.2.{number}",
                "Forwarded": f"for=192.0.2.{number}",
            }
            assert await ask(nodes[1:], 1, **claims) == {429: 1}


@pytest.mark.parametrize("fault", ["pause", "kill"])
async def test_without_redis_a_node_gives_its_share_and_no_request_fails(
    nodes: list[RunningNode], redis: RedisProcess, fault: str
) -> None:
    """Only the first wait for it; when it is back, what was let through meanwhile still counts."""
    node, address = nodes[0], next(_addresses)
    with limits(*nodes, read=20):
        assert await ask([node], 4, **{"X-Forwarded-For": address}) == {200: 4}
        getattr(redis, fault)()
        wait_for_redis(node, TIMEOUT_SECONDS)
        try:
            assert await ask([node], 16, **{"X-Forwarded-For": address}) == {200: 6, 429: 10}
            other, took = next(_addresses), []
            for _ in range(100):
                began = time.perf_counter()
                await limits_of(node)._limiter.decide(
                    limits_of(node).policies.charges_of("read", None, other)
                )
                took.append(time.perf_counter() - began)
            # A machine that stands still once does not count.
            assert sorted(took)[94] < 0.005
            assert not await is_up(node)
        finally:
            if fault == "pause":
                redis.resume()
            else:
                redis.start()
        back = time.monotonic()
        await found(lambda: is_up(node), bool, "Redis is found again", 10)
        assert time.monotonic() - back < RECOVERY_SECONDS
        wait_for_redis(node, PATIENCE_SECONDS)
        assert await ask([node], 15, **{"X-Forwarded-For": address}) == {200: 10, 429: 5}
        # Decided together again.
        await found(lambda: is_up(nodes[1]), bool, "Redis is found again", 10)
        verdict = await limits_of(nodes[1])._limiter.decide(
            limits_of(nodes[1]).policies.charges_of("read", None, address)
        )
        assert verdict.standings[0].remaining < 20 - 1
