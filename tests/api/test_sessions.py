"""Sessions over the wire: where one is logged in, and how that ends."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from hive.permissions import Role
from tests.api.running import PASSWORD, Agent, Api, RunningNode
from tests.realtime.client import open_socket

pytestmark = pytest.mark.asyncio(loop_scope="module")
SESSIONS = "/api/v1/auth/sessions"
REVOKED = 4101


async def _user(node: RunningNode) -> tuple[str, str]:
    name = f"user-{uuid.uuid4().hex[:8]}"
    return name, await node.add_user(name, Role.USER)


async def _log_in(node: RunningNode, name: str, device: str) -> Api:
    body = {"username": name, "password": PASSWORD, "device": device}
    tokens = await node.client().ok("POST", "/api/v1/auth/login", json=body)
    return node.client(tokens["access_token"])


async def _id(api: Api) -> str:
    return str((await api.ok("GET", "/api/v1/auth/me"))["session_id"])


async def test_own_sessions_are_listed_newest_first(node: RunningNode) -> None:
    """With device and address, and which one asks; nobody else's."""
    name, user_id = await _user(node)
    laptop = await _log_in(node, name, "laptop")
    phone = await _log_in(node, name, "phone")
    sessions = await laptop.ok("GET", SESSIONS)
    assert [(s["device"], s["current"]) for s in sessions] == [("phone", False), ("laptop", True)]
    assert [s["session_id"] for s in sessions] == [await _id(phone), await _id(laptop)]
    assert {(s["user_id"], s["address"]) for s in sessions} == {(user_id, "127.0.0.1")}
    assert "token" not in str(sessions)


async def test_pages_of_sessions_are_stable_while_one_logs_in(node: RunningNode) -> None:
    """What comes in front moves nothing behind."""
    name, _ = await _user(node)
    apis = [await _log_in(node, name, str(n)) for n in range(5)]
    response = await apis[0].get(f"{SESSIONS}?limit=2")
    seen = [session["device"] for session in response.json()]
    await _log_in(node, name, "new")
    while "next" in response.links:
        response = await apis[0].get(response.links["next"]["url"])
        seen += [session["device"] for session in response.json()]
    assert seen == ["4", "3", "2", "1", "0"]


async def test_an_admin_sees_and_ends_sessions_of_a_user(node: RunningNode, admin: Api) -> None:
    """One, then all of them; none is the admin's current one."""
    name, user_id = await _user(node)
    apis = [await _log_in(node, name, str(n)) for n in range(4)]
    path = f"/api/v1/users/{user_id}/sessions"
    listed = await admin.pages(f"{path}?limit=2")
    assert [(s["device"], s["current"]) for s in listed] == [(n, False) for n in "3210"]
    one = f"{path}/{await _id(apis[0])}"
    assert await admin.ok("DELETE", one) == {"message": "Session revoked"}
    await apis[0].refused(401, "GET", SESSIONS)
    await admin.refused(404, "DELETE", one)
    assert await admin.ok("DELETE", path) == {"revoked": 3}
    for api in apis:
        await api.refused(401, "GET", SESSIONS)
    assert await admin.ok("GET", path) == []


async def test_a_session_ends_with_its_sockets(node: RunningNode) -> None:
    """Ended from another device: requests are refused and the socket closes at once."""
    name, _ = await _user(node)
    laptop = await _log_in(node, name, "laptop")
    phone = await _log_in(node, name, "phone")
    async with (
        open_socket(node.url, token=phone.credential) as of_phone,
        open_socket(node.url, token=laptop.credential) as of_laptop,
    ):
        await of_phone.subscribe("*")
        await of_laptop.subscribe("*")
        answer = await laptop.ok("DELETE", f"{SESSIONS}/{await _id(phone)}")
        assert answer == {"message": "Session revoked"}
        assert await of_phone.close_code() == REVOKED
        await phone.refused(401, "GET", SESSIONS)
        assert (await of_laptop.until("session.revoked"))["data"]["device"] == "phone"
        await of_laptop.send("ping")
        await of_laptop.until("pong")


async def test_all_other_sessions_end_and_this_one_stays(node: RunningNode) -> None:
    """How many there were is told; a second time there are none."""
    name, _ = await _user(node)
    apis = [await _log_in(node, name, str(n)) for n in range(3)]
    assert await apis[1].ok("DELETE", SESSIONS) == {"revoked": 2}
    assert await apis[1].ok("DELETE", SESSIONS) == {"revoked": 0}
    for other in (apis[0], apis[2]):
        await other.refused(401, "GET", SESSIONS)
    assert len(await apis[1].ok("GET", SESSIONS)) == 1


async def test_one_may_end_the_session_that_asks(node: RunningNode) -> None:
    """As logging out does."""
    name, _ = await _user(node)
    api = await _log_in(node, name, "laptop")
    await api.ok("DELETE", f"{SESSIONS}/{await _id(api)}")
    await api.refused(401, "GET", SESSIONS)


async def test_sessions_of_others_are_not_found(
    node: RunningNode, user: Api, other_user: Api, admin: Api
) -> None:
    """The answer is the same as for one that never was, also for an admin on the own list."""
    for api in (user, admin):
        for wanted in (await _id(other_user), "ses_01m7zzcy9we6nrxfnm00kd253q"):
            problem: dict[str, Any] = await api.refused(404, "DELETE", f"{SESSIONS}/{wanted}")
            assert (problem["code"], problem["detail"]) == (
                "session-not-found",
                "Session not found",
            )
    await other_user.ok("GET", SESSIONS)


async def test_an_agent_has_no_sessions(agent: Agent) -> None:
    """It came with a key, and never logs in; to end sessions is not for agents."""
    assert await agent.api.ok("GET", SESSIONS) == []
    await agent.api.refused(403, "DELETE", SESSIONS)


async def test_logging_in_and_out_is_told_to_the_user(node: RunningNode, other_user: Api) -> None:
    """Each session opens and ends as an event, for its user only."""
    name, user_id = await _user(node)
    watcher = await _log_in(node, name, "watcher")
    async with open_socket(node.url, token=watcher.credential) as socket:
        await socket.subscribe("session.*")
        api = await _log_in(node, name, "visitor")
        session_id = await _id(api)
        opened = await socket.until("session.opened")
        while opened["subject"] != session_id:
            opened = await socket.until("session.opened")
        assert (opened["actor"], opened["data"]["device"]) == (user_id, "visitor")
        await api.ok("POST", "/api/v1/auth/logout", json={})
        ended = await socket.until("session.revoked")
        assert (ended["subject"], ended["data"]["reason"]) == (session_id, "logged-out")
    seen = await other_user.pages("/api/v1/events?type=session.*")
    assert all(event["data"]["user_id"] != user_id for event in seen)


async def test_a_key_has_no_current_session(node: RunningNode) -> None:
    """The operator's key lists and ends the sessions of its owner, all of them.

    It comes last: the admin of the other tests is out then.
    """
    api = await node.log_in("admin")
    key = node.client(node.directory.find_operator_key())
    sessions = await key.ok("GET", SESSIONS)
    assert sessions
    assert not any(session["current"] for session in sessions)
    assert (await key.ok("DELETE", SESSIONS))["revoked"] >= 1
    await api.refused(401, "GET", SESSIONS)
