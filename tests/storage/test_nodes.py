"""The list of nodes: true within seconds, kept by the database's clock, nobody's decision."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from hive.nodes import ALIVE_SECONDS, LISTED_SECONDS, NodeSign
from storage.mongo.nodes import MongoNodes
from tests.storage.store import Store

ONE = NodeSign("nod_1", "boot-1", "1.2.3", "http://127.0.0.1:8000", ("reaper", "recorder"))


@pytest.fixture
async def nodes(store: Store) -> MongoNodes:
    """The list, empty."""
    opened = MongoNodes(store.database)
    await opened.prepare()
    await store.database["nodes"].delete_many({})
    return opened


async def _silence(store: Store, node_id: str, seconds: float) -> None:
    earlier = {"$subtract": ["$$NOW", round(seconds * 1000)]}
    await store.database["nodes"].update_one({"_id": node_id}, [{"$set": {"seen_at": earlier}}])


async def test_a_node_is_listed_as_it_says(nodes: MongoNodes) -> None:
    """Each sign replaces the one before; the start stays that of the process."""
    await nodes.sign(ONE)
    (first,) = await nodes.list()
    assert (first.node_id, first.version, first.address) == ("nod_1", "1.2.3", ONE.address)
    assert first.duties == ("reaper", "recorder")
    assert first.is_alive
    assert not first.is_draining
    await nodes.sign(replace(ONE, duties=(), is_draining=True))
    (second,) = await nodes.list()
    assert second.started_at == first.started_at
    assert second.seen_at >= first.seen_at
    assert second.is_draining
    assert second.duties == ()


async def test_text_that_looks_like_a_field_stays_text(nodes: MongoNodes) -> None:
    """The pipeline takes nothing of a sign for an expression."""
    await nodes.sign(replace(ONE, version="$_id", duties=("$$NOW",)))
    (node,) = await nodes.list()
    assert (node.version, node.duties) == ("$_id", ("$$NOW",))


async def test_a_restarted_node_replaces_itself(nodes: MongoNodes, store: Store) -> None:
    """It has a new start, and what the old process still says at its end takes nothing away."""
    await nodes.sign(ONE)
    await store.database["nodes"].update_one(
        {"_id": "nod_1"}, [{"$set": {"started_at": {"$subtract": ["$$NOW", 60_000]}}}]
    )
    (old,) = await nodes.list()
    await nodes.sign(replace(ONE, boot="boot-2"))
    (new,) = await nodes.list()
    assert new.started_at - old.started_at >= timedelta(seconds=60)
    await nodes.leave("nod_1", "boot-1")
    assert len(await nodes.list()) == 1
    await nodes.leave("nod_1", "boot-2")
    assert await nodes.list() == []


async def test_a_silent_node_is_gone_and_later_forgotten(nodes: MongoNodes, store: Store) -> None:
    """Not alive after 6 s, not listed after five minutes; the others stay as they are."""
    await nodes.sign(ONE)
    await nodes.sign(replace(ONE, node_id="nod_2"))
    await _silence(store, "nod_1", ALIVE_SECONDS + 1)
    assert [(one.node_id, one.is_alive) for one in await nodes.list()] == [
        ("nod_1", False),
        ("nod_2", True),
    ]
    await _silence(store, "nod_1", LISTED_SECONDS + 1)
    assert [one.node_id for one in await nodes.list()] == ["nod_2"]
