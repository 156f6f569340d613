"""`agentzero serve --workers N`: one command, several nodes, one port."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymongo import MongoClient
from typer.testing import CliRunner

from server.cli import app
from server.cli_exits import REFUSED
from server.data_directory import DataDirectory
from server.workers import MAX_ENDS, Worker
from tests.api.running import PASSWORD, dropped_afterwards
from tests.servers import ServerProcess, wait_until

COUNT = 2


class WorkersProcess(ServerProcess):
    """The command as users run it."""

    program = ("-m", "server.cli", "serve", "--workers", str(COUNT))

    @property
    def workers(self) -> list[DataDirectory]:
        """The nodes' own data directories."""
        return [DataDirectory(path) for path in sorted((self.data.path / "workers").iterdir())]

    def pids(self) -> set[int]:
        """The processes of the nodes that listen."""
        found = [worker.find_running_server() for worker in self.workers]
        return {server.pid for server in found if server is not None}


@pytest.fixture
def database() -> str:
    """The name of a database of its own."""
    return f"test_{uuid.uuid4().hex}"


@pytest.fixture
def server(
    tmp_path: Path, mongodb_uri: str, redis_url: str, database: str
) -> Iterator[WorkersProcess]:
    """The command; it was not started yet."""
    process = WorkersProcess(
        tmp_path / "var",
        MONGODB_URI=mongodb_uri,
        MONGODB_DATABASE=database,
        REDIS_URL=redis_url,
        ADMIN_PASSWORD=PASSWORD,
    )
    with dropped_afterwards(mongodb_uri, database):
        yield process
        process.kill()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _ask(url: str, key: str | None) -> int:
    """The status of a request on a connection of its own."""
    return httpx.get(f"{url}/api/v1/agents", headers={"Authorization": f"Bearer {key}"}).status_code


@pytest.mark.more
@pytest.mark.timeout(120)
def test_workers_are_nodes_on_one_port(
    server: WorkersProcess, mongodb_client: MongoClient[dict[str, Any]], database: str
) -> None:
    """They share the stores and the operator's key, and end in order."""
    url = server.start()
    nodes = mongodb_client[database]["nodes"]
    wait_until(lambda: nodes.count_documents({"address": url}) == COUNT, "all nodes are listed")
    key = server.data.find_operator_key()
    assert [_ask(url, key) for _ in range(6)] == [200] * 6
    pids = server.pids()
    assert len(pids) == COUNT
    assert server.stop() == 0, server.log_path.read_text()[-4_000:]
    assert not [pid for pid in pids if _runs(pid)]
    assert nodes.count_documents({}) == 0


@pytest.mark.more
@pytest.mark.timeout(180)
def test_a_worker_that_dies_comes_back(server: WorkersProcess) -> None:
    """The others go on; when the parent is killed, no node outlives it."""
    url = server.start()
    key = server.data.find_operator_key()
    for _ in range(2):
        lost = min(server.pids())
        os.kill(lost, signal.SIGKILL)
        wait_until(lambda lost=lost: _replaced(server, lost), "the node is back", seconds=60)  # type: ignore[misc]
        assert [_ask(url, key) for _ in range(6)] == [200] * 6
    last = server.pids()
    server.kill()
    wait_until(lambda: not [pid for pid in last if _runs(pid)], "no node is left")


def _replaced(server: WorkersProcess, lost: int) -> bool:
    return len(server.pids() - {lost}) == COUNT


def test_workers_need_a_redis(tmp_path: Path) -> None:
    """It does not start, and names what is missing."""
    refused = CliRunner().invoke(
        app,
        ["serve", "--workers", "2"],
        env={"AGENTZERO_DATA_DIR": str(tmp_path / "var"), "AGENTZERO_REDIS_URL": ""},
    )
    assert refused.exit_code == REFUSED
    assert "AGENTZERO_REDIS_URL" in refused.output
    assert not (tmp_path / "var").exists()


def test_a_worker_that_ends_again_and_again_is_given_up(tmp_path: Path) -> None:
    """Five ends within a minute are too many, and none of them before."""
    worker = Worker(1, tmp_path / "1", {})
    assert [worker.note_end() for _ in range(MAX_ENDS)] == [True] * (MAX_ENDS - 1) + [False]
