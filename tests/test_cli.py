"""The command line: what it refuses in words, and that the mock server answers."""

from __future__ import annotations

import importlib.metadata
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from server import cli
from server.cli import MAX_WAIT_FOR_THREADS_SECONDS
from server.data_directory import DataDirectoryInUse
from server.settings import Settings
from tests.servers import wait_until


def run(*arguments: str, **env: str) -> tuple[int, str]:
    """Exit code and everything that was printed."""
    result = CliRunner().invoke(cli.app, arguments, env=env)
    return result.exit_code, result.output


def test_version_is_that_of_the_distribution() -> None:
    """`agentzero --version` names what is installed."""
    version = importlib.metadata.version("agentzero-api")
    assert run("--version") == (0, f"agentzero {version}\n")


def test_wrong_settings_are_refused_together() -> None:
    """Exit code 2 and one line for each wrong variable."""
    code, said = run("serve", AGENTZERO_PORT="x", AGENTZERO_LEASE_SECONDS="0")
    assert code == 2
    assert "AGENTZERO_PORT" in said
    assert "AGENTZERO_LEASE_SECONDS" in said


def install(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    """Put a made-up module in the place of one that would start a whole server."""
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)
    parent, _, child = name.rpartition(".")
    if parent:
        monkeypatch.setattr(sys.modules[parent], child, module, raising=False)


@pytest.fixture
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process's logging and threads stay as the test run has them."""
    monkeypatch.setattr("server.logs.configure_logging", lambda *_: None)
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("own_process")
def test_serve_runs_the_server_with_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment becomes settings, and they reach the composition point."""
    served: list[Settings] = []

    async def serve(settings: Settings, *, shares_port: bool) -> None:
        served.append(settings)
        assert not shares_port
        assert sys.getswitchinterval() == pytest.approx(MAX_WAIT_FOR_THREADS_SECONDS)

    install(monkeypatch, "server.bootstrap", serve=serve)
    assert run("serve", AGENTZERO_PORT="0", AGENTZERO_NO_SUCH="1")[0] == 0
    assert [settings.port for settings in served] == [0]


@pytest.mark.usefixtures("own_process")
def test_a_store_that_does_not_answer_is_said_in_words(tmp_path: Path) -> None:
    """Exit code 2 after some seconds, and the name of the store."""
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    code, said = run(
        "serve",
        AGENTZERO_DATA_DIR=str(tmp_path),
        AGENTZERO_MONGODB_URI=f"mongodb://127.0.0.1:{port}",
    )
    assert code == 2
    assert "mongodb" in said
    assert "Traceback" not in said


@pytest.mark.usefixtures("own_process")
def test_a_data_directory_in_use_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Exit code 2, no traceback."""

    async def serve(_settings: Settings, **_options: bool) -> None:
        raise DataDirectoryInUse(tmp_path, 4711)

    install(monkeypatch, "server.bootstrap", serve=serve)
    code, said = run("serve")
    assert code == 2
    assert "4711" in said
    assert "Traceback" not in said


def test_the_mock_server_listens() -> None:
    """As client teams start it: a process and a port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", "from server.cli import main; main()", "mock", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            wait_until(lambda: answers(client), "the mock server answers", seconds=30)
            assert client.get("/api/v1/agents").status_code == 401
    finally:
        process.terminate()
        process.wait()


def answers(client: httpx.Client) -> bool:
    """Whether somebody listens."""
    try:
        return client.get("/health/live").is_success
    except httpx.TransportError:
        return False


def test_without_the_extra_the_mock_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit code 2 and the name of the extra."""
    monkeypatch.setitem(sys.modules, "connexion", None)
    code, said = run("mock")
    assert code == 2
    assert "agentzero-api[mock]" in said


def test_without_the_client_the_demo_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit code 2 and the way to the client."""
    monkeypatch.setitem(sys.modules, "agentzero_client", None)
    code, said = run("demo")
    assert code == 2
    assert "clients/python" in said
