"""Units of work on SQLite take turns: in order, within their time, holding no thread meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session as SqlSession

from hive.errors import Unavailable
from storage.sql.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """An empty SQLite database that waits for half a second at most."""
    made = Database(f"sqlite:///{tmp_path / 'small.db'}", waiting=8, timeout_seconds=0.5)
    made.migrate()
    yield made
    made.close()


async def test_writes_come_in_their_order(database: Database) -> None:
    """None is overtaken, however many wait."""
    done: list[int] = []

    async def write(number: int) -> None:
        def work(sql: SqlSession) -> None:
            sql.execute(text("UPDATE revocation_counter SET position = :n"), {"n": number})
            done.append(number)

        await database.write(work)

    await asyncio.gather(*map(write, range(10)))
    assert done == list(range(10))


async def test_waiting_writes_leave_the_threads_to_reads(database: Database) -> None:
    """While one writes and others wait, reads go on; who waits too long is told."""
    goes_on = threading.Event()
    writes = [asyncio.create_task(database.write(lambda _: goes_on.wait(5))) for _ in range(8)]
    await asyncio.sleep(0)
    answers = [await database.read(lambda sql: sql.scalar(text("SELECT 1"))) for _ in range(20)]
    assert answers == [1] * 20
    waited = await asyncio.gather(*writes, return_exceptions=True)
    assert {type(each) for each in waited} == {Unavailable}
    goes_on.set()


async def test_queue_is_bounded_and_empties(database: Database) -> None:
    """Beyond the room a write is refused at once; afterwards there is room again."""
    goes_on = threading.Event()
    writes = [asyncio.create_task(database.write(lambda _: goes_on.wait(5))) for _ in range(40)]
    await asyncio.sleep(0)
    refused = [each for each in writes if each.done()]
    assert len(refused) == 40 - 12
    goes_on.set()
    await asyncio.gather(*writes, return_exceptions=True)
    assert await database.write(lambda sql: sql.scalar(text("SELECT 1"))) == 1


async def test_only_durable_writes_wait_for_the_disk(database: Database) -> None:
    """Each transaction has its own level; the next one is durable again."""

    def level(sql: SqlSession) -> int | None:
        return cast("int | None", sql.scalar(text("PRAGMA synchronous")))

    full, normal = 2, 1
    for _ in range(10):
        assert await database.write(level, durable=False) == normal
        assert await database.write(level) == full
