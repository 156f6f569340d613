"""A store on a database that the tests of this folder use in turn."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pymongo import MongoClient

from server import cancelling
from storage.mongo import stream
from tests.identity.conftest import postgres_server, sqlite_url, url  # noqa: F401 - fixtures
from tests.storage.store import Store, open_store


@pytest.fixture(scope="session")
def kept_database(mongodb_client: MongoClient[dict[str, Any]]) -> Iterator[str]:
    """Making and dropping some thirty files for each test would take longer than the tests."""
    name = f"test_{uuid.uuid4().hex}"
    yield name
    mongodb_client.drop_database(name)


@pytest.fixture
async def store(mongodb_uri: str, kept_database: str) -> AsyncIterator[Store]:
    """Real MongoDB, with indexes and without documents."""
    async with open_store(mongodb_uri, kept_database) as opened:
        await opened.clear()
        yield opened


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quiet stream answers sooner, and a cancellation that got lost is repeated sooner."""
    monkeypatch.setattr(stream, "STREAM_WAIT_MS", 50)
    monkeypatch.setattr(cancelling, "AGAIN_SECONDS", 0.05)
