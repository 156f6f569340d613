"""Leaving in good order: what runs may finish, what is left is given back."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentzero_client import TaskContext
from tests.client.fake_hive import FakeHive
from tests.client.fake_sockets import LINK_CLOSED
from tests.client.test_agent import begun, ended, make_agent, sent

PROGRAM = """
import asyncio, pathlib, sys, time
from agentzero_client import Agent

agent = Agent("process", slots=2, drain_seconds=float(sys.argv[1]))

@agent.task("until-file")
async def until_file(ctx, path):
    ctx.progress(0)
    while not pathlib.Path(path).exists():
        await asyncio.sleep(0.02)
    return "finished"

@agent.task("stuck")
def stuck(ctx):
    ctx.progress(0)
    time.sleep(60)

agent.run()
print("left in good order")
"""


@asynccontextmanager
async def process(
    hive: FakeHive, drain_seconds: float
) -> AsyncIterator[asyncio.subprocess.Process]:
    """An agent as a program of its own, attached."""
    environment = {
        **os.environ,
        "AGENTZERO_SERVER": hive.url,
        "AGENTZERO_REGISTRATION_KEY": "admin-key",
        "PYTHONWARNINGS": "error",
    }
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        str(drain_seconds),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        await hive.until(lambda: hive.links, 30)
        yield program
    finally:
        if program.returncode is None:
            program.kill()
        await program.wait()


async def output(program: asyncio.subprocess.Process) -> str:
    """What it printed until it ended."""
    async with asyncio.timeout(20):
        text, _ = await program.communicate()
    return text.decode()


async def test_sigterm_lets_running_tasks_finish(hive: FakeHive, tmp_path: Any) -> None:
    """No new work, the old one completed, exit code 0."""
    async with process(hive, 20) as program:
        parameters = {"path": str(tmp_path / "go")}
        task_id = hive.add_task("until-file", parameters=parameters)
        await begun(hive, task_id)
        program.send_signal(signal.SIGTERM)
        await hive.until(lambda: [f for f in sent(hive, "heartbeat") if f.get("free_slots") == 0])
        late = hive.add_task("until-file", parameters=parameters)
        (tmp_path / "go").touch()
        assert (await ended(hive, task_id))["result"] == "finished"
        assert "left in good order" in await output(program)
        assert program.returncode == 0
    assert hive.tasks[late]["status"] == "queued"


async def test_sigterm_gives_back_what_does_not_finish(hive: FakeHive) -> None:
    """After the drain period; a thread that is stuck does not keep the process.

    What the hive assigns again as the link closes it gives back itself.
    """
    async with process(hive, 0.2) as program:
        stuck = hive.add_task("stuck")
        waiting = hive.add_task("until-file", parameters={"path": "/nowhere"})
        await begun(hive, stuck)
        await begun(hive, waiting)
        program.send_signal(signal.SIGTERM)
        assert "left in good order" in await output(program)
        assert program.returncode == 0
    for task_id in (stuck, waiting):
        assert hive.tasks[task_id]["status"] == "queued"
        assert hive.tasks[task_id]["release_reason_"] in ("shutting down", LINK_CLOSED)
        assert hive.tasks[task_id]["attempt"] == 0


async def test_second_signal_does_not_wait(hive: FakeHive) -> None:
    """Whoever asks twice is in a hurry; leases are given back all the same."""
    async with process(hive, 60) as program:
        task_id = hive.add_task("until-file", parameters={"path": "/nowhere"})
        await begun(hive, task_id)
        program.send_signal(signal.SIGINT)
        await hive.until(lambda: [f for f in sent(hive, "heartbeat") if f.get("free_slots") == 0])
        program.send_signal(signal.SIGTERM)
        assert "left in good order" in await output(program)
        assert program.returncode == 0
    assert hive.tasks[task_id]["status"] == "queued"


async def test_restart_asked_by_the_hive_runs_the_program_anew(hive: FakeHive) -> None:
    """The same process, the same identity, and the request is not taken twice."""
    async with process(hive, 5) as program:
        hive.control("restart")
        await hive.until(lambda: len(sent(hive, "hello")) == 2, 20)
        assert hive.controls == []
        assert program.returncode is None
    assert len(hive.agents) == 1


async def test_assignment_during_a_drain_is_rejected(hive: FakeHive, running: Any) -> None:
    """One that was on its way already."""
    agent = make_agent(hive)
    leave = asyncio.Event()

    @agent.task("t")
    async def work(ctx: TaskContext) -> str:
        ctx.progress(0)
        await leave.wait()
        return "done"

    async with running(agent) as serving:
        task_id = hive.add_task("t")
        await begun(hive, task_id)
        agent.stop()
        await hive.until(lambda: [f for f in sent(hive, "heartbeat") if f.get("free_slots") == 0])
        (link,) = hive.links.values()
        link.reserved = 0
        late = hive.add_task("t")
        await hive.until(lambda: sent(hive, "reject"))
        hive.pushes = False
        leave.set()
        await asyncio.wait_for(serving, 10)
    assert hive.tasks[task_id]["result"] == "done"
    assert hive.tasks[late]["status"] == "queued"


async def test_claim_under_way_during_a_drain_is_given_back(
    hive: FakeHive, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over REST a claim may bring a lease after the drain began."""
    monkeypatch.setattr("agentzero_client.runtime.attachment.HANDSHAKES_BEFORE_REST", 1)
    hive.blocks_sockets = True
    agent = make_agent(hive)
    agent.task("t")(lambda ctx: "done")
    async with running(agent) as serving:
        await hive.until(lambda: [p for _, p, _ in hive.requests if p.endswith("/leases")])
        agent.stop()
        await asyncio.sleep(0)
        task_id = hive.add_task("t")
        await asyncio.wait_for(serving, 15)
    assert hive.tasks[task_id]["status"] in ("queued", "completed")
    assert hive.leases == {}


async def test_agent_serves_again_after_a_stop(hive: FakeHive, running: Any) -> None:
    """Nothing of the first time is left; `stop` may be called from a thread."""
    agent = make_agent(hive)
    agent.task("t")(lambda ctx: "done")
    for _ in range(2):
        async with running(agent) as serving:
            assert (await ended(hive, hive.add_task("t")))["result"] == "done"
            stopping = threading.Thread(target=agent.stop)
            stopping.start()
            assert (await asyncio.wait_for(serving, 10)).value == "stopped"
            stopping.join()
        await hive.until(lambda: not hive.links)
