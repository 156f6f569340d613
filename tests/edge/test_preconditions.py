"""`If-Match`: a change is made to the version that the client has seen, or not at all."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from hive.permissions import Role
from server.contract import Operation
from tests.api.operations import CONTRACT, add_person
from tests.api.running import PASSWORD, Api, RunningNode

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS = "/api/v1/system/settings"
CONCURRENT = 50
Make = Callable[[RunningNode, Api], Awaitable[str]]


@dataclass(frozen=True)
class Change:
    """A change that takes `If-Match`: how what it changes is made, and what it sends."""

    make: Make
    body: dict[str, Any] | None = None
    verb: str = ""


async def an_agent(node: RunningNode, admin: Api) -> str:
    """A new one."""
    return f"/api/v1/agents/{(await node.add_agent(admin)).agent_id}"


async def a_task(_: RunningNode, admin: Api) -> str:
    """A new one, which waits."""
    return f"/api/v1/tasks/{await admin.submit()}"


async def a_failed_task(node: RunningNode, admin: Api) -> str:
    """A new one, of which the only attempt failed."""
    capability = f"cap-{uuid.uuid4().hex[:12]}"
    task_id = await admin.submit(required_capabilities=[capability], max_attempts=1)
    lease = await (await node.add_agent(admin, capabilities=[capability])).lease(task_id)
    await lease.ok("fail", error={"code": "broken", "message": "no"})
    return f"/api/v1/tasks/{task_id}"


async def a_schedule(_: RunningNode, admin: Api) -> str:
    """A new one, of which the time is far."""
    body = {"name": f"s-{uuid.uuid4().hex}", "task": {"name": "work"}, "interval_seconds": 86_400}
    made = await admin.ok("POST", "/api/v1/schedules", json=body)
    return f"/api/v1/schedules/{made['schedule_id']}"


async def a_user(_: RunningNode, admin: Api) -> str:
    """A new one."""
    body = {"username": f"u-{uuid.uuid4().hex[:12]}", "password": PASSWORD}
    return f"/api/v1/users/{(await admin.ok('POST', '/api/v1/users', json=body))['user_id']}"


async def the_settings(_: RunningNode, __: Api) -> str:
    """Those of the system."""
    return SETTINGS


CHANGES = {
    "update_agent": Change(
        an_agent, {"agent_type": "x", "slots": 2, "capabilities": [], "labels": {}}
    ),
    "unregister_agent": Change(an_agent),
    "cancel_task": Change(a_task),
    "update_task": Change(a_task, {"priority": "high"}),
    "update_schedule": Change(a_schedule, {"task": {"name": "work"}, "interval_seconds": 3600}),
    "delete_schedule": Change(a_schedule),
    "retry_task": Change(a_failed_task, verb="/retry"),
    "update_user": Change(a_user, {"role": "viewer"}),
    "delete_user": Change(a_user),
    "update_system_settings": Change(the_settings, {"admin_allowlist": ["127.0.0.0/8"]}),
}
# What ends is the same whoever ended it: these have no version, and are done again without harm.
WITHOUT = {
    "revoke_other_sessions", "revoke_session", "revoke_user_session", "revoke_user_sessions",
    "revoke_api_key", "revoke_signing_key",
}  # fmt: skip
# Under a lease the fence is the condition: who has lost the lease changes nothing.
FENCED = {"attach_artifact"}
OPERATIONS = [pytest.param(CONTRACT.operations[name], id=name) for name in CHANGES]


async def attempt(
    api: Api, operation: Operation, path: str, if_match: str | None, **body: Any
) -> httpx.Response:
    """Make the change of the table under the condition."""
    named = (
        {"name": f"renamed-{uuid.uuid4().hex}"}
        if operation.operation_id in ("update_agent", "update_schedule")
        else {}
    )
    change = {**(CHANGES[operation.operation_id].body or {}), **named, **body}
    headers = {} if if_match is None else {"If-Match": if_match}
    options: dict[str, Any] = {"json": change} if operation.body is not None else {}
    path += CHANGES[operation.operation_id].verb
    return await api.request(operation.method, path, headers=headers, **options)


async def test_every_change_of_a_version_takes_if_match() -> None:
    """PUT, PATCH and DELETE of agents, tasks, users and settings; the list only shrinks."""
    changes = {
        one.operation_id
        for one in CONTRACT.operations.values()
        if one.method in ("PUT", "PATCH", "DELETE")
    }
    taking = {
        one.operation_id for one in CONTRACT.operations.values() if "if_match" in one.argument_names
    }
    assert taking == set(CHANGES)
    assert changes - taking == WITHOUT | FENCED
    assert all("fence" in CONTRACT.operations[name].argument_names for name in FENCED)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_another_version_is_not_changed(
    node: RunningNode, admin: Api, operation: Operation
) -> None:
    """412, and nothing has happened; weak tags and what is no tag match nothing."""
    path = await CHANGES[operation.operation_id].make(node, admin)
    before = await admin.get(path)
    version = before.json()["version"]
    for field in (
        f'"{version + 1}"',
        f'"{version + 1}.ab"',
        f'W/"{version}"',
        str(version),
        '"ab"',
    ):
        answer = await attempt(admin, operation, path, field)
        assert (answer.status_code, answer.json()["code"]) == (412, "precondition-failed")
    assert (await admin.get(path)).json() == before.json()


@pytest.mark.parametrize("form", ["{tag}", '"{version}"', '"x", {tag}', "*", '"{version}.ab-gzip"'])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_the_version_that_was_seen_is_changed(
    node: RunningNode, admin: Api, operation: Operation, form: str
) -> None:
    """By its tag, by its number, by one of several tags, or whatever it is."""
    path = await CHANGES[operation.operation_id].make(node, admin)
    before = await admin.get(path)
    field = form.format(tag=before.headers["ETag"], version=before.json()["version"])
    answer = await attempt(admin, operation, path, field)
    assert answer.status_code == 200, answer.text
    after = await admin.get(path)
    if after.status_code == 200 and path != SETTINGS:
        assert after.json()["version"] == before.json()["version"] + 1
        stale = await attempt(admin, operation, path, before.headers["ETag"])
        assert stale.status_code == 412


@pytest.mark.parametrize("operation", OPERATIONS[:-1])
async def test_what_is_not_there_is_not_found(admin: Api, operation: Operation) -> None:
    """404 comes before any condition."""
    path = operation.path.partition("{")[0] + "none"
    for field in ("*", '"1"'):
        assert (await attempt(admin, operation, path, field)).status_code == 404


async def test_whoever_may_not_learns_no_version(user: Api, other_user: Api) -> None:
    """403 comes before any condition, too."""
    path = f"/api/v1/tasks/{await user.submit()}"
    await other_user.refused(403, "DELETE", path, headers={"If-Match": '"99"'})
    await user.refused(412, "DELETE", path, headers={"If-Match": '"99"'})


async def test_settings_are_not_changed_unseen(admin: Api) -> None:
    """428 without `If-Match`: two admins can't undo each other's change without knowing."""
    before = await admin.ok("GET", SETTINGS)
    problem = await admin.refused(428, "PATCH", SETTINGS, json={"admin_allowlist": []})
    assert problem["code"] == "precondition-required"
    assert await admin.ok("GET", SETTINGS) == before


async def test_refused_unregistration_takes_no_key_away(node: RunningNode, admin: Api) -> None:
    """The agent goes on; once it is unregistered, its key is refused."""
    agent = await node.add_agent(admin)
    path = f"/api/v1/agents/{agent.agent_id}"
    await admin.refused(412, "DELETE", path, headers={"If-Match": '"99"'})
    await agent.heartbeat()
    tag = (await admin.get(path)).headers["ETag"]
    await admin.ok("DELETE", path, headers={"If-Match": tag})
    answer = await agent.api.get("/api/v1/auth/me")
    assert answer.status_code == 401


async def test_of_many_at_once_one_is_carried_out(node: RunningNode, admin: Api) -> None:
    """50 changes of the same version: one succeeds, the others are told that it was not theirs."""
    operation, path = CONTRACT.operations["update_agent"], await an_agent(node, admin)
    before = await admin.get(path)
    answers = await asyncio.gather(
        *(attempt(admin, operation, path, before.headers["ETag"]) for _ in range(CONCURRENT))
    )
    assert Counter(one.status_code for one in answers) == {200: 1, 412: CONCURRENT - 1}
    (made,) = [one.json() for one in answers if one.status_code == 200]
    after = await admin.ok("GET", path)
    assert (after["name"], after["version"]) == (made["name"], before.json()["version"] + 1)


async def test_of_many_changes_of_a_user_one_is_carried_out(admin: Api) -> None:
    """In SQL, where each transaction compares the version under its lock."""
    path = await a_user(None, admin)  # type: ignore[arg-type]
    tag = (await admin.get(path)).headers["ETag"]
    answers = await asyncio.gather(
        *(
            admin.patch(path, json={"disabled": True}, headers={"If-Match": tag})
            for _ in range(CONCURRENT)
        )
    )
    assert Counter(one.status_code for one in answers) == {200: 1, 412: CONCURRENT - 1}


async def test_of_two_admins_one_has_to_look_again(node: RunningNode, admin: Api) -> None:
    """The second one would have undone what the first one set."""
    other = await add_person(node, admin, Role.ADMIN)
    await admin.ok("PATCH", SETTINGS, json={"admin_allowlist": []}, headers={"If-Match": "*"})
    tag = (await admin.get(SETTINGS)).headers["ETag"]
    lists = (["127.0.0.0/8"], ["127.0.0.0/8", "::1/128"])
    answers = await asyncio.gather(
        *(
            api.patch(SETTINGS, json={"admin_allowlist": networks}, headers={"If-Match": tag})
            for api, networks in zip((admin, other), lists, strict=True)
        )
    )
    assert sorted(one.status_code for one in answers) == [200, 412]
    await admin.ok("PATCH", SETTINGS, json={"admin_allowlist": []}, headers={"If-Match": "*"})
