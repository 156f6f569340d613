"""The behaviours that the original contract promised, as it wrote them."""

from __future__ import annotations

import pytest

from tests.api.running import PASSWORD, Agent, Api, RunningNode

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_listing_agents_gives_a_json_array(viewer: Api, agent: Agent) -> None:
    """`GET /api/v1/agents` with a bearer token is 200 and a JSON array."""
    response = await viewer.get("/api/v1/agents")
    assert response.status_code == 200
    assert isinstance(response.json(), list)
    assert agent.agent_id in {one["agent_id"] for one in response.json()}


async def test_submitting_a_task_gives_a_receipt(user: Api) -> None:
    """Name, description and priority `medium` give 200 with `task_id`, `queued` and `Location`."""
    task = {"name": "Test Task", "description": "Test Description", "priority": "medium"}
    response = await user.post("/api/v1/tasks", json=task)
    assert response.status_code == 200
    task_id = response.json()["task_id"]
    assert response.json() == {"task_id": task_id, "status": "queued"}
    assert response.headers["Location"] == f"/api/v1/tasks/{task_id}"
    assert task.items() <= (await user.task(task_id)).items()


async def test_log_of_a_task_has_its_shape(user: Api) -> None:
    """`GET /api/v1/tasks/{id}/logs` is `{"task_id", "logs"}`."""
    task_id = await user.submit()
    logs = await user.ok("GET", f"/api/v1/tasks/{task_id}/logs")
    assert logs == {"task_id": task_id, "logs": []}


async def test_cancelling_a_task_says_so(user: Api) -> None:
    """`DELETE /api/v1/tasks/{id}` answers `Task cancelled` and a result."""
    task_id = await user.submit()
    answer = await user.ok("DELETE", f"/api/v1/tasks/{task_id}")
    assert answer["message"] == "Task cancelled"
    assert answer["result"] == {"task_id": task_id, "status": "cancelled"}


async def test_unregistering_an_agent_says_so(admin: Api, agent: Agent) -> None:
    """`DELETE /api/v1/agents/{id}` answers `Agent unregistered successfully`."""
    answer = await admin.ok("DELETE", f"/api/v1/agents/{agent.agent_id}")
    assert answer == {"message": "Agent unregistered successfully"}


async def test_login_gives_both_tokens(anonymous: Api) -> None:
    """A login gives `access_token`, `refresh_token` and `token_type` `bearer`."""
    credentials = {"username": "admin", "password": PASSWORD}
    answer = await anonymous.ok("POST", "/api/v1/auth/login", json=credentials)
    assert answer["token_type"] == "bearer"
    assert answer["access_token"]
    assert answer["refresh_token"]


@pytest.mark.parametrize("credentials", [("admin", "wrong"), ("nobody", PASSWORD)])
async def test_failed_login_is_invalid_credentials(
    anonymous: Api, credentials: tuple[str, str]
) -> None:
    """Wrong password or wrong name: 401 `Invalid credentials`."""
    body = dict(zip(("username", "password"), credentials, strict=True))
    problem = await anonymous.refused(401, "POST", "/api/v1/auth/login", json=body)
    assert problem["detail"] == "Invalid credentials"


async def test_expired_token_is_named(node: RunningNode) -> None:
    """A token past its end: 401 `Token expired`."""
    problem = await node.client(node.expired_token()).refused(401, "GET", "/api/v1/agents")
    assert problem["detail"] == "Token expired"


@pytest.mark.parametrize("token", ["garbage", "a.b.c", "azk_notakeyofours"])
async def test_bad_token_is_named(node: RunningNode, token: str) -> None:
    """A token that is not ours: 401 `Invalid token`."""
    problem = await node.client(token).refused(401, "GET", "/api/v1/agents")
    assert problem["detail"] == "Invalid token"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_unknown_agent_is_not_found(admin: Api, method: str) -> None:
    """An unknown agent: 404 `Agent not found`."""
    problem = await admin.refused(404, method, "/api/v1/agents/agent-123")
    assert problem["detail"] == "Agent not found"


async def test_unknown_task_is_not_found(user: Api) -> None:
    """An unknown task: 404 `Task not found`."""
    problem = await user.refused(404, "GET", "/api/v1/tasks/task-123")
    assert problem["detail"] == "Task not found"


async def test_registering_an_agent_is_a_creation(admin: Api) -> None:
    """Creations other than tasks answer 201 with `Location`."""
    response = await admin.post("/api/v1/agents", json={"name": "ResearchAgent-1"})
    assert response.status_code == 201
    agent_id = response.json()["agent_id"]
    assert response.headers["Location"] == f"/api/v1/agents/{agent_id}"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/agents/"),
        ("POST", "/api/v1/agents/"),
        ("POST", "/api/v1/tasks/"),
        ("GET", "/api/v1/agents/agent-123/"),
        ("GET", "/api/v1/tasks/task-123/logs/"),
    ],
)
async def test_trailing_slash_redirects(admin: Api, method: str, path: str) -> None:
    """The original's paths with a slash at the end redirect to the canonical ones (307)."""
    response = await admin.request(method, path + "?limit=5")
    assert response.status_code == 307
    assert response.headers["Location"] == path[:-1] + "?limit=5"


async def test_redirected_submission_keeps_its_body(node: RunningNode, user: Api) -> None:
    """A client that follows the redirect gets its task."""
    following = node.client(user.credential, follow_redirects=True)
    answer = await following.ok("POST", "/api/v1/tasks/", json={"name": "slash"})
    assert (await user.task(answer["task_id"]))["name"] == "slash"
