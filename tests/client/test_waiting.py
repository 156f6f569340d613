"""Waiting for tasks to end."""

from __future__ import annotations

import asyncio

import pytest

from agentzero_client import AsyncClient
from tests.client.fake_hive import FakeHive


async def test_wait_gives_an_ended_task_at_once(hive: FakeHive, client: AsyncClient) -> None:
    """Without opening a socket."""
    task_id = hive.add_task("t", status="completed", result={"a": 1})
    assert (await client.tasks.wait(task_id)).result == {"a": 1}
    assert hive.frames == []


async def test_wait_learns_of_the_end_by_its_event(hive: FakeHive, client: AsyncClient) -> None:
    """One question before, one after the subscription, one at the end: no polling."""
    task_id = hive.add_task("t")
    waiting = asyncio.create_task(client.tasks.wait(task_id, timeout=10))
    await hive.until(lambda: hive.watchers)
    await hive.until(lambda: len(hive.requests) == 3 or None)
    hive.cancel(task_id)
    assert (await waiting).status == "cancelled"
    assert len(hive.requests) == 4


async def test_many_waiters_share_one_socket(hive: FakeHive, client: AsyncClient) -> None:
    """A principal has 20 connections; a program may wait for more tasks."""
    tasks = [hive.add_task(f"t{n}") for n in range(30)]
    waiting = [asyncio.create_task(client.tasks.wait(task_id, timeout=10)) for task_id in tasks]
    await hive.until(lambda: hive.watchers)
    assert len(hive.watchers) == 1
    for task_id in tasks:
        hive.cancel(task_id)
    assert {task.status for task in await asyncio.gather(*waiting)} == {"cancelled"}


async def test_wait_survives_a_broken_connection(hive: FakeHive, client: AsyncClient) -> None:
    """The end that happened meanwhile is replayed."""
    task_id = hive.add_task("t")
    waiting = asyncio.create_task(client.tasks.wait(task_id, timeout=10))
    await hive.until(lambda: hive.watchers)
    hive.abort_watchers()
    hive.cancel(task_id)
    assert (await waiting).status == "cancelled"


async def test_wait_asks_where_events_are_refused(hive: FakeHive) -> None:
    """A watch that is turned away for good leaves polling."""
    hive.tokens.add("may-read-tasks")
    task_id = hive.add_task("t")
    async with AsyncClient(hive.url, api_key="may-read-tasks") as client:
        waiting = asyncio.create_task(client.tasks.wait(task_id, timeout=10))
        (watcher,) = await hive.until(lambda: hive.watchers)
        watcher.close(4403, "forbidden")
        await hive.until(lambda: not hive.watchers)
        hive.cancel(task_id)
        assert (await waiting).status == "cancelled"


async def test_wait_ends_with_its_timeout(hive: FakeHive, client: AsyncClient) -> None:
    """TimeoutError, as asyncio has it."""
    with pytest.raises(TimeoutError):
        await client.tasks.wait(hive.add_task("t"), timeout=0.2)


async def test_wait_outlives_a_restart_of_the_server(hive: FakeHive, client: AsyncClient) -> None:
    """A refused connection is no end of the task."""
    task_id = hive.add_task("t")
    waiting = asyncio.create_task(client.tasks.wait(task_id, timeout=20))
    await hive.until(lambda: hive.watchers)
    await hive.stop()
    hive.cancel(task_id)
    await hive.start()
    assert (await waiting).status == "cancelled"
