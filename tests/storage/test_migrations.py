"""Documents are brought forward once, beside nodes of the release before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from hive.store_schema import StoreRefused, StoreSchema
from storage.mongo.client import Database
from storage.mongo.migrations import MIGRATIONS, SCHEMA, STORE, Migration, MongoSchema, describe
from tests.servers import eventually
from tests.storage.store import Store

RELEASE_1 = MIGRATIONS[:1]


async def _expand(database: Database) -> None:
    """A new field beside the old one, which old nodes neither know nor miss."""
    await database["tasks"].update_many(
        {"title": {"$exists": False}}, [{"$set": {"title": "$name"}}]
    )


async def _contract(database: Database) -> None:
    await database["tasks"].update_many({}, {"$unset": {"name": ""}})


EXPAND = Migration(2, 1, "Tasks have a title.", _expand)
CONTRACT = Migration(3, 2, "Tasks have no name.", _contract)
RELEASE_2 = (*RELEASE_1, EXPAND)
RELEASE_3 = (*RELEASE_2, CONTRACT)


@pytest.fixture(autouse=True)
async def _no_schema(store: Store) -> None:
    """The database is shared in turn: begin without a version."""
    await store.database[SCHEMA].delete_many({})


def _counting(runs: list[int], *, wait: Callable[[], Any] | None = None) -> Sequence[Migration]:
    async def run(_database: Database) -> None:
        runs.append(len(runs))
        if wait is not None:
            await wait()

    return (*RELEASE_1, Migration(2, 1, "Counted.", run))


def test_versions_of_the_list_are_dense_and_readable() -> None:
    """1, 2, 3 ...; no step asks for a version that is not there yet, or takes one back."""
    assert [step.version for step in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))
    readable = [step.readable_from for step in MIGRATIONS]
    assert readable == sorted(readable)
    assert all(step.readable_from <= step.version for step in MIGRATIONS)


async def test_a_new_store_gets_the_newest_version(store: Store) -> None:
    """Step by step, and a second start finds nothing to do."""
    schema = MongoSchema(store.database, RELEASE_2)
    assert await schema.load() == StoreSchema(0, 0)
    assert await schema.migrate("nod_1") == StoreSchema(2, 1)
    assert await schema.migrate("nod_2") == StoreSchema(2, 1)
    found = await store.database[SCHEMA].find_one({"_id": STORE})
    assert found is not None
    assert [step["version"] for step in found["steps"]] == [1, 2]
    assert describe(await schema.load(), RELEASE_3)["missing"] == ["3: Tasks have no name."]


async def test_two_releases_work_side_by_side(store: Store) -> None:
    """The old node reads and writes while the new one migrates, and is refused after the end."""
    old = MongoSchema(store.database, RELEASE_1)
    await old.migrate("nod_old")
    before = await store.submit(name="before")
    await MongoSchema(store.database, RELEASE_2).migrate("nod_new")
    # The old release: reads what was migrated, writes without the new field, starts again.
    assert (await store.tasks.get(before.task_id)).spec.name == "before"
    after = await store.submit(name="after")
    assert "title" not in await store.document(after.task_id)
    assert await old.check() == StoreSchema(2, 1)
    assert await old.migrate("nod_old") == StoreSchema(2, 1)
    # The next release finishes it: now the first one can't read the documents any more.
    await MongoSchema(store.database, RELEASE_3).migrate("nod_newest")
    with pytest.raises(StoreRefused, match=r"version 3.*from version 2.*knows version 1"):
        await old.check()
    assert (await MongoSchema(store.database, RELEASE_2).check()).version == 3


async def test_nodes_that_start_together_migrate_once(store: Store) -> None:
    """The others wait for the one that has the lease."""
    runs: list[int] = []
    release = asyncio.Event()
    schema = MongoSchema(store.database, _counting(runs, wait=release.wait))
    nodes = [asyncio.create_task(schema.migrate(f"nod_{number}")) for number in range(4)]
    await eventually(lambda: runs, "one of them migrates")
    assert not any(node.done() for node in nodes)
    release.set()
    assert await asyncio.gather(*nodes) == [StoreSchema(2, 1)] * 4
    assert runs == [0]


async def test_a_migration_that_was_cut_off_is_done_again(store: Store) -> None:
    """A kill in the middle leaves the version before, and the next node begins again."""
    runs: list[int] = []

    async def fail() -> None:
        if len(runs) == 1:
            raise RuntimeError("cut off")

    schema = MongoSchema(store.database, _counting(runs, wait=fail))
    with pytest.raises(RuntimeError, match="cut off"):
        await schema.migrate("nod_1")
    assert (await schema.load()).version == 1
    assert (await schema.migrate("nod_2")).version == 2
    assert runs == [0, 1]


async def test_whoever_lost_the_lease_in_the_middle_writes_nothing(store: Store) -> None:
    """The version is guarded by the one before it: it never goes back."""
    slow = MongoSchema(store.database, RELEASE_2)
    before = await MongoSchema(store.database, RELEASE_1).migrate("nod_1")
    await MongoSchema(store.database, RELEASE_3).migrate("nod_fast")
    await slow._done(before, EXPAND)
    await slow._done(StoreSchema(0, 0), RELEASE_1[0])
    assert await slow.load() == StoreSchema(3, 2)


async def test_a_lease_is_kept_through_a_long_migration(store: Store) -> None:
    """Another node does not begin as long as the first one is at it."""
    runs: list[int] = []
    release = asyncio.Event()
    migrations = _counting(runs, wait=release.wait)
    first = MongoSchema(store.database, migrations, lease_seconds=0.3)
    working = asyncio.create_task(first.migrate("nod_1"))
    await eventually(lambda: runs, "the first one migrates")
    leader = await store.database["leaders"].find_one({"_id": "migration"})
    assert leader is not None

    async def renewed() -> bool:
        now = await store.database["leaders"].find_one({"_id": "migration"})
        return now is not None and now["expires_at"] > leader["expires_at"]

    async with asyncio.timeout(5):
        while not await renewed():
            pass
    second = MongoSchema(store.database, migrations, lease_seconds=0.3)
    waiting = asyncio.create_task(second.migrate("nod_2"))
    release.set()
    await asyncio.gather(working, waiting)
    assert runs == [0]


async def test_a_store_that_is_half_restored_is_refused(store: Store) -> None:
    """Whoever starts on it would serve a part of the hive."""
    schema = MongoSchema(store.database)
    await schema.migrate("nod_1")
    await store.database[SCHEMA].update_one({}, {"$currentDate": {"restoring_since": True}})
    with pytest.raises(StoreRefused, match="did not come to its end"):
        await schema.migrate("nod_1")
