"""What every rate limiter guarantees, on memory and on a real Redis."""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections.abc import AsyncIterator, Sequence

import pytest
from redis.asyncio import Redis

from hive.errors import Unavailable
from hive.rate_limits import Charge, Kind, Policy, RateLimiter, Verdict
from storage.memory.rate_limits import MemoryRateLimiter
from storage.redis.client import RedisConnection
from storage.redis.rate_limits import RedisRateLimiter
from tests.api.running import found
from tests.edge.reference import Decision, Reference

DECISIONS = 20_000
# A busy machine may stop this process for longer than a decision may take.
PATIENCE_SECONDS = 5.0


@pytest.fixture(params=["memory", "redis"])
async def limiter(
    request: pytest.FixtureRequest,
) -> AsyncIterator[RateLimiter]:
    """Each limiter, knowing nothing yet."""
    if request.param == "memory":
        yield MemoryRateLimiter()
        return
    connection = RedisConnection(
        request.getfixturevalue("redis_url"), timeout_seconds=PATIENCE_SECONDS
    )
    connection.start()
    prefix = f"{uuid.uuid4().hex}:"
    yield RedisRateLimiter(connection, prefix=prefix, timeout_seconds=PATIENCE_SECONDS)
    await connection.stop()


def window(limit: int, seconds: float = 60, name: str = "read") -> Policy:
    """A moving window."""
    return Policy(name, limit, seconds)


def bucket(limit: int, seconds: float = 60) -> Policy:
    """A token bucket."""
    return Policy("agent", limit, seconds, Kind.BUCKET)


async def passed(limiter: RateLimiter, verdict: Verdict, seconds: float) -> None:
    """Return once the limiter's own clock is so long after that verdict."""
    wanted = verdict.decided_at_us + round(seconds * 1_000_000)

    async def now() -> int:
        return (await limiter.decide([])).decided_at_us

    await found(now, lambda us: us >= wanted, "the window is over")


@pytest.mark.parametrize("policy", [window(3), bucket(3)], ids=["window", "bucket"])
async def test_the_limit_is_allowed_and_no_more(limiter: RateLimiter, policy: Policy) -> None:
    """What is left counts down, and a refusal says when to come back."""
    verdicts = [await limiter.decide([Charge(policy, "a")]) for _ in range(5)]
    assert [verdict.allowed for verdict in verdicts] == [True, True, True, False, False]
    assert [verdict.standings[0].remaining for verdict in verdicts] == [2, 1, 0, 0, 0]
    refused = verdicts[3]
    assert refused.violated == (policy.name,)
    most = 60 if policy.kind is Kind.WINDOW else 20
    assert most - 5 < refused.wait_seconds <= most
    assert refused.standings[0].reset_seconds == refused.wait_seconds
    assert verdicts[0].violated == ()
    assert verdicts[0].wait_seconds == 0


async def test_keys_do_not_share(limiter: RateLimiter) -> None:
    """One who has nothing left takes nothing from another."""
    for key in ("a", "b"):
        assert (await limiter.decide([Charge(window(1), key)])).allowed
        assert not (await limiter.decide([Charge(window(1), key)])).allowed


async def test_a_refusal_consumes_nothing_of_any_policy(limiter: RateLimiter) -> None:
    """Several policies are one decision: either all are charged or none."""
    narrow, wide, drops = Charge(window(2), "n"), Charge(window(9), "w"), Charge(bucket(9), "b")
    verdicts = [await limiter.decide([wide, narrow, drops]) for _ in range(6)]
    assert [verdict.allowed for verdict in verdicts] == [True, True, False, False, False, False]
    assert verdicts[-1].violated == ("read",)
    alone = await limiter.decide([wide])
    assert (alone.allowed, alone.standings[0].remaining) == (True, 6)
    assert (await limiter.decide([drops])).standings[0].remaining == 6


async def test_every_violated_policy_is_named_and_the_longest_wait_counts(
    limiter: RateLimiter,
) -> None:
    """Whoever comes back after the wait finds room in all of them."""
    short, long = Charge(window(1, 30, "read"), "s"), Charge(window(1, 90, "address"), "l")
    await limiter.decide([short, long])
    verdict = await limiter.decide([short, long])
    assert verdict.violated == ("read", "address")
    assert 80 < verdict.wait_seconds <= 90


async def test_parallel_decisions_never_exceed_the_limit(limiter: RateLimiter) -> None:
    """Two hundred at once get exactly fifty."""
    charges = [Charge(window(50), "a"), Charge(window(500, name="address"), "b")]
    verdicts = await asyncio.gather(*(limiter.decide(charges) for _ in range(200)))
    assert sum(verdict.allowed for verdict in verdicts) == 50
    remaining = {verdict.standings[0].remaining for verdict in verdicts if verdict.allowed}
    assert remaining == set(range(50))


async def test_a_unit_counts_for_exactly_one_window(limiter: RateLimiter) -> None:
    """It moves: what was taken first comes back first, when its own window is over."""
    policy = window(2, 0.2)
    first = await limiter.decide([Charge(policy, "a")])
    await passed(limiter, first, 0.1)
    second = await limiter.decide([Charge(policy, "a")])
    refused = await limiter.decide([Charge(policy, "a")])
    assert not refused.allowed
    back_at = refused.decided_at_us + round(refused.wait_seconds * 1e6)
    assert back_at == first.decided_at_us + 200_000
    await passed(limiter, refused, refused.wait_seconds)
    third = await limiter.decide([Charge(policy, "a")])
    assert third.allowed
    # A machine that stood still for so long would find both back.
    if third.decided_at_us < second.decided_at_us + 200_000:
        assert third.standings[0].remaining == 0


async def test_a_bucket_fills_evenly(limiter: RateLimiter) -> None:
    """After the wait there is one token, not all."""
    policy = bucket(4, 2)
    verdicts = [await limiter.decide([Charge(policy, "a")]) for _ in range(5)]
    refused = verdicts[-1]
    assert not refused.allowed
    await passed(limiter, refused, refused.wait_seconds)
    verdict = await limiter.decide([Charge(policy, "a")])
    assert verdict.allowed
    assert verdict.standings[0].remaining <= 1


async def test_several_units_are_taken_at_once_or_not(limiter: RateLimiter) -> None:
    """A batch costs what its parts cost; one that can never fit waits as long as any."""
    for policy in (window(5), bucket(5)):
        key = policy.name
        assert (await limiter.decide([Charge(policy, key, 4)])).allowed
        assert not (await limiter.decide([Charge(policy, key, 2)])).allowed
        assert (await limiter.decide([Charge(policy, key, 1)])).allowed
        too_many = await limiter.decide([Charge(policy, f"{key}2", 6)])
        assert (too_many.allowed, too_many.wait_seconds) == (False, 60)


@pytest.mark.parametrize("kind", [Kind.WINDOW, Kind.BUCKET])
async def test_a_changed_limit_counts_from_the_next_decision(
    limiter: RateLimiter, kind: Kind
) -> None:
    """What was taken under the old one still counts."""
    old, lower, higher = (Policy("read", limit, 60, kind) for limit in (10, 3, 12))
    for _ in range(5):
        await limiter.decide([Charge(old, "a")])
    first = await limiter.decide([Charge(lower, "a")])
    if kind is Kind.WINDOW:
        assert not first.allowed
        assert first.standings[0].remaining == 0
        verdicts = [await limiter.decide([Charge(higher, "a")]) for _ in range(8)]
        assert sum(verdict.allowed for verdict in verdicts) == 7
    else:
        assert first.standings[0].remaining == 2


async def test_replayed_through_an_exact_reference_no_verdict_is_wrong(
    limiter: RateLimiter,
) -> None:
    """Bursts at the edges of windows, half to five times the limit, eight callers at once."""
    policies = [window(20, 0.25), window(100, 1.0, "write"), bucket(40, 0.5)]
    keys = [(f"{one.name}:{number}", one) for one in policies for number in range(12)]
    random_ = random.Random(9)
    log: list[Decision] = []
    left = itertools.repeat(None, DECISIONS // 2)

    async def call() -> None:
        for _ in left:
            key, policy = random_.choice(keys[: random_.choice((2, 12, 36))])
            second, other = random_.choice(keys)
            charges = [Charge(policy, key)]
            if second != key:
                charges.append(Charge(other, second))
            verdict = await limiter.decide(charges)
            log.append(decision(charges, verdict))
            if not verdict.allowed and random_.random() < 0.02:
                # Come back at the very edge, all at once.
                await asyncio.sleep(min(verdict.wait_seconds, 0.05))
            elif not verdict.allowed:
                await asyncio.sleep(0)

    await asyncio.gather(*(call() for _ in range(8)))
    assert sum(len(one.charges) for one in log) > 0.9 * DECISIONS
    replayed = Reference.replay(log)
    assert replayed.wrong == []
    assert replayed.allowed > 500
    assert replayed.refused > 500
    assert replayed.excess == 0, "more than the limit in some window"


def decision(charges: Sequence[Charge], verdict: Verdict) -> Decision:
    """What the log keeps."""
    return Decision(
        verdict.decided_at_us,
        tuple((one.key, one.policy) for one in charges),
        verdict.allowed,
    )


class SetClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        """The time."""
        return self.now


async def test_the_edge_of_a_window_is_exact_to_the_microsecond() -> None:
    """One microsecond before it is refused, at the edge it is allowed."""
    clock = SetClock()
    limiter = MemoryRateLimiter(clock=clock)
    charge = [Charge(window(1), "a")]
    assert (await limiter.decide(charge)).allowed
    clock.now += 59_999_999
    refused = await limiter.decide(charge)
    assert (refused.allowed, refused.wait_seconds) == (False, 0.000001)
    clock.now += 1
    assert (await limiter.decide(charge)).allowed


async def test_memory_forgets_what_counts_no_more() -> None:
    """A thousand callers of a minute ago leave nothing behind."""
    clock = SetClock()
    limiter = MemoryRateLimiter(clock=clock)
    for number in range(1_000):
        limiter.decide_now([Charge(window(5), f"w{number}"), Charge(bucket(5), f"b{number}")])
    assert len(limiter) == 2_000
    clock.now += 60_000_000
    for number in range(1_000):
        limiter.decide_now([Charge(window(500), f"x{number % 3}")])
    assert len(limiter) == 3


async def test_memory_has_room_for_so_many_keys_and_drops_the_quietest() -> None:
    """Rotating addresses cost no memory; who is active is not forgotten."""
    limiter = MemoryRateLimiter(max_keys=100)
    busy = [Charge(window(500), "busy")]
    for number in range(1_000):
        limiter.decide_now([Charge(window(5), f"once{number}")])
        if number % 10 == 0:
            limiter.decide_now(busy)
    assert len(limiter) == 100
    assert limiter.look(busy).standings[0].remaining == 400


async def test_a_look_takes_nothing_and_a_take_always_takes() -> None:
    """The two halves of a decision that somebody else makes."""
    limiter = MemoryRateLimiter()
    charge = [Charge(window(2), "a")]
    assert limiter.look(charge).allowed
    assert limiter.look(charge).standings[0].remaining == 2
    for _ in range(3):
        limiter.take(charge, limiter.look(charge).decided_at_us)
    assert not limiter.look(charge).allowed


async def test_redis_keeps_nothing_beyond_the_window(redis_url: str) -> None:
    """Every key expires by itself, and a list is never longer than its limit."""
    connection = RedisConnection(redis_url, timeout_seconds=PATIENCE_SECONDS)
    prefix = f"{uuid.uuid4().hex}:"
    limiter = RedisRateLimiter(connection, prefix=prefix, timeout_seconds=PATIENCE_SECONDS)
    charges = [Charge(window(5, 0.3), "w"), Charge(bucket(5, 0.3), "b")]
    last = [await limiter.decide(charges) for _ in range(50)][-1]
    client = Redis.from_url(redis_url)
    keys = await client.keys(f"{prefix}*")
    assert len(keys) in (0, 2)
    for key in keys:
        assert await client.pttl(key) <= 300
        if await client.type(key) == b"list":
            assert await client.llen(key) <= 5
    await passed(limiter, last, 0.31)
    assert await client.keys(f"{prefix}*") == []
    await client.aclose()
    await connection.stop()


async def test_a_redis_that_refuses_is_as_good_as_away(redis_url: str) -> None:
    """Whatever it says: the node goes on alone."""
    connection = RedisConnection(redis_url, timeout_seconds=PATIENCE_SECONDS)
    prefix = f"{uuid.uuid4().hex}:"
    limiter = RedisRateLimiter(connection, prefix=prefix, timeout_seconds=PATIENCE_SECONDS)
    client = Redis.from_url(redis_url)
    await client.set(f"{prefix}window:a", "no list")
    with pytest.raises(Unavailable):
        await limiter.decide([Charge(window(5), "a")])
    assert connection.is_up
    await client.script_flush()
    assert (await limiter.decide([Charge(window(5), "b")])).allowed
    await client.aclose()
    await connection.stop()


async def test_a_clock_of_redis_that_was_set_back_locks_nobody_out(redis_url: str) -> None:
    """A little: time stands still. By more than a window: the key starts anew."""
    connection = RedisConnection(redis_url, timeout_seconds=PATIENCE_SECONDS)
    prefix = f"{uuid.uuid4().hex}:"
    limiter = RedisRateLimiter(connection, prefix=prefix, timeout_seconds=PATIENCE_SECONDS)
    now = (await limiter.decide([])).decided_at_us
    client = Redis.from_url(redis_url)
    for ahead, remaining in ((20_000_000, 1), (3_600_000_000, 4)):
        key = f"{prefix}window:{ahead}"
        await client.rpush(key, *[now + ahead] * 3)
        verdict = await limiter.decide([Charge(window(5), str(ahead))])
        assert verdict.allowed
        assert verdict.standings[0].remaining == remaining
        assert verdict.standings[0].reset_seconds <= 60
    await client.aclose()
    await connection.stop()
