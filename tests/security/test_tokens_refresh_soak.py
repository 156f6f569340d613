"""A3 in full: three processes, a hundred exchanges of one token at once, a thousand rounds."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select, update

from storage.sql.database import Database
from storage.sql.models import RefreshTokenRow
from tests.api.running import PASSWORD, dropped_afterwards
from tests.identity.conftest import postgres_server, sqlite_url, url
from tests.security.token_nodes import LOGIN, ME, REFRESH, SECRET
from tests.servers import ServerProcess

__all__ = ["postgres_server", "sqlite_url", "url"]
pytestmark = [pytest.mark.soak, pytest.mark.timeout(3_600)]
PROCESSES = 3
AT_ONCE = 100
ROUNDS = int(os.environ.get("SOAK_REFRESH_ROUNDS", "1000"))


@pytest.fixture
def servers(url: str, tmp_path: Path, mongodb_uri: str) -> Iterator[list[str]]:
    """The URLs of three servers as operators run them, on one SQL database and one MongoDB."""
    database = f"test_{uuid.uuid4().hex}"
    processes = [
        ServerProcess(
            tmp_path / f"node{number}",
            SQL_URL=url,
            MONGODB_URI=mongodb_uri,
            MONGODB_DATABASE=database,
            SECRET_KEY=SECRET,
            ADMIN_PASSWORD=PASSWORD,
            RATE_LIMIT_ENABLED="0",
            LOG_LEVEL="warning",
        )
        for number in range(PROCESSES)
    ]
    with dropped_afterwards(mongodb_uri, database), contextlib.ExitStack() as stack:
        for process in processes:
            stack.callback(process.stop)
        yield [process.start() for process in processes]


@pytest.fixture
async def clients(servers: list[str]) -> AsyncIterator[list[httpx.AsyncClient]]:
    """A client of each server."""
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=server, timeout=60, limits=httpx.Limits(max_connections=50)
                )
            )
            for server in servers
        ]


@pytest.fixture
def database(servers: list[str], url: str) -> Iterator[Database]:
    """What the servers share, to look into."""
    opened = Database(url)
    yield opened
    opened.close()


async def _forks(database: Database) -> int:
    """How many sessions have more than one live token."""
    live = (
        select(RefreshTokenRow.session_id)
        .where(RefreshTokenRow.used_at.is_(None))
        .group_by(RefreshTokenRow.session_id)
        .having(func.count() > 1)
    )
    return len(await database.read(lambda sql: sql.execute(live).all()))


async def test_a_thousand_rounds_fork_nothing(
    clients: list[httpx.AsyncClient], database: Database
) -> None:
    """One successor in each round, whoever asks; the replay of an old one ends all of it."""
    credentials = {"username": "admin", "password": PASSWORD}
    first = (await clients[0].post(LOGIN, json=credentials)).raise_for_status().json()
    refresh_token, access_token = first["refresh_token"], first["access_token"]
    statuses: Counter[int] = Counter()
    rounds = 0
    while rounds < ROUNDS:
        body = {"refresh_token": refresh_token}
        turns = itertools.islice(itertools.cycle(clients), AT_ONCE)
        answers = await asyncio.gather(*(client.post(REFRESH, json=body) for client in turns))
        statuses.update(answer.status_code for answer in answers)
        # 503 tells a client that waited too long for a store to ask again; nothing else may be.
        assert set(statuses) <= {200, 503}, statuses
        assert statuses[503] <= statuses[200] + AT_ONCE, statuses
        successors = {a.json()["refresh_token"] for a in answers if a.status_code == 200}
        assert len(successors) <= 1
        if successors:
            rounds += 1
            refresh_token = successors.pop()
            access_token = next(a for a in answers if a.status_code == 200).json()["access_token"]
    assert await _forks(database) == 0
    bearer = {"Authorization": f"Bearer {access_token}"}
    for client in clients:
        assert (await client.get(ME, headers=bearer)).status_code == 200
    await _let_the_grace_pass(database)
    replay = await clients[0].post(REFRESH, json={"refresh_token": first["refresh_token"]})
    assert replay.status_code == 401
    async with asyncio.timeout(1):
        for client in clients:
            while (await client.get(ME, headers=bearer)).status_code != 401:
                pass
    for client in clients:
        answer = await client.post(REFRESH, json={"refresh_token": refresh_token})
        assert answer.status_code == 401


async def _let_the_grace_pass(database: Database) -> None:
    then = datetime.now(UTC) - timedelta(seconds=11)
    used = RefreshTokenRow.used_at.is_not(None)
    await database.write(
        lambda sql: sql.execute(update(RefreshTokenRow).where(used).values(used_at=then))
    )
