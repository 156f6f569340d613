"""How demos share a server, and what they do to the programs that they start."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.demo import children, host
from server.demo.children import Child
from server.demo.locks import FileLock
from tests.servers import eventually


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    """A program that runs until it is ended."""
    program = ("http.server", "--bind", "127.0.0.1", "0")
    started = Child("The program", *program, env={}, log_path=tmp_path / "log", kept=False)
    yield started
    started.kill()


async def test_the_server_is_ended_after_its_last_user(child: Child, tmp_path: Path) -> None:
    """Whoever started it says so, and waits for the others."""
    mine, other = FileLock(tmp_path / "use.lock"), FileLock(tmp_path / "use.lock")
    said: list[str] = []
    with mine, other:
        await mine.take(shared=True)
        await other.take(shared=True)
        ending = asyncio.create_task(host._end(child, mine, said.append))
        await eventually(lambda: said, "it says why it waits")
        assert child.is_running
        other.close()
        await ending
        assert not child.is_running


async def test_who_waits_no_longer_ends_it_at_once(child: Child, tmp_path: Path) -> None:
    """A second Ctrl-C does not leave the server behind."""
    mine, other = FileLock(tmp_path / "use.lock"), FileLock(tmp_path / "use.lock")
    said: list[str] = []
    with mine, other:
        await other.take(shared=True)
        ending = asyncio.create_task(host._end(child, mine, said.append))
        await eventually(lambda: said, "it says why it waits")
        ending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ending
        assert not child.is_running


async def test_a_program_that_ended_by_itself_is_told_with_its_last_words(tmp_path: Path) -> None:
    """The code, the log's place and its end."""
    log_path = tmp_path / "log"
    log_path.write_text("an earlier run\n")
    child = Child("The program", "no_such_module", env={}, log_path=log_path, kept=False)
    await eventually(lambda: not child.is_running, "it has ended")
    told = str(child.failure())
    assert told.startswith(f"The program ended with code 1. It said ({log_path}):")
    assert "No module named no_such_module" in told
    assert "an earlier run" not in told
    await children.end([child], 1.0)
