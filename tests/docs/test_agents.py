"""The agents in the README and in examples/ work as their pages say, on a real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentzero_client import Client
from server.settings import PREFIX
from tests.servers import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 30
GREETING = {"greeting": "Hello, Ada!"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server on a data directory of its own."""
    process = ServerProcess(tmp_path_factory.mktemp("docs") / "var")
    process.start()
    yield process
    process.stop()


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    """The operator's client of that server."""
    with Client(url_of(server), api_key=server.data.find_operator_key(), trust_env=False) as client:
        yield client


def url_of(server: ServerProcess) -> str:
    """Where it listens."""
    running = server.data.find_running_server()
    assert running is not None
    return running.url


def point_at(server: ServerProcess, commands: str) -> str:
    """The commands of a page, with the test's server, key and Python."""
    return (
        commands.replace("http://127.0.0.1:8000", url_of(server))
        .replace("var/operator.key", str(server.data.operator_key_path))
        .replace(".venv/bin/python", sys.executable)
        .replace("examples/agents/", f"{ROOT}/examples/agents/")
    )


@contextmanager
def at_work(server: ServerProcess, command: str, directory: Path) -> Iterator[None]:
    """An agent, started by the command of a page; it drains on SIGTERM and exits with 0."""
    env = {n: v for n, v in os.environ.items() if not n.startswith(PREFIX)} | {
        "AGENTZERO_SERVER": url_of(server),
        "AGENTZERO_STATE_DIRECTORY": str(directory / "state"),
    }
    # The shell's first words are assignments, so it can become the program.
    program = ["bash", "-c", f"export {point_at(server, command).replace(' ', '; exec ', 1)}"]
    process = subprocess.Popen(program, cwd=directory, env=env)
    try:
        yield
        process.terminate()
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
        process.wait()


def test_agent_of_the_readme_works_as_written(
    server: ServerProcess, client: Client, tmp_path: Path
) -> None:
    """The program and the command under "Write an agent" greet whom a task names."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- agent -->\n```(?:python|bash)\n(.*?)```", text, re.DOTALL)
    program, command = blocks
    (tmp_path / "greeter.py").write_text(program, encoding="utf-8")
    with at_work(server, command, tmp_path):
        receipt = client.tasks.submit(
            "greet", parameters={"name": "Ada"}, required_capabilities=["hello"]
        )
        task = client.tasks.wait(receipt.task_id, timeout=SECONDS)
    assert (task.status, task.result) == ("completed", GREETING)


def test_commands_of_the_examples_page_work_as_written(
    server: ServerProcess, client: Client, tmp_path: Path
) -> None:
    """The example agent starts by its command and does what the other one submits."""
    text = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    start, submit = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    with at_work(server, start, tmp_path):
        printed = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", point_at(server, submit)],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        ).stdout
        found = re.search(r"tsk_[a-z0-9]+", printed)
        assert found is not None, printed
        task = client.tasks.wait(found[0], timeout=SECONDS)
    assert (task.status, task.result) == ("completed", GREETING)
