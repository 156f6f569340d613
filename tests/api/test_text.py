"""Text comes back exactly as it was written, and harmless; deceiving names are refused."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from server.answers import SECURITY_HEADERS
from tests.api.running import Agent, Api, RunningNode

pytestmark = pytest.mark.asyncio(loop_scope="module")
HOSTILE = [
    "line one\r\nSet-Cookie: a=b\r\n\r\n<script>alert(1)</script>",
    "\u202eturned\u202c \u2066isolated\u2069 \u200fmarked",
    "e\u0301 is not é, nor ﬁ fi",
    "👩‍🚀 \U0010ffff \ufeff \ufffe",
    "\x01\x02\x1b[31mred\x1b[0m\x7f\x85",
    "</script><img src=x onerror=alert(1)>\u2028\u2029",
    "'; DROP TABLE tasks; -- ${jndi:ldap://x} {{7*7}} %0d%0aX: y",
    " spaces around \t\n",
]


def is_plain(answer: httpx.Response) -> None:
    """Fail unless it is JSON that no browser takes for anything else."""
    assert answer.headers["Content-Type"] in ("application/json", "application/problem+json")
    for name in SECURITY_HEADERS.keys() - {"Cache-Control"}:
        assert answer.headers[name] == SECURITY_HEADERS[name], name
    assert "Set-Cookie" not in answer.headers
    assert "X" not in answer.headers
    for value in answer.headers.values():
        assert not set(value) & {"\r", "\n", "\0", "<"}


@pytest.mark.parametrize("text", HOSTILE)
async def test_text_is_returned_exactly_as_it_was_stored(
    user: Api, agent: Agent, text: str
) -> None:
    """Descriptions, parameters, progress, log lines, results and errors."""
    task_id = await user.submit(
        description=text,
        parameters={"text": text, text: 1},
        required_capabilities=[],
        max_attempts=1,
    )
    lease = await agent.lease(task_id)
    await lease.ok("renew", progress={"fraction": 0.5, "message": text})
    await lease.ok("logs", lines=[{"message": text}])
    await lease.ok("fail", error={"code": "hostile", "message": text})
    answer = await user.get(f"/api/v1/tasks/{task_id}")
    is_plain(answer)
    task = answer.json()
    assert task["description"] == text
    assert task["parameters"] == {"text": text, text: 1}
    assert task["progress"]["message"] == text
    assert task["error"]["message"] == text
    answer = await user.get(f"/api/v1/tasks/{task_id}/logs")
    is_plain(answer)
    assert [line["message"] for line in answer.json()["logs"]] == [text]


@pytest.mark.parametrize(
    "name", ["a\r\nX: y", "a\0b", "\x1b[2J", "evil\u202egnp.exe", "\u2066x", "x\u200f", "a\u061cb"]
)
async def test_names_that_deceive_are_refused(user: Api, admin: Api, name: str) -> None:
    """Of tasks, agents, keys and in labels; the problem quotes nothing of it."""
    attempts: list[tuple[Api, str, dict[str, Any]]] = [
        (user, "/api/v1/tasks", {"name": name}),
        (user, "/api/v1/tasks", {"name": "x", "labels": {"key": name}}),
        (user, "/api/v1/tasks", {"name": "x", "labels": {name: "x"}}),
        (user, "/api/v1/tasks", {"name": "x", "concurrency": {"key": name, "limit": 1}}),
        (admin, "/api/v1/agents", {"name": name, "agent_type": "x"}),
        (admin, "/api/v1/users", {"username": name, "password": "x" * 12, "role": "user"}),
        (user, "/api/v1/api-keys", {"name": name, "scopes": ["tasks:read"]}),
    ]
    for who, path, body in attempts:
        answer = await who.post(path, json=body)
        assert answer.status_code == 400, (path, body)
        assert answer.json()["code"] == "contract-mismatch"
        is_plain(answer)


async def test_nothing_that_is_reflected_becomes_markup_or_a_header(
    user: Api, node: RunningNode
) -> None:
    """Paths, queries, identifiers, methods and request ids come back in JSON, or not at all."""
    hostile = "%3Cscript%3E%0d%0aX:%20y"
    for path in (
        f"/{hostile}",
        f"/api/v1/tasks/{hostile}",
        f"/api/v1/tasks/{hostile}/logs",
        f"/api/v1/agents/{hostile}",
        f"/api/v1/tasks?status={hostile}",
        f"/api/v1/tasks?{hostile}=1",
        f"/api/v1/tasks?cursor={hostile}",
        f"/api/v1/tasks/?{hostile}",
    ):
        answer = await user.get(path, headers={"X-Request-Id": "<script>"})
        assert answer.status_code in (307, 400, 404)
        assert "<" not in answer.headers["X-Request-Id"]
        if answer.status_code != 307:
            is_plain(answer)
            json.loads(answer.content)
        else:
            assert answer.headers["Location"] == f"/api/v1/tasks?{hostile}"
    assert node.url
