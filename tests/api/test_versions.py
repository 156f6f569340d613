"""The deprecated operation of the contract: it works, and says on every answer what comes."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import pytest

from tests.api.running import Agent, Api

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEPRECATED_AT = datetime(2026, 11, 21, tzinfo=UTC)
SUNSET = datetime(2027, 11, 21, tzinfo=UTC)


def announced(response: httpx.Response) -> tuple[datetime, datetime, str]:
    """When it was deprecated, when it ends, and what to ask instead; by RFC 9745, 8594, 8288."""
    since = response.headers["Deprecation"]
    assert since.startswith("@")
    return (
        datetime.fromtimestamp(int(since[1:]), UTC),
        parsedate_to_datetime(response.headers["Sunset"]),
        response.links["successor-version"]["url"],
    )


async def test_status_of_a_task_names_its_successor(user: Api) -> None:
    """The receipt as it would be now; whoever follows the link finds the same status."""
    task_id = await user.submit()
    response = await user.get(f"/api/v1/tasks/{task_id}/status")
    assert response.json() == {"task_id": task_id, "status": "queued"}
    since, until, successor = announced(response)
    assert (since, until) == (DEPRECATED_AT, SUNSET)
    assert response.headers["Sunset"] == "Sun, 21 Nov 2027 00:00:00 GMT"
    task = await user.ok("GET", successor)
    assert response.json().items() <= task.items()


async def test_refusals_of_a_deprecated_operation_say_so_too(user: Api, anonymous: Api) -> None:
    """401, 404 and 400 have the same announcement; the address of the successor is encoded."""
    path = "/api/v1/tasks/no%20task%3F/status"
    for status, response in (
        (401, await anonymous.get(path)),
        (404, await user.get(path)),
        (400, await user.get(f"{path}?more=1")),
    ):
        assert response.status_code == status
        assert announced(response)[2] == "/api/v1/tasks/no%20task%3F"


async def test_other_operations_announce_nothing(user: Api) -> None:
    """Neither the successor, nor another method on the path of a deprecated operation."""
    task_id = await user.submit()
    for method, path in (("GET", f"/tasks/{task_id}"), ("PUT", f"/tasks/{task_id}/status")):
        response = await user.request(method, f"/api/v1{path}")
        assert not {"Deprecation", "Sunset", "Link"} & set(response.headers)


async def test_original_form_of_control_stays(admin: Api, agent: Agent) -> None:
    """`POST /api/v1/agents/{id}/control` is current, and with a slash at its end redirects."""
    path = f"/api/v1/agents/{agent.agent_id}/control"
    response = await admin.post(path, json={"action": "pause"})
    assert response.status_code == 200
    assert "Deprecation" not in response.headers
    redirect = await admin.post(f"{path}/", json={"action": "pause"})
    assert (redirect.status_code, redirect.headers["Location"]) == (307, path)
