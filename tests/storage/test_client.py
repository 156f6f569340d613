"""Operations end by themselves, whatever becomes of those who wait for them."""

from __future__ import annotations

import asyncio

import pymongo
import pytest
from pymongo.errors import AutoReconnect, OperationFailure

from hive.errors import Unavailable
from storage.mongo import client as mongo
from storage.mongo.client import finish, guarded, open_client, open_database
from storage.mongo.tasks import MongoTasks


async def test_cancelled_caller_leaves_the_operation_alone() -> None:
    """However often it is cancelled: the driver's locks are not left behind half taken."""
    going, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @guarded
    async def operation() -> None:
        going.set()
        await go_on.wait()
        ended.set()

    caller = asyncio.create_task(operation())
    await going.wait()
    for _ in range(3):
        caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not ended.is_set()
    go_on.set()
    await asyncio.wait_for(ended.wait(), 5)


async def test_failure_after_the_caller_has_gone_is_nobodys() -> None:
    """An exception that nobody waits for any more is taken, not reported as never retrieved."""
    go_on = asyncio.Event()

    async def operation() -> None:
        await go_on.wait()
        raise AutoReconnect("gone")

    caller = asyncio.create_task(finish(operation()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go_on.set()
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})


async def test_lost_connection_is_unavailable_and_a_fault_is_a_fault() -> None:
    """Only what may be over soon becomes 503."""

    @guarded
    async def operation(error: Exception) -> None:
        raise error

    with pytest.raises(Unavailable):
        await operation(AutoReconnect("gone"))
    with pytest.raises(OperationFailure):
        await operation(OperationFailure("no such command", code=59))


async def test_indexes_may_take_longer_than_other_operations(
    mongodb_uri: str, kept_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that needs a new index must start over large collections, too."""
    monkeypatch.setattr(mongo, "TIMEOUT_MS", 1)
    async with open_client(mongodb_uri) as client:
        tasks = MongoTasks(open_database(client, f"{kept_database}_slow"))
        try:
            await tasks.prepare()
            with pymongo.timeout(mongo.INDEX_SECONDS):
                made = await tasks.collection.index_information()
            assert "queue_lanes" in made
        finally:
            with pymongo.timeout(mongo.INDEX_SECONDS):
                await client.drop_database(f"{kept_database}_slow")
