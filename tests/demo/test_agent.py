"""The demo's agent, handler by handler, and the example that authors start from."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentzero_client import AsyncClient, Task
from server.demo.agent import make_agent
from server.demo.crew import capabilities_of, own_capability
from server.demo.merging import MERGE
from server.demo.sources import CSV, TEXT, path_from_text, path_to_text
from server.settings import PREFIX
from tests.servers import ROOT, ServerProcess

SECONDS = 20


@pytest.fixture
async def crew(client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """An agent at work on this event loop; what only it can do."""
    name = f"agent-{uuid.uuid4().hex[:8]}"
    made = await client.agents.register(name, capabilities=capabilities_of(name), slots=2)
    monkeypatch.setenv("AGENTZERO_SERVER", client.http.base_url)
    monkeypatch.setenv("AGENTZERO_AGENT_ID", made.agent_id)
    monkeypatch.setenv("AGENTZERO_API_KEY", made.api_key)
    agent = make_agent(name, name)
    serving = asyncio.create_task(agent.serve())
    yield own_capability(name)
    agent.stop()
    await serving
    await client.agents.unregister(made.agent_id)


async def run_task(
    client: AsyncClient, crew: str, capability: str, parameters: Any, *dependencies: str
) -> Task:
    """Submit a task for the agent, and wait for its end."""
    receipt = await client.tasks.submit(
        capability,
        parameters=parameters,
        dependencies=dependencies,
        required_capabilities=[capability, crew],
        on_dependency_failure="run",
    )
    return await client.tasks.wait(receipt.task_id, SECONDS)


async def test_a_text_is_profiled_with_a_line_in_the_log(
    client: AsyncClient, crew: str, tmp_path: Path
) -> None:
    """The result is the profile."""
    (tmp_path / "a.txt").write_text("One two. Three!")
    parameters = {"path": str(tmp_path / "a.txt"), "name": "a.txt"}
    task = await run_task(client, crew, TEXT, parameters)
    assert task.status == "completed", task.error
    assert (task.result["words"], task.result["sentences"]) == (3, 2)
    assert [line.message for line in await client.tasks.logs(task.task_id)] == ["Reading a.txt."]


async def test_a_name_that_is_not_utf_8_reaches_the_agent(
    client: AsyncClient, crew: str, tmp_path: Path
) -> None:
    """Such a path travels as a file URI."""
    path = tmp_path / os.fsdecode(b"caf\xe9 %41.csv")
    path.write_text("a,b\n1,2\n")
    assert path_from_text(path_to_text(path)) == path
    task = await run_task(client, crew, CSV, {"path": path_to_text(path), "name": "a table"})
    assert task.status == "completed", task.error
    assert task.result["rows"] == 1


async def test_an_unreadable_file_is_not_tried_again(
    client: AsyncClient, crew: str, tmp_path: Path
) -> None:
    """One attempt, a code, and a sentence that names the file."""
    parameters = {"path": str(tmp_path / "gone.csv"), "name": "gone.csv"}
    task = await run_task(client, crew, CSV, parameters)
    assert (task.status, task.attempt) == ("failed", 1)
    assert task.error is not None
    assert task.error.code == "unreadable-file"
    assert task.error.message == "gone.csv does not exist."


async def test_a_profile_beyond_a_result_s_size_fails_in_words(
    client: AsyncClient, crew: str, tmp_path: Path
) -> None:
    """The message has the size and the reason."""
    header = ",".join(f"a column with number {n}" for n in range(20_000))
    (tmp_path / "wide.csv").write_text(f"{header}\n")
    parameters = {"path": str(tmp_path / "wide.csv"), "name": "wide.csv"}
    task = await run_task(client, crew, CSV, parameters)
    assert task.error is not None
    assert task.error.code == "profile-too-large"
    assert "20,000 columns" in task.error.message


async def test_a_cancelled_profile_stops_reading(
    client: AsyncClient, crew: str, tmp_path: Path
) -> None:
    """A task that would take long is cancelled while it runs."""
    with (tmp_path / "long.txt").open("w") as file:
        file.writelines("many words of one kind or another\n" for _ in range(2_000_000))
    receipt = await client.tasks.submit(
        TEXT,
        parameters={"path": str(tmp_path / "long.txt"), "name": "long.txt"},
        required_capabilities=[TEXT, crew],
    )
    async with client.watch(["task.*"], cursor=0) as watch, asyncio.timeout(SECONDS):
        async for event in watch:
            if event.subject == receipt.task_id and event.type == "task.progress":
                break
    await client.tasks.cancel(receipt.task_id)
    task = await client.tasks.wait(receipt.task_id, SECONDS)
    assert task.status == "cancelled"
    assert task.progress is not None
    assert task.progress.fraction < 1


async def test_a_report_that_can_t_be_written_is_an_error_of_its_own(
    client: AsyncClient, crew: str, tmp_path: Path
) -> None:
    """A file stands where the directory should be."""
    (tmp_path / "out").write_text("")
    task = await run_task(client, crew, MERGE, {"output": str(tmp_path / "out")})
    assert task.error is not None
    assert task.error.code == "report-not-written"
    assert task.attempt == 1


async def test_a_cancelled_dependency_is_named_in_the_report(
    client: AsyncClient, crew: str, tmp_path: Path
) -> None:
    """It has no error to show, so the report says what became of it."""
    waiting = await client.tasks.submit(
        TEXT,
        parameters={"path": "/nowhere", "name": "never.txt"},
        required_capabilities=["nobody.has.this"],
    )
    await client.tasks.cancel(waiting.task_id)
    parameters = {"output": str(tmp_path / "out")}
    task = await run_task(client, crew, MERGE, parameters, waiting.task_id)
    assert task.status == "completed", task.error
    assert task.result["totals"]["failed"] == 1
    assert "The task was cancelled." in (tmp_path / "out" / "report.md").read_text()


async def test_the_example_agent_registers_once_and_greets(
    server: ServerProcess, client: AsyncClient, tmp_path: Path
) -> None:
    """As its documentation says; after a restart it is the same agent."""
    seen: set[str | None] = set()
    for _ in range(2):
        env = {n: v for n, v in os.environ.items() if not n.startswith(PREFIX)} | {
            "AGENTZERO_SERVER": client.http.base_url,
            "AGENTZERO_REGISTRATION_KEY_FILE": str(server.data.operator_key_path),
            "AGENTZERO_STATE_DIRECTORY": str(tmp_path / "state"),
        }
        program = [sys.executable, str(ROOT / "examples" / "agents" / "hello_agent.py")]
        process = subprocess.Popen(program, cwd=tmp_path, env=env)  # noqa: ASYNC220 - at once
        try:
            receipt = await client.tasks.submit(
                "greet", parameters={"name": "Ada"}, required_capabilities=["hello"]
            )
            task = await client.tasks.wait(receipt.task_id, SECONDS)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, SECONDS) == 0
        finally:
            process.kill()
            process.wait()
        assert task.result == {"greeting": "Hello, Ada!"}
        seen.add(task.agent_id)
    assert len(seen) == 1
