"""What every test can ask for: one real mongod for the run, a database for each test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from pymongo import MongoClient

from tests.servers import running_mongod


@pytest.fixture(scope="session", autouse=True)
def _plain_logs() -> None:
    """Tracebacks as text: structlog's default draws every local variable, for seconds each."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(colors=False),
        ]
    )


@pytest.fixture(scope="session")
def mongodb_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A single-node replica set that only this run knows."""
    with running_mongod(tmp_path_factory.mktemp("mongod")) as uri:
        yield uri


@pytest.fixture(scope="session")
def mongodb_client(mongodb_uri: str) -> Iterator[MongoClient[dict[str, Any]]]:
    """A blocking client, to arrange and to look."""
    with MongoClient[dict[str, Any]](mongodb_uri) as client:
        yield client


@pytest.fixture
def database_name(mongodb_client: MongoClient[dict[str, Any]]) -> Iterator[str]:
    """The name of a database of the test's own, dropped after it."""
    name = f"test_{uuid.uuid4().hex}"
    yield name
    mongodb_client.drop_database(name)
