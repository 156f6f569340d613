"""Leases of duties: one holder at a time, and nobody at work behind the end of a lease."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from hive.errors import Unavailable
from server import duties
from server.duties import Duty
from storage.mongo.leadership import MongoLeadership
from tests.servers import eventually
from tests.storage.store import Store


async def _expire(store: Store) -> None:
    past = {"$subtract": ["$$NOW", 1]}
    await store.database["leaders"].update_one({}, [{"$set": {"expires_at": past}}])


async def test_two_nodes_exclude_each_other(store: Store) -> None:
    """The second gets the duty when the first gives it up, under a greater term."""
    lead = store.leadership
    assert await lead.acquire("duty", "a", 30.0) == 1
    assert await lead.acquire("duty", "b", 30.0) is None
    assert await lead.acquire("other", "b", 30.0) == 1
    await lead.release("duty", "a", 1)
    assert await lead.acquire("duty", "b", 30.0) == 2
    assert await lead.acquire("duty", "a", 30.0) is None


async def test_of_many_nodes_at_once_one_gets_the_duty(store: Store) -> None:
    """Also when the duty is new."""
    terms = await asyncio.gather(*(store.leadership.acquire("duty", f"n{n}", 30) for n in range(9)))
    assert [term for term in terms if term is not None] == [1]


async def test_the_same_node_takes_its_duty_again_at_once(store: Store) -> None:
    """It need not wait for its own lease, and its old term is over."""
    lead = store.leadership
    assert await lead.acquire("duty", "a", 30.0) == 1
    assert await lead.acquire("duty", "a", 30.0) == 2
    assert not await lead.renew("duty", "a", 1, 30.0)
    assert await lead.renew("duty", "a", 2, 30.0)


async def test_a_lease_that_is_over_is_taken_over(store: Store) -> None:
    """Its last holder can neither renew it, nor save, nor take it from the new one."""
    lead = store.leadership
    await lead.acquire("duty", "a", 30.0)
    assert await lead.save_checkpoint("duty", "a", 1, {"token": {"$a.b": 1}})
    await _expire(store)
    assert await lead.acquire("duty", "b", 30.0) == 2
    assert not await lead.renew("duty", "a", 1, 30.0)
    assert not await lead.save_checkpoint("duty", "a", 1, {"token": "stale"})
    await lead.release("duty", "a", 1)
    assert await lead.acquire("duty", "c", 30.0) is None
    assert await lead.load_checkpoint("duty") == {"token": {"$a.b": 1}}
    assert await lead.load_checkpoint("never") is None


async def test_the_log_names_the_node_that_writes_it(store: Store) -> None:
    """Nobody, once the lease is over."""
    assert await store.events.recorder() is None
    await store.leadership.acquire("recorder", "node-1", 30.0)
    assert await store.events.recorder() == "node-1"
    await _expire(store)
    assert await store.events.recorder() is None


class _Worker:
    """A duty's work: which terms it was given, and when it was ended."""

    def __init__(self) -> None:
        self.terms: list[int] = []
        self.ended_at: list[float] = []
        self.failures: list[Exception] = []

    async def work(self, term: int) -> None:
        self.terms.append(term)
        if self.failures:
            raise self.failures.pop()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended_at.append(time.monotonic())


@asynccontextmanager
async def _competing(
    leadership: MongoLeadership, worker: _Worker, node_id: str = "a", seconds: float = 30.0
) -> AsyncIterator[Duty]:
    duty = Duty("duty", leadership, node_id, worker.work, lease_seconds=seconds)
    duty.start()
    try:
        yield duty
    finally:
        await duty.stop()


class _Hanging(MongoLeadership):
    """A store that answers until it is asked to renew."""

    acquired_at = float("inf")

    async def acquire(self, duty: str, node_id: str, seconds: float) -> int | None:
        if self.acquired_at < time.monotonic():
            raise Unavailable
        self.acquired_at = time.monotonic()
        return await super().acquire(duty, node_id, seconds)

    async def renew(self, duty: str, node_id: str, term: int, seconds: float) -> bool:
        await asyncio.Event().wait()
        raise AssertionError


async def test_work_ends_before_its_lease_when_the_store_hangs(store: Store) -> None:
    """Whoever takes over finds nobody at work, although no answer ever came."""
    worker, hanging = _Worker(), _Hanging(store.database)
    async with _competing(hanging, worker, seconds=5.0):
        await eventually(lambda: worker.ended_at, "the work is ended")
    assert worker.ended_at[0] - hanging.acquired_at < 5.0


async def test_work_ends_when_the_lease_is_lost(store: Store) -> None:
    """The next renewal says so, and the node competes again."""
    worker = _Worker()
    async with _competing(store.leadership, worker, seconds=0.6) as duty:
        await eventually(lambda: duty.is_held, "the duty is held")
        await store.database["leaders"].update_one({}, {"$set": {"holder": "b", "term": 7}})
        await eventually(lambda: worker.ended_at, "the work is ended")
        await eventually(lambda: len(worker.terms) > 1, "the duty is held again")
    assert worker.terms == [1, 8]


async def test_work_that_fails_is_begun_again_under_a_new_term(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outages and faults alike."""
    monkeypatch.setattr(duties, "RETRY_SECONDS", 0.01)
    worker = _Worker()
    worker.failures = [Unavailable(), ValueError("a fault")]
    async with _competing(store.leadership, worker) as duty:
        await eventually(lambda: len(worker.terms) == 3, "it is begun a third time")
        assert duty.is_held
    assert worker.terms == [1, 2, 3]


async def test_a_duty_that_is_stopped_is_free_at_once(store: Store) -> None:
    """Another node need not wait for the lease to run out."""
    first, second = _Worker(), _Worker()
    async with _competing(store.leadership, first) as duty:
        await eventually(lambda: first.terms, "the first works")
        async with _competing(store.leadership, second, "b") as waiting:
            assert not waiting.is_held
            await duty.stop()
            assert first.ended_at
            await eventually(lambda: second.terms, "the second works")
    assert (first.terms, second.terms) == ([1], [2])
    assert not duty.is_held
