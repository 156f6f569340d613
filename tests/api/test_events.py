"""The history over the wire: order, filters, pages, envelope, and the legal history of a task."""

from __future__ import annotations

import itertools
import uuid
from typing import Any

import pytest
import pytest_asyncio

from hive.events import EVENT_TYPES
from hive.tasks import LEGAL_MOVES, TaskStatus
from tests.api.running import Agent, Api, RunningNode, found

pytestmark = pytest.mark.asyncio(loop_scope="module")
EVENTS = "/api/v1/events"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worked(node: RunningNode, admin: Api, user: Api) -> str:
    """A task that failed, was tried again, released, tried again and completed."""
    capability = f"cap-{uuid.uuid4().hex[:8]}"
    agent = await node.add_agent(admin, capabilities=[capability])
    task_id = await user.submit(
        name="worked",
        required_capabilities=[capability],
        backoff={"kind": "fixed", "base_seconds": 0},
    )
    lease = await agent.lease(task_id)
    await lease.ok("fail", error={"code": "flaky", "message": "once"})
    lease = await agent.lease(task_id)
    await lease.ok("logs", lines=[{"message": "working"}])
    await lease.ok("release")
    lease = await agent.lease(task_id)
    await lease.ok("renew", progress={"fraction": 0.5})
    await lease.ok("complete", result={"words": 3})
    await history(user, task_id, "task.completed")
    return task_id


async def history(api: Api, subject: str, until: str) -> list[dict[str, Any]]:
    """The events of a resource, once one of the type has come."""
    return await found(
        lambda: api.pages(f"{EVENTS}?subject={subject}&limit=200"),
        lambda events: any(event["type"] == until for event in events),
        f"{until} of {subject} is in the log",
    )


async def test_history_of_a_task_is_legal(user: Api, worked: str) -> None:
    """Each event is there in order, versions are dense, and every move is one of the machine."""
    events = await history(user, worked, "task.completed")
    assert [event["type"] for event in events] == [
        "task.created",
        "task.started",
        "task.retrying",
        "task.started",
        "task.log",
        "task.released",
        "task.started",
        "task.progress",
        "task.completed",
    ]
    assert [event["data"]["version"] for event in events] == list(range(1, len(events) + 1))
    statuses = [TaskStatus(event["data"]["status"]) for event in events]
    moves = [(a, b) for a, b in itertools.pairwise(statuses) if a is not b]
    assert all(b in LEGAL_MOVES[a] for a, b in moves)
    assert statuses[-1] is TaskStatus.COMPLETED


async def test_envelope_is_a_cloud_event(user: Api, worked: str) -> None:
    """With identifier, source, subject, time, place in the log and a summary without results."""
    events = await history(user, worked, "task.completed")
    task = await user.task(worked)
    me = (await user.ok("GET", "/api/v1/auth/me"))["principal_id"]
    first, last = events[0], events[-1]
    assert first["actor"] == me
    assert last["actor"] == task["agent_id"]
    for version, event in enumerate(events, start=1):
        assert event["specversion"] == "1.0"
        assert event["id"] == f"{worked}:{version}"
        assert event["source"] == f"/api/v1/tasks/{worked}"
        assert event["subject"] == worked
        assert event["type"] in EVENT_TYPES
        assert event["time"] == event["data"]["updated_at"]
        assert {"parameters", "result"}.isdisjoint(event["data"])
    (summary,) = await user.ok("GET", "/api/v1/tasks?name=worked")
    assert last["data"] == summary


async def test_seq_is_dense(admin: Api, worked: str) -> None:
    """From the first to the last event there is no hole and no double, for who sees them all."""
    seqs = [int(event["seq"]) for event in await admin.pages(f"{EVENTS}?limit=7")]
    assert seqs == list(range(1, len(seqs) + 1))


@pytest.mark.parametrize("limit", [1, 4, 200])
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_give_each_event_once(user: Api, worked: str, order: str, limit: int) -> None:
    """In both directions, with a filter."""
    whole = await history(user, worked, "task.completed")
    events = await user.pages(f"{EVENTS}?subject={worked}&order={order}&limit={limit}")
    assert events == (whole if order == "asc" else whole[::-1])


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_after_is_exclusive(user: Api, worked: str, order: str) -> None:
    """Only events with a greater `seq`, whichever comes first."""
    whole = await history(user, worked, "task.completed")
    middle = int(whole[3]["seq"])
    events = await user.pages(f"{EVENTS}?subject={worked}&order={order}&after={middle}&limit=2")
    expected = [event for event in whole if int(event["seq"]) > middle]
    assert events == (expected if order == "asc" else expected[::-1])


async def test_after_the_end_is_empty(user: Api, worked: str) -> None:
    """There is nothing yet, and no next page."""
    response = await user.get(f"{EVENTS}?after=9007199254740991")
    assert response.json() == []
    assert "Link" not in response.headers


@pytest.mark.parametrize(
    ("pattern", "prefixes"),
    [
        ("*", ("",)),
        ("task.*", ("task.",)),
        ("agent.*", ("agent.",)),
        ("task.started", ("task.started",)),
        ("agent.registered", ("agent.registered",)),
    ],
)
async def test_type_selects(
    user: Api, worked: str, pattern: str, prefixes: tuple[str, ...]
) -> None:
    """A type, a family, or all."""
    events = await user.pages(f"{EVENTS}?type={pattern}&limit=50")
    everything = await user.pages(f"{EVENTS}?limit=200")
    assert {e["type"] for e in events} == {
        e["type"] for e in everything if e["type"].startswith(prefixes)
    }
    assert events


@pytest.mark.parametrize("pattern", ["task", "task.", "*.*", "task.*.x", "$regex", "TASK.*", ".*"])
async def test_bad_pattern_is_refused(user: Api, pattern: str) -> None:
    """A pattern is a type, `noun.*` or `*`, and never an expression."""
    await user.refused(400, "GET", EVENTS, params={"type": pattern})


async def test_unknown_type_matches_nothing(user: Api) -> None:
    """It may come with a later release."""
    assert await user.ok("GET", f"{EVENTS}?type=task.unheard_of") == []


async def test_agent_leaves_its_history(admin: Api, user: Api, agent: Agent) -> None:
    """Registered, updated, paused, asked to stop, unregistered: the original's names among them."""
    path = f"/api/v1/agents/{agent.agent_id}"
    wanted = {"name": agent.agent_id, "agent_type": "x", "capabilities": [], "slots": 1}
    await admin.ok("PUT", path, json={**wanted, "labels": {}})
    await user.ok("POST", f"{path}/control", json={"action": "pause"})
    await user.ok("POST", f"{path}/control", json={"action": "stop"})
    await admin.ok("DELETE", path)
    events = await history(user, agent.agent_id, "agent.unregistered")
    assert [event["type"] for event in events] == [
        "agent.registered",
        "agent.updated",
        "agent.status_changed",
        "agent.control_requested",
        "agent.unregistered",
    ]
    assert [event["data"]["version"] for event in events] == [1, 2, 3, 4, 5]
    assert events[2]["data"]["status"] == "paused"
    assert {event["source"] for event in events} == {path}
    assert all("api_key" not in event["data"] for event in events)


async def test_trimmed_log_is_gone(node: RunningNode, admin: Api, worked: str) -> None:
    """When the log no longer holds what follows `after`: 410, and where it begins now."""
    log = node.node.store.events
    oldest = await log.oldest()
    await log._events.delete_many({"_id": {"$lt": oldest + 3}})
    problem = await admin.refused(410, "GET", f"{EVENTS}?after={oldest}")
    assert problem["code"] == "log-trimmed"
    assert str(oldest + 3) in problem["detail"]
    events = await admin.ok("GET", f"{EVENTS}?after={oldest + 2}&limit=1")
    assert events[0]["seq"] == str(oldest + 3)
    assert (await admin.ok("GET", f"{EVENTS}?limit=1"))[0]["seq"] == str(oldest + 3)
