"""Requests under keys in MongoDB: who holds one, and who takes it over."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from hive.idempotency import HELD_SECONDS, KeptAnswer, KeyedRequest, Runner
from storage.mongo.client import open_client, open_database
from storage.mongo.idempotency import MongoIdempotency
from tests.api.running import dropped_afterwards, found

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def store(mongodb_uri: str) -> AsyncIterator[MongoIdempotency]:
    """The store alone, with a database of its own."""
    name = f"test_{uuid.uuid4().hex}"
    client = open_client(mongodb_uri)
    with dropped_afterwards(mongodb_uri, name):
        yield MongoIdempotency(open_database(client, name), held_seconds=0.3)
        await client.close()


REQUEST = KeyedRequest("record", "fingerprint", "usr_1", "create_task")
ANSWER = KeptAnswer(200, {"Location": "/there"}, b"{}", "application/json")


def runner(call: str, node_id: str = "nod_1", boot: str = "1", *, alone: bool = True) -> Runner:
    """Who claims."""
    return Runner(call, node_id, boot, alone)


async def test_a_request_of_a_dead_node_is_taken_over(store: MongoIdempotency) -> None:
    """At once by its successor, later by others; always with the first seed; the dead stay dead."""
    first = await store.claim(REQUEST, runner("one"), "suffix", b"nonce")
    assert first.is_held
    assert not (await store.claim(REQUEST, runner("two", alone=False), "x", b"x")).is_held
    assert not (await store.claim(REQUEST, runner("two", "nod_2"), "x", b"x")).is_held
    successor = await store.claim(REQUEST, runner("three", boot="2"), "x", b"x")
    assert (successor.is_held, successor.suffix, successor.nonce) == (True, "suffix", b"nonce")
    assert not await store.finish("record", "one", ANSWER)
    other = await found(
        lambda: store.claim(REQUEST, runner("four", "nod_2"), "x", b"x"),
        lambda claim: claim.is_held,
        "the other node takes over",
    )
    assert (other.suffix, other.nonce) == ("suffix", b"nonce")
    assert not await store.finish("record", "three", ANSWER)
    assert await store.finish("record", "four", ANSWER)
    after = await store.claim(REQUEST, runner("five", "nod_3"), "x", b"x")
    assert (after.is_held, after.answer, after.nonce) == (False, ANSWER, b"")
    assert HELD_SECONDS > 10


async def test_of_many_claims_at_once_one_holds(
    store: MongoIdempotency, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first ones race to insert, the later ones to take over."""
    monkeypatch.setattr(store, "_held_seconds", HELD_SECONDS)
    for attempt in range(2):
        runners = [runner(f"{attempt}-{n}", f"nod_{attempt}-{n}") for n in range(40)]
        claims = await asyncio.gather(
            *(store.claim(REQUEST, one, f"s{n}", b"n") for n, one in enumerate(runners))
        )
        held = [one for one, claim in zip(runners, claims, strict=True) if claim.is_held]
        assert len(held) == 1
        assert len({claim.suffix for claim in claims}) == 1
        await store.release("record", held[0].call_id)


async def test_another_request_never_takes_over(store: MongoIdempotency) -> None:
    """A key stays with its request, whatever became of it."""
    await store.claim(REQUEST, runner("one"), "suffix", b"nonce")
    await store.release("record", "one")
    other = KeyedRequest("record", "another", "usr_1", "create_task")
    claim = await store.claim(other, runner("two"), "x", b"x")
    assert (claim.is_held, claim.fingerprint) == (False, "fingerprint")
