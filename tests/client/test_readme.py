"""The README's examples run."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from agentzero_client import Agent
from tests.client.fake_hive import FakeHive

README = Path(__file__).resolve().parents[2] / "clients" / "python" / "README.md"


def example(heading: str) -> str:
    """The Python code under a heading."""
    text = README.read_text(encoding="utf-8").partition(f"## {heading}\n")[2]
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None, f"the README has no example under {heading!r}"
    return code[1]


async def test_example_of_submitting_runs(
    hive: FakeHive,
    running: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It prints the status, the result and the log."""
    monkeypatch.setenv("AGENTZERO_SERVER", hive.url)
    hive.password = "the password that the first start printed"
    agent = Agent("a", slots=2, registration_key="admin-key")

    @agent.task("*")
    async def handle(ctx: Any) -> str:
        ctx.log("at work")
        return "fine"

    async with running(agent):
        await asyncio.to_thread(exec, example("Submit and wait"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("completed fine None\n")
    assert printed.endswith("info at work\n")


async def test_example_of_watching_runs(hive: FakeHive, monkeypatch: pytest.MonkeyPatch) -> None:
    """It prints events and gaps."""
    monkeypatch.setenv("AGENTZERO_SERVER", hive.url)
    monkeypatch.setenv("AGENTZERO_API_KEY", "admin-key")
    printed: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
    names: dict[str, Any] = {"print": lambda *words: printed.put_nowait(words)}
    exec(example("Watch").replace("asyncio.run(main())", ""), names)
    watching = asyncio.create_task(names["main"]())
    await hive.until(lambda: hive.watchers)
    hive.add_task("t")
    words = await asyncio.wait_for(printed.get(), 10)
    watching.cancel()
    await asyncio.wait({watching})
    assert words == (1, "task.created", "tsk_1", "queued")


async def test_example_of_an_agent_runs(
    hive: FakeHive, running: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It counts words, and tells a file that is no text."""
    monkeypatch.setenv("AGENTZERO_SERVER", hive.url)
    monkeypatch.chdir(tmp_path)
    files = {"var/operator.key": b"admin-key", "a.txt": b"one two\nthree\n", "b.txt": b"\xff"}
    for name, content in files.items():
        put(tmp_path / name, content)
    names: dict[str, Any] = {"__name__": "example"}
    exec(example("An agent"), names)
    async with running(names["agent"]):
        good, bad = (
            hive.add_task("text.profile", parameters={"path": p}) for p in ("a.txt", "b.txt")
        )
        await hive.until(lambda: hive.tasks[good].get("result") and hive.tasks[bad].get("error"))
    assert hive.tasks[good]["result"] == {"words": 3}
    assert hive.tasks[bad]["error"]["code"] == "unreadable-file"


def put(path: Path, content: bytes) -> None:
    """Write a file."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
