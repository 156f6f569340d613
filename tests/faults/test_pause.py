"""Processes that stop for a while and wake up: what they say late changes nothing."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.agent import Agent, register
from tests.faults.client import Answer, Client, open_client, until
from tests.faults.collecting import EVENTS, TASKS
from tests.faults.experiment import LEASE_SECONDS, SETTINGS, mongod_pid, run
from tests.faults.history import Grant, History, Outcome, Verb
from tests.faults.shape import Shape
from tests.servers import ServerProcess

PAUSED_PERIODS = 2
PAUSED_LEASES = 20
RENEWED_LEASE_SECONDS = 6
SHAPE = Shape(slots=PAUSED_LEASES)


@pytest.mark.more
def test_stopped_server_wakes_up_to_a_legal_history(server: ServerProcess) -> None:
    """The server and its mongod stop for two lease periods under load; late reports are judged."""

    def happen(chance: random.Random) -> list[float]:
        time.sleep(chance.uniform(0.5, 2.0))
        stopped = (server.pid, mongod_pid(server))
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(PAUSED_PERIODS * LEASE_SECONDS)
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        time.sleep(chance.uniform(0.5, 2.0))
        return []

    verdict = run(server, happen, seed=4)
    assert not verdict.violations, str(verdict)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """A client of a server that runs, with leases that a busy machine can renew in time."""
    server = ServerProcess(
        tmp_path / "var", **{**SETTINGS, "LEASE_SECONDS": str(RENEWED_LEASE_SECONDS)}
    )
    server.start()
    try:
        async with open_client([server.data], History().answers) as client:
            yield client
    finally:
        server.kill()


async def test_agent_that_wakes_up_late_writes_nothing(client: Client) -> None:
    """Whatever it says of a lease that was taken back is 409 `lease-lost`, whoever has it now."""
    history = History()
    sleeper = await register(client, history, "sleeper", SHAPE)
    worker = await register(client, history, "worker", SHAPE)
    for number in range(PAUSED_LEASES):
        await _submit(client, f"task {number}", max_attempts=3)
    late = await _claim_all(sleeper)
    taken = await _claim_all(worker)
    assert {grant.task_id for grant in taken} == {grant.task_id for grant in late}
    fences = {grant.task_id: grant.fence for grant in late}
    assert all(grant.fence > fences[grant.task_id] for grant in taken)
    async with _renewing(client, worker, taken):
        await _refuses_everything(client, sleeper, late)
    for grant in taken:
        assert await worker.report(grant, Verb.COMPLETE) is Outcome.ACCEPTED
    await _refuses_everything(client, sleeper, late)
    assert not history.surprises


@pytest.mark.more
async def test_agent_that_slept_through_its_last_attempt_writes_nothing(client: Client) -> None:
    """A task that failed because its lease ended is not the late agent's to fail or complete."""
    history = History()
    sleeper = await register(client, history, "sleeper", SHAPE)
    for number in range(PAUSED_LEASES):
        await _submit(client, f"task {number}", max_attempts=1)
    late = await _claim_all(sleeper)
    await until(lambda: _all_failed(client), "every lease was taken back")
    await _refuses_everything(client, sleeper, late)
    assert not history.surprises


async def _submit(client: Client, name: str, **given: Any) -> None:
    answer = await client.ask("POST", TASKS, client.operator_key(), {"name": name, **given})
    assert answer is not None
    assert answer.status == 200, answer


async def _claim_all(agent: Agent) -> list[Grant]:
    """Leases on all tasks; those of others are there when they were taken back."""
    grants: list[Grant] = []

    async def has_all() -> bool:
        grants.extend(await agent.claim(PAUSED_LEASES - len(grants), wait_seconds=0.5))
        return len(grants) == PAUSED_LEASES

    await until(has_all, "every task was leased", 4 * RENEWED_LEASE_SECONDS + 10)
    return grants


async def _renew(client: Client, agent: Agent, grant: Grant) -> Answer:
    path = f"/api/v1/leases/{grant.lease_id}/renew"
    return await client.insist("POST", path, agent.key, {"fence": grant.fence})


@asynccontextmanager
async def _renewing(client: Client, agent: Agent, grants: list[Grant]) -> AsyncIterator[None]:
    """Keep the leases; a plain renewal is no event."""

    async def renew_all() -> None:
        while True:
            answers = await asyncio.gather(*(_renew(client, agent, each) for each in grants))
            assert {answer.status for answer in answers} == {200}
            await asyncio.sleep(RENEWED_LEASE_SECONDS / 8)

    renewing = asyncio.create_task(renew_all())
    try:
        yield
        assert not renewing.done(), renewing
    finally:
        renewing.cancel()
        await asyncio.wait([renewing])


async def _all_failed(client: Client) -> bool:
    failed = await client.read_all(TASKS, client.operator_key(), {"status": "failed"})
    return len(failed) == PAUSED_LEASES


async def _refuses_everything(client: Client, agent: Agent, grants: list[Grant]) -> None:
    key = client.operator_key()
    before = await client.read_all(TASKS, key, {})
    for grant in grants:
        for verb in Verb:
            assert await agent.report(grant, verb) is Outcome.REFUSED, (grant, verb)
        answer = await _renew(client, agent, grant)
        assert (answer.status, answer.code) == (409, "lease-lost"), answer
    after = await client.read_all(TASKS, key, {})
    assert [_told(task) for task in after] == [_told(task) for task in before]
    for grant in grants:
        answer = await client.insist("GET", f"{TASKS}/{grant.task_id}", key)
        kept = answer.body["late_result"]
        assert (kept["agent_id"], kept["fence"]) == (agent.agent_id, grant.fence)
    events = await client.read_all(EVENTS, key, {"after": 0, "type": "task.*"})
    newest = {event["subject"]: event["data"]["version"] for event in events}
    assert newest == {task["task_id"]: task["version"] for task in after}


def _told(task: dict[str, Any]) -> dict[str, Any]:
    """What is told of a task, without what came late: that is kept beside it."""
    beside = {"lease", "version", "updated_at"}
    return {name: value for name, value in task.items() if name not in beside}
