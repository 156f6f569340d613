"""What every test can ask for: one real mongod for the run, a database for each test."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import sys
import types
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import certifi
import pymongo.pool_shared
import pytest
import structlog
from pymongo import MongoClient

from tests.servers import running_mongod, running_redis

LONG_FIRST = (
    "tests/fuzz/", "tests/security/test_withstanding.py", "tests/contract/test_hostile.py",
    "tests/security/test_matrix.py", "tests/faults/", "tests/demo/", "tests/cluster/",
    "tests/security/", "tests/api/", "tests/test_", "tests/docs/", "tests/identity/",
)  # fmt: skip
"""Files that take long begin first, so that no worker waits for another one at the end."""

NOT_TRACED = ("tests/fuzz/", "tests/security/", "tests/faults/", "tests/contract/test_hostile.py")
"""Their many requests go where others have been: to trace them makes them half as slow again."""

TRACED_VARIANTS = 4
"""Of each test; the others go the same way."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers get whole files, in the order of their first tests; some don't count as coverage."""
    variants = Counter[str]()
    for item in items:
        test = item.nodeid.partition("[")[0]
        variants[test] += 1
        if variants[test] > TRACED_VARIANTS or item.nodeid.startswith(NOT_TRACED):
            item.add_marker("no_cover")
    rest = len(LONG_FIRST)

    def place(item: pytest.Item) -> int:
        found = (n for n, start in enumerate(LONG_FIRST) if item.nodeid.startswith(start))
        return next(found, rest)

    items.sort(key=place)


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


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """What a test makes of the logs of this process is undone: its streams are closed by then."""
    handlers, configuration = list(logging.root.handlers), structlog.get_config()
    yield
    logging.root.handlers[:] = handlers
    structlog.configure(**configuration)


class _ClosedWhenForgotten(socket.socket):
    """A socket that a finalizer closes without a ResourceWarning."""

    def __del__(self) -> None:
        self.close()


@pytest.fixture(scope="session", autouse=True)
def _forgotten_connects() -> Iterator[None]:
    """PyMongo 4.20 forgets the socket of a monitor that is cancelled while it connects.

    Closing a client then warns, in whichever test the collector runs; a client that was never
    closed still warns of itself.
    """
    seen = types.ModuleType("socket")
    vars(seen).update(vars(socket), socket=_ClosedWhenForgotten)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pymongo.pool_shared, "socket", seen)
        yield


@pytest.fixture(scope="session", autouse=True)
def _light_clients() -> Iterator[None]:
    """Each client of httpx reads the world's authorities, for 40 ms; few of ours meet TLS."""
    make = ssl.create_default_context
    authorities = os.environ.get("SSL_CERT_FILE") or certifi.where()
    usual, kept = {"cafile": authorities}, make(cafile=authorities)

    def make_once(*given: Any, **options: Any) -> ssl.SSLContext:
        return kept if not given and options == usual else make(*given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", make_once)
        # It is looked for in vain with each request, several times.
        patch.setitem(sys.modules, "sniffio", None)
        yield


@pytest.fixture(scope="session")
def mongodb_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A single-node replica set that only this run knows."""
    with running_mongod(tmp_path_factory.mktemp("mongod")) as uri:
        yield uri


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis that only this run knows; what tests keep there has keys of their own."""
    with running_redis(tmp_path_factory.mktemp("redis")) as redis:
        yield redis.url


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
