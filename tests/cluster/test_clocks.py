"""Nodes whose clocks are wrong by ten minutes: leases, `run_at` and order are the database's."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from tests.api.running import Agent, Api, dropped_afterwards, found
from tests.cluster.nodes import SETTINGS
from tests.servers import ServerProcess

SKEW_SECONDS = 600
LEASE_SECONDS = 3
pytestmark = [pytest.mark.more, pytest.mark.timeout(240)]


class SkewedServer(ServerProcess):
    """A node whose clock is wrong."""

    program = ("-m", "tests.cluster.skewed_server", "serve")


@pytest.fixture
def nodes(
    tmp_path: Path, mongodb_uri: str, redis_url: str, sql_url: str
) -> Iterator[list[SkewedServer]]:
    """Two nodes, one ten minutes ahead and one as much behind."""
    database = f"test_{uuid.uuid4().hex}"
    shared = {
        **SETTINGS,
        "MONGODB_URI": mongodb_uri,
        "MONGODB_DATABASE": database,
        "REDIS_URL": redis_url,
        "SQL_URL": sql_url,
        "LEASE_SECONDS": str(LEASE_SECONDS),
    }
    started = [
        SkewedServer(tmp_path / f"node{skew}", TEST_SKEW_SECONDS=str(skew), **shared)
        for skew in (SKEW_SECONDS, -SKEW_SECONDS)
    ]
    with dropped_afterwards(mongodb_uri, database):
        try:
            for node in started:
                node.launch()
            yield started
        finally:
            for node in started:
                node.kill()


@contextlib.asynccontextmanager
async def operator(node: SkewedServer) -> AsyncIterator[Api]:
    """The operator at this node, by an API key: a token names times."""
    async with Api(node.wait_until_it_listens(), node.data.find_operator_key()) as api:
        yield api


async def events_of(api: Api, task_id: str) -> list[dict[str, str]]:
    """The task's history."""
    return list(await api.ok("GET", f"/api/v1/events?subject={task_id}&limit=50"))


async def test_wrong_clocks_change_nothing(
    nodes: list[SkewedServer], mongodb_client: MongoClient[dict[str, object]]
) -> None:
    """Leases run as long as they are to, nothing is early or late, and the order is kept."""
    async with operator(nodes[0]) as ahead, operator(nodes[1]) as behind:
        registered = await ahead.ok("POST", "/api/v1/agents", json={"name": "w", "slots": 16})
        async with (
            Api(str(ahead.base_url), registered["api_key"]) as at_ahead,
            Api(str(behind.base_url), registered["api_key"]) as at_behind,
        ):
            first = Agent(registered["agent_id"], at_ahead)
            second = Agent(registered["agent_id"], at_behind)
            await _order_is_that_of_the_store(ahead, behind, first)
            await _lease_is_kept_and_ends(ahead, behind, first, second)
            for submits, takes in ((ahead, second), (behind, first)):
                await _run_at_is_kept(submits, takes, _now(mongodb_client))


def _now(client: MongoClient[dict[str, object]]) -> datetime:
    now = client.admin.command("hello")["localTime"]
    assert isinstance(now, datetime)
    return now.replace(tzinfo=UTC)


async def _order_is_that_of_the_store(ahead: Api, behind: Api, agent: Agent) -> None:
    tasks = [
        await (behind if number % 2 else ahead).submit(required_capabilities=[])
        for number in range(8)
    ]
    claimed: list[dict[str, Any]] = []
    while len(claimed) < len(tasks):
        claimed += await agent.claim(max_leases=1, wait_seconds=5)
    assert [one["task"]["task_id"] for one in claimed] == tasks
    for one in claimed:
        path = f"/api/v1/leases/{one['lease_id']}/complete"
        await agent.api.ok("POST", path, json={"fence": one["fence"]})


async def _lease_is_kept_and_ends(ahead: Api, behind: Api, first: Agent, second: Agent) -> None:
    task_id = await ahead.submit(
        required_capabilities=[], backoff={"kind": "fixed", "base_seconds": 0}
    )
    lease = await first.lease(task_id)
    for _ in range(2):
        # Each renewal at the other node, and another agent's look for what has expired.
        path = lease.path("renew")
        await second.api.ok("POST", path, json={"fence": lease.fence})
        assert await second.claim(wait_seconds=LEASE_SECONDS / 2) == []
    assert (await behind.task(task_id))["status"] == "running"
    # Nobody renews any more.
    (again,) = await second.claim(wait_seconds=20)
    assert again["task"]["task_id"] == task_id
    times = [
        datetime.fromisoformat(event["time"])
        for event in await events_of(ahead, task_id)
        if event["type"] in ("task.started", "task.retrying")
    ]
    assert times[1] - times[0] >= timedelta(seconds=LEASE_SECONDS)
    assert times[-1] - times[0] < timedelta(seconds=SKEW_SECONDS / 2)
    path = f"/api/v1/leases/{again['lease_id']}/complete"
    await second.api.ok("POST", path, json={"fence": again["fence"]})


async def _run_at_is_kept(submits: Api, takes: Agent, now: datetime) -> None:
    run_at = now + timedelta(seconds=3)
    task_id = await submits.submit(required_capabilities=[], run_at=run_at.isoformat())
    assert (await submits.task(task_id))["status"] == "scheduled"
    lease = await takes.lease(task_id)
    await lease.ok("complete")

    async def history() -> list[dict[str, str]]:
        return await events_of(submits, task_id)

    events = await found(history, lambda seen: seen[-1]["type"] == "task.completed", "completed")
    started = next(event for event in events if event["type"] == "task.started")
    late = datetime.fromisoformat(started["time"]) - run_at
    assert timedelta(0) <= late < timedelta(seconds=SKEW_SECONDS / 2)
