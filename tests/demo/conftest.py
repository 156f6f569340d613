"""One running server for the tests of the demo."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from agentzero_client import AsyncClient
from tests.servers import ServerProcess


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server on a data directory of its own."""
    process = ServerProcess(tmp_path_factory.mktemp("demo") / "served")
    process.start()
    yield process
    process.stop()


@pytest.fixture
async def client(server: ServerProcess) -> AsyncIterator[AsyncClient]:
    """The operator's client of that server."""
    running = server.data.find_running_server()
    key = server.data.find_operator_key()
    assert running is not None
    assert key is not None
    async with AsyncClient(running.url, api_key=key, trust_env=False) as operator:
        yield operator
