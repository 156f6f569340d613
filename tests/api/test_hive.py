"""The status of the hive, the health of the node, and the contracts, over the wire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib.metadata import version

import pytest

from hive.agents import AgentStatus
from hive.tasks import TaskStatus
from server.documents import load_yaml
from server.resources import asyncapi_path, openapi_path
from tests.api.running import Api, RunningNode, found

pytestmark = pytest.mark.asyncio(loop_scope="module")
STATUS = "/api/v1/hive/status"


async def test_status_counts_agents_and_tasks(node: RunningNode, admin: Api, viewer: Api) -> None:
    """Each status is counted, the empty ones too; the event log follows."""
    before = await viewer.ok("GET", STATUS)
    assert set(before["agents"]) == set(AgentStatus)
    assert set(before["tasks"]) == set(TaskStatus)
    await admin.submit()
    cancelled = await admin.submit()
    await admin.ok("DELETE", f"/api/v1/tasks/{cancelled}")
    agent = await node.add_agent(admin)
    path = f"/api/v1/agents/{agent.agent_id}/control"
    await admin.ok("POST", path, json={"action": "pause"})
    after = await found(
        lambda: viewer.ok("GET", STATUS),
        lambda seen: int(seen["event_log"]["seq"]) >= int(before["event_log"]["seq"]) + 5,
        "five events are in the log",
    )
    assert after["tasks"]["queued"] == before["tasks"]["queued"] + 1
    assert after["tasks"]["cancelled"] == before["tasks"]["cancelled"] + 1
    assert after["agents"]["paused"] == before["agents"]["paused"] + 1
    assert after["event_log"]["recorder"].startswith("nod_")
    told = datetime.fromisoformat(after["time"])
    assert abs(told - datetime.now(UTC)) < timedelta(seconds=5)


async def test_node_is_alive(anonymous: Api) -> None:
    """Liveness is public and names the version."""
    alive = await anonymous.ok("GET", "/health/live")
    assert alive == {"status": "alive", "version": version("agentzero-api")}


async def test_node_is_ready(anonymous: Api) -> None:
    """Readiness is public and says what was looked at."""
    ready = await anonymous.ok("GET", "/health/ready")
    assert ready == {
        "status": "ready",
        "checks": {"mongodb": "ok", "sql": "ok", "event_log": "ok"},
    }


async def test_draining_node_is_not_ready(node: RunningNode, anonymous: Api) -> None:
    """503 with `Retry-After` as soon as the node drains; liveness stays."""
    node.node.readiness.drain()
    try:
        response = await anonymous.get("/health/ready")
        assert response.status_code == 503
        assert response.json()["status"] == "draining"
        assert int(response.headers["Retry-After"]) > 0
        await anonymous.ok("GET", "/health/live")
    finally:
        node.node.readiness._draining = False


@pytest.mark.parametrize("name", ["openapi", "asyncapi"])
async def test_contract_is_served_byte_for_byte(anonymous: Api, name: str) -> None:
    """The YAML is the file; the JSON is the same document."""
    path = {"openapi": openapi_path(), "asyncapi": asyncapi_path()}[name]
    text = await anonymous.get(f"/{name}.yaml")
    assert text.content == path.read_bytes()
    assert text.headers["Content-Type"] == "application/yaml"
    document = await anonymous.ok("GET", f"/{name}.json")
    assert document == load_yaml(path.read_bytes())
    assert document["info"]["title"]


async def test_every_answer_has_the_security_headers(anonymous: Api, admin: Api) -> None:
    """Success and refusal, JSON and YAML."""
    answers = [
        await anonymous.get("/health/live"),
        await anonymous.get("/openapi.yaml"),
        await anonymous.get(STATUS),
        await admin.get(STATUS),
        await admin.get("/nowhere"),
        await admin.patch(STATUS),
        await admin.get(STATUS + "/"),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 401, 200, 404, 405, 307]
    for answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        # What has a validator may be kept by the client, who asks again each time.
        kept = "private, no-cache" if "ETag" in answer.headers else "no-store"
        assert answer.headers["Cache-Control"] == kept
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert answer.headers["X-Request-Id"]
        assert "Server" not in answer.headers
