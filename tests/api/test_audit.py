"""The audit log over the wire: what a record says, filters, pages, export, completion."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import httpx
import pytest
from pymongo import MongoClient

import server.audit_completion as completion
from hive import task_machine as machine
from hive.audit import verify
from hive.changes import Actor
from hive.task_spec import TaskSpec
from server.audit_records import CallIdentifiers
from tests.api.running import PASSWORD, Agent, Api, RunningNode, found
from tests.realtime.client import open_socket

pytestmark = pytest.mark.asyncio(loop_scope="module")
AUDIT = "/api/v1/audit"


async def recorded(admin: Api, request_id: str) -> dict[str, Any]:
    """The one record of a request, once it is there."""

    async def look() -> list[dict[str, Any]]:
        records = await admin.ok("GET", f"{AUDIT}?limit=200")
        return [one for one in records if one.get("request_id") == request_id]

    (record,) = await found(look, bool, f"{request_id} is recorded", 5)
    return record


async def call(api: Api, method: str, path: str, **request: Any) -> tuple[int | None, str]:
    """The status of the answer, None when it went lost, and the identifier of the request."""
    request_id = f"req-{uuid.uuid4().hex}"
    headers = {**request.pop("headers", {}), "X-Request-Id": request_id}
    try:
        response = await api.request(method, path, headers=headers, **request)
    except httpx.TransportError:
        return None, request_id
    return response.status_code, request_id


async def test_a_mutation_is_recorded_before_its_answer(admin: Api, user: Api) -> None:
    """Who, what, from where, how it ended; the resource is the one that was made."""
    response = await user.post(
        "/api/v1/tasks", json={"name": "work"}, headers={"User-Agent": "tests/1.0"}
    )
    (record,) = await admin.ok("GET", f"{AUDIT}?resource={response.json()['task_id']}")
    me = await user.ok("GET", "/api/v1/auth/me")
    expected = {
        "channel": "rest",
        "operation": "create_task",
        "actor": me["principal_id"],
        "username": "user",
        "role": "user",
        "authentication": "session",
        "session_id": me["session_id"],
        "address": "127.0.0.1",
        "client": "tests/1.0",
        "resource": response.json()["task_id"],
        "outcome": "success",
        "status": 200,
        "request_id": response.headers["x-request-id"],
    }
    assert expected.items() <= record.items()
    assert record["duration_ms"] > 0
    assert await admin.ok("GET", f"{AUDIT}/{record['record_id']}") == record


async def test_a_read_is_recorded_within_a_second(admin: Api, agent: Agent) -> None:
    """With the API key that it came with, never the key itself."""
    status, request_id = await call(agent.api, "GET", f"/api/v1/agents/{agent.agent_id}")
    record = await recorded(admin, request_id)
    assert (status, record["operation"], record["outcome"]) == (200, "get_agent", "success")
    assert (record["authentication"], record["role"]) == ("api_key", "agent")
    assert (record["actor"], record["resource"]) == (agent.agent_id, agent.agent_id)
    assert record["key_id"].startswith("key_")
    assert str(agent.api.credential) not in json.dumps(record)


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "shown"),
    [
        ("GET", "/api/v1/nowhere/hunter2?token=secret", 404, "not-found", "/api/v1/*/*"),
        ("PUT", "/api/v1/tasks", 405, "method-not-allowed", "/api/v1/tasks"),
        ("TRACE", "/api/v1/tasks", 405, "method-not-allowed", "/api/v1/tasks"),
        ("GET", "/api/v1/tasks/", 307, None, "/api/v1/tasks/"),
    ],
)
async def test_what_is_no_operation_is_recorded_by_method_and_path(
    admin: Api, node: RunningNode, method: str, path: str, status: int, code: str | None, shown: str
) -> None:
    """Parts that the contract does not know are not kept, the query neither."""
    seen, request_id = await call(node.client(judged=False), method, path)
    record = await recorded(admin, request_id)
    assert (seen, record["status"], record.get("code")) == (status, status, code)
    assert (record["method"], record["path"]) == (method, shown)
    assert "operation" not in record
    assert "actor" not in record


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"json": {"name": 7}}, 400, "contract-mismatch"),
        ({"content": b"{"}, 415, "unsupported-media-type"),
        ({"content": b"x" * 2_000_000}, 413, "content-too-large"),
        ({"content": b"x" * 9_000_000}, 413, "content-too-large"),
        ({"json": {"name": "x"}, "headers": {"Authorization": ""}}, 401, "invalid-token"),
    ],
)
async def test_a_refused_call_is_recorded_once(
    admin: Api, user: Api, options: dict[str, Any], status: int, code: str
) -> None:
    """However early it was refused."""
    seen, request_id = await call(user, "POST", "/api/v1/tasks", **options)
    record = await recorded(admin, request_id)
    # Whoever goes on sending a body that is too long may miss the answer.
    assert seen in (status, None)
    assert (record["status"], record["code"], record["outcome"]) == (status, code, "refused")


async def test_a_login_names_its_user_only_when_it_succeeds(admin: Api, node: RunningNode) -> None:
    """A name that failed is not kept: people type passwords there."""
    right = {"username": "user", "password": PASSWORD}
    wrong = {"username": "hunter2-typed-by-mistake", "password": "wrong password"}
    _, request_id = await call(node.client(), "POST", "/api/v1/auth/login", json=right)
    record = await recorded(admin, request_id)
    assert (record["operation"], record["username"]) == ("login", "user")
    assert record["actor"].startswith("usr_")
    assert record["session_id"].startswith("ses_")
    _, request_id = await call(node.client(), "POST", "/api/v1/auth/login", json=wrong)
    record = await recorded(admin, request_id)
    assert (record["status"], record["code"]) == (401, "invalid-credentials")
    assert not {"actor", "username", "session_id"} & record.keys()
    assert "hunter2" not in json.dumps(record)


async def test_health_is_not_recorded(admin: Api, node: RunningNode) -> None:
    """The contract says `x-audit: none`."""
    _, unseen = await call(node.client(), "GET", "/health/live")
    _, seen = await call(node.client(), "GET", "/openapi.yaml")
    await recorded(admin, seen)
    records = await admin.ok("GET", f"{AUDIT}?limit=200")
    assert unseen not in {one.get("request_id") for one in records}


async def test_what_an_agent_says_of_itself_names_its_connection(
    admin: Api, node: RunningNode, agent: Agent, mongodb_uri: str
) -> None:
    """`hello` changes the agent: the event names the record, and can complete it after a kill."""
    path = f"/ws/agents/{agent.agent_id}"
    async with open_socket(node.url, path, token=agent.api.credential) as link:
        await link.send("hello", capabilities=["audit.me"])
        await link.until("ready")

    def look(client: MongoClient[dict[str, Any]]) -> dict[str, Any] | None:
        events = client[node.settings.mongodb_database]["events"]
        return events.find_one({"subject": agent.agent_id, "data.capabilities": "audit.me"})

    async def event() -> dict[str, Any] | None:
        with MongoClient[dict[str, Any]](mongodb_uri) as client:
            return await asyncio.to_thread(look, client)

    told = await found(event, lambda seen: seen is not None, "the event of the change")
    assert told is not None
    record = await recorded(admin, told["request_id"])
    assert (record["operation"], record["record_id"]) == ("connect_agent", told["call_id"])
    assert record["actor"] == agent.agent_id


async def test_sockets_are_recorded_accepted_and_refused(
    admin: Api, node: RunningNode, agent: Agent, user: Api
) -> None:
    """Each attempt once, with who it was; and what the agent does over its link."""
    path = f"/ws/agents/{agent.agent_id}"
    async with open_socket(node.url, path, token=agent.api.credential) as link:
        await link.send("hello", version="1.0.0")
        await link.until("ready")
        await link.send("heartbeat", id="b", free_slots=1)
        await link.until("result")
    async with open_socket(node.url, path, token=user.credential) as refused:
        await refused.socket.wait_closed()
    async with open_socket(node.url, path, token="azk_wrong") as refused:
        await refused.socket.wait_closed()
    plain, _ = await call(node.client(judged=False), "GET", path)
    assert plain == 426

    async def look() -> list[dict[str, Any]]:
        return list(await admin.ok("GET", f"{AUDIT}?operation=connect_agent&limit=200"))

    def of_link(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [one for one in records if one["resource"] == agent.agent_id]

    records = of_link(await found(look, lambda seen: len(of_link(seen)) == 4, "four attempts"))
    me = await user.ok("GET", "/api/v1/auth/me")
    seen = {(one["status"], one.get("actor"), one["outcome"]) for one in records}
    assert seen == {
        (101, agent.agent_id, "success"),
        (4403, me["principal_id"], "refused"),
        (1008, None, "refused"),
        (426, None, "refused"),
    }
    (beat,) = await admin.ok("GET", f"{AUDIT}?operation=heartbeat_agent&actor={agent.agent_id}")
    assert (beat["channel"], beat["outcome"]) == ("websocket", "success")


async def test_filters_and_pages(admin: Api, user: Api) -> None:
    """Outcome, actor and operation; pages follow each other without a hole or a repeat."""
    me = (await user.ok("GET", "/api/v1/auth/me"))["principal_id"]
    for _ in range(5):
        await user.refused(400, "POST", "/api/v1/tasks", json={})
    path = f"{AUDIT}?actor={me}&operation=create_task&outcome=refused"
    records = await admin.pages(f"{path}&limit=2")
    ids = [one["record_id"] for one in records]
    assert len(ids) == len(set(ids)) >= 5
    assert ids == sorted(ids, reverse=True)
    assert all(one["actor"] == me and one["outcome"] == "refused" for one in records)
    third = records[2]["time"]
    since = await admin.pages(f"{path}&since={third}")
    until = await admin.pages(f"{path}&until={third}")
    assert {one["record_id"] for one in (*since, *until)} == set(ids)
    assert all(one["time"] >= third for one in since)
    assert all(one["time"] < third for one in until)


async def test_export_is_the_chain(admin: Api, node: RunningNode) -> None:
    """One canonical record a line; the lines of a chain verify."""
    response = await admin.get(f"{AUDIT}/export")
    assert response.headers["content-type"] == "application/x-ndjson"
    records = [json.loads(line) for line in response.text.splitlines()]
    assert [one["n"] for one in records] == list(range(1, len(records) + 1))
    assert verify(b"", records[0]["boot"], records, []) is None
    user_only = await admin.get(f"{AUDIT}/export?operation=login")
    assert {json.loads(line)["operation"] for line in user_only.text.splitlines()} == {"login"}


async def test_export_goes_on_behind_its_link(admin: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page by page, without a hole or a repeat."""
    monkeypatch.setattr("handlers.audit.EXPORTED", 3)
    numbers: list[int] = []
    following: str | None = f"{AUDIT}/export?until={'2999-01-01T00:00:00Z'}"
    while following is not None and len(numbers) < 12:
        response = await admin.get(following)
        numbers += [json.loads(line)["n"] for line in response.text.splitlines()]
        following = response.links.get("next", {}).get("url")
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) == 12


async def test_unknown_records_times_and_cursors_are_refused(admin: Api, user: Api) -> None:
    """Each in its own way; and users don't read the audit log."""
    problem = await admin.refused(404, "GET", f"{AUDIT}/aud_nobody")
    assert problem["code"] == "audit-record-not-found"
    await admin.refused(422, "GET", f"{AUDIT}?since=2026-11-21T23:59:60Z")
    await admin.refused(400, "GET", f"{AUDIT}?cursor=made-up")
    await user.refused(403, "GET", AUDIT)
    await user.refused(403, "GET", f"{AUDIT}/export")


async def act(node: RunningNode, call_id: str) -> str:
    """What a call leaves that was killed between its change and its record."""
    task_id = f"tsk_{uuid.uuid4().hex[:26]}"
    submitted = machine.submit(TaskSpec("work", required_capabilities=("none",)), "usr_1", ())
    actor = Actor("usr_killed", "req_killed", call_id)
    await node.node.store.tasks.insert(task_id, submitted, actor)
    return task_id


async def test_a_call_that_a_kill_cut_off_is_completed(admin: Api, node: RunningNode) -> None:
    """One of an earlier start of this node at once: its event tells of it."""
    ours = CallIdentifiers(node.directory.node_id())
    call_id = f"aud_01{'0' * 24}"[:-6] + ours.new()[-6:]
    task_id = await act(node, call_id)

    async def look() -> list[dict[str, Any]]:
        return list(await admin.ok("GET", f"{AUDIT}?outcome=recovered&resource={task_id}"))

    (record,) = await found(look, bool, "the call is completed")
    expected = {
        "record_id": call_id,
        "actor": "usr_killed",
        "request_id": "req_killed",
        "event": "task.created",
        "outcome": "recovered",
    }
    assert expected.items() <= record.items()
    events = await admin.ok("GET", f"/api/v1/events?subject={task_id}")
    assert call_id not in json.dumps(events), "clients don't see it in the event"


async def test_calls_of_other_nodes_are_completed_when_they_are_old(
    admin: Api, node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not while that node could still write the record itself; never two records."""
    theirs = CallIdentifiers("nod_other").new()
    task_id = await act(node, theirs)
    ours = f"aud_01{'1' * 24}"[:-6] + CallIdentifiers(node.directory.node_id()).new()[-6:]
    later = await act(node, ours)

    def look(subject: str) -> Any:
        return lambda: admin.ok("GET", f"{AUDIT}?outcome=recovered&resource={subject}")

    await found(look(later), bool, "the later one is completed")
    assert await look(task_id)() == []
    monkeypatch.setattr(completion, "OTHERS_SECONDS", 0.0)
    (record,) = await found(look(task_id), bool, "the old one is completed")
    assert record["record_id"] == theirs
