"""Every operation once: what goes out matches the contract, what comes back is typed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from agentzero_client import (
    AgentLabels,
    AsyncClient,
    Backoff,
    Concurrency,
    ConflictError,
    Deduplication,
    Fairness,
    PreconditionFailedError,
    Sticky,
    Timeouts,
)
from agentzero_client.models import Progress
from tests.client.fake_hive import TIME, FakeHive


async def test_submit_sends_what_is_given_and_nothing_else(
    hive: FakeHive, client: AsyncClient
) -> None:
    """Absent is absent, never null."""
    first = await client.tasks.submit("first")
    await client.tasks.submit(
        "second",
        parameters=[],
        priority="high",
        dependencies=[first],
        required_capabilities=["c"],
        on_dependency_failure="run",
        max_attempts=2,
        backoff=Backoff(kind="fixed", base_seconds=1.5),
        non_retryable=["bad-input"],
        retry_seconds=90,
        timeouts=Timeouts(execution_seconds=5, heartbeat_seconds=2),
        run_at=datetime(2026, 11, 21, 10, tzinfo=timezone(timedelta(hours=1))),
        concurrency=Concurrency(key="k", limit=1, strategy="cancel-oldest"),
        fairness=Fairness(key="tenant", weight=3),
        agent_labels=AgentLabels(required={"zone": "eu"}),
        sticky=Sticky(seconds=2),
        labels={"team": "blue"},
        description="text",
    )
    bodies = [body for method, path, body in hive.requests if path == "/api/v1/tasks"]
    assert bodies == [
        {"name": "first"},
        {
            "name": "second",
            "parameters": [],
            "priority": "high",
            "dependencies": [first.task_id],
            "required_capabilities": ["c"],
            "on_dependency_failure": "run",
            "max_attempts": 2,
            "backoff": {"kind": "fixed", "base_seconds": 1.5},
            "non_retryable": ["bad-input"],
            "retry_seconds": 90,
            "timeouts": {"execution_seconds": 5, "heartbeat_seconds": 2},
            "run_at": "2026-11-21T09:00:00Z",
            "concurrency": {"key": "k", "limit": 1, "strategy": "cancel-oldest"},
            "fairness": {"key": "tenant", "weight": 3},
            "agent_labels": {"required": {"zone": "eu"}, "preferred": {}},
            "sticky": {"seconds": 2},
            "labels": {"team": "blue"},
            "description": "text",
        },
    ]


async def test_run_at_needs_a_time_zone(client: AsyncClient) -> None:
    """A local time would mean something else to the server."""
    with pytest.raises(ValueError, match="time zone"):
        await client.tasks.submit("t", run_at=datetime(2026, 1, 1))  # noqa: DTZ001  # The mistake.


async def test_tasks_are_looked_at_cancelled_and_their_logs_read(
    hive: FakeHive, client: AsyncClient
) -> None:
    """The life of a task as a submitter sees it."""
    receipt = await client.tasks.submit("t", parameters={"a": 1})
    task = await client.tasks.get(receipt.task_id)
    assert (task.status, task.parameters, task.has_ended) == ("queued", {"a": 1}, False)
    assert task.created_at == datetime(2026, 11, 21, 9, tzinfo=UTC)
    assert await client.tasks.logs(receipt.task_id) == []
    assert (await client.tasks.cancel(receipt.task_id)).status == "cancelled"
    with pytest.raises(ConflictError, match="illegal-transition"):
        await client.tasks.cancel(receipt.task_id)


async def test_failed_task_is_retried_and_tells_what_came_late(
    hive: FakeHive, client: AsyncClient
) -> None:
    """Why it was not tried again, what an agent said afterwards, and another try."""
    late = {"attempt": 1, "agent_id": "agt_1", "fence": 1, "status": "completed", "result": [1]}
    task_id = hive.add_task("t", late_result={**late, "time": TIME}, retry_seconds=9)
    hive.move(task_id, "task.failed", status="failed", retries_ended="attempts-used")
    task = await client.tasks.get(task_id)
    assert (task.retries_ended, task.retry_seconds) == ("attempts-used", 9)
    assert task.late_result is not None
    assert (task.late_result.result, task.late_result.time) == ([1], task.created_at)
    with pytest.raises(PreconditionFailedError):
        await client.tasks.retry(task_id, if_match=task.version + 1)
    assert (await client.tasks.retry(task_id, if_match=task.version)).status == "queued"
    with pytest.raises(ConflictError, match="illegal-transition"):
        await client.tasks.retry(task_id)


async def test_task_is_changed_while_it_waits_and_asked_for_until_it_ends(
    hive: FakeHive, client: AsyncClient
) -> None:
    """Only what is given is sent; the wait is the server's, for so many seconds."""
    once = Deduplication(key="nightly", on_duplicate="return-existing")
    receipt = await client.tasks.submit("t", deduplication=once)
    assert receipt.duplicate is False
    changed = await client.tasks.update(
        receipt.task_id, priority="low", labels={}, timeouts=Timeouts(queue_seconds=5)
    )
    assert (changed.priority, changed.labels) == ("low", {})
    assert changed.deduplication == once
    bodies = [body for _method, path, body in hive.requests if path != "/api/v1/auth/login"]
    assert bodies[-1] == {"priority": "low", "labels": {}, "timeouts": {"queue_seconds": 5}}
    await client.tasks.cancel(receipt.task_id)
    assert (await client.tasks.wait_for(receipt.task_id, seconds=0.5)).has_ended


async def test_agents_are_registered_changed_and_removed(
    hive: FakeHive, client: AsyncClient
) -> None:
    """The registry as an admin sees it; the key does not show in a print."""
    agent = await client.agents.register("a", agent_type="x", capabilities=["c"], slots=2)
    assert agent.api_key not in repr(agent)
    assert [a.name async for a in client.agents.list()] == ["a"]
    changed = await client.agents.update(
        agent.agent_id, name="b", agent_type="x", capabilities=[], slots=1, labels={"z": "eu"}
    )
    assert (changed.name, changed.labels) == ("b", {"z": "eu"})
    with pytest.raises(PreconditionFailedError):
        await client.agents.update(
            agent.agent_id,
            name="c",
            agent_type="x",
            capabilities=[],
            slots=1,
            labels={},
            if_match=agent.version,
        )
    assert (await client.agents.get(agent.agent_id)).leases == []
    assert (await client.agents.control(agent.agent_id, "pause", reason="r")).status == "paused"
    await client.agents.unregister(agent.agent_id)
    assert hive.agents == {}


async def test_leases_are_claimed_and_reported_on(hive: FakeHive, client: AsyncClient) -> None:
    """The data plane by hand, as an agent in another runtime would use it."""
    agent = await client.agents.register("a")
    task_id = hive.add_task("t", parameters={"a": 1})
    (lease,) = await client.agents.claim(agent.agent_id, max_leases=2, wait_seconds=0.5)
    assert (lease.task.task_id, lease.task.parameters, lease.fence) == (task_id, {"a": 1}, 1)
    progress = Progress(fraction=0.5, message="half")
    state = await client.leases.renew(lease.lease_id, lease.fence, progress=progress)
    assert state.cancel_requested is False
    appended = await client.leases.append_logs(lease.lease_id, lease.fence, [{"message": "m"}])
    assert appended.log_count == 1
    done = await client.leases.complete(lease.lease_id, lease.fence, {"b": 2})
    assert done.status == "completed"
    again = await client.leases.complete(lease.lease_id, lease.fence, {"b": 2})
    assert again == done
    reply = await client.agents.heartbeat(agent.agent_id, free_slots=1, load=0.0)
    assert reply.lease_seconds == hive.lease_seconds


async def test_leases_are_failed_and_released(hive: FakeHive, client: AsyncClient) -> None:
    """An attempt that ends without success."""
    agent = await client.agents.register("a")
    hive.add_task("t")
    (lease,) = await client.agents.claim(agent.agent_id)
    assert (await client.leases.release(lease.lease_id, 1, reason="r")).status == "queued"
    (lease,) = await client.agents.claim(agent.agent_id)
    failed = await client.leases.fail(lease.lease_id, 2, code="c", message="m", retryable=False)
    assert failed.status == "failed"


async def test_history_and_status_are_read(hive: FakeHive, client: AsyncClient) -> None:
    """The log by pages, ascending and descending."""
    hive.page_size = 2
    for n in range(5):
        hive.add_task(f"t{n}")
    assert [event.seq async for event in client.events.list(after=1)] == [2, 3, 4, 5]
    assert [e.seq async for e in client.events.list(order="desc", limit=2)] == [5, 4]
    assert (await client.hive.status()).event_log.seq == "5"


async def test_api_keys_are_made_seen_rotated_and_revoked(
    hive: FakeHive, client: AsyncClient
) -> None:
    """The life of a key as its owner sees it; the secret does not show in a print."""
    key = await client.api_keys.create(
        "ci", scopes=["tasks:read"], expires_in_days=90, allowed_addresses=["192.0.2.0/24"]
    )
    await client.api_keys.create("all")
    assert [body for method, path, body in hive.requests if method == "POST"] == [
        {
            "name": "ci",
            "scopes": ["tasks:read"],
            "expires_in_days": 90,
            "allowed_addresses": ["192.0.2.0/24"],
        },
        {"name": "all"},
    ]
    assert key.api_key not in repr(key)
    assert (await client.api_keys.get(key.key_id)).created_at == key.created_at
    new = await client.api_keys.rotate(key.key_id, overlap_seconds=0)
    assert (await client.api_keys.get(key.key_id)).successor_id == new.key_id
    with pytest.raises(ConflictError, match="api-key-rotated"):
        await client.api_keys.rotate(key.key_id)
    assert (await client.api_keys.revoke(new.key_id)).status == "revoked"
    assert [k.name async for k in client.api_keys.list(status="active")] == ["ci", "all"]
    assert len([k async for k in client.api_keys.list(limit=2)]) == 2
