"""API keys over the wire: made, seen, rotated, revoked; what their sockets and agents feel."""

from __future__ import annotations

import time
import uuid
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from unittest.mock import AsyncMock, patch

import pytest

from server.revocations import Revocations
from tests.api.running import Agent, Api, RunningNode, found
from tests.realtime.client import JudgedSocket, open_socket

pytestmark = pytest.mark.asyncio(loop_scope="module")
PATH = "/api/v1/api-keys"
TOKEN_EXPIRED, REVOKED = 4100, 4101


async def make(api: Api, **wish: Any) -> dict[str, Any]:
    """Make a key; the answer with the secret."""
    body = {"name": f"key-{uuid.uuid4().hex[:8]}", **wish}
    return dict(await api.ok("POST", PATH, json=body))


def life(key: dict[str, Any]) -> timedelta:
    """From the making of a key to its end."""
    ends, made = (datetime.fromisoformat(key[name]) for name in ("expires_at", "created_at"))
    return ends - made


def pointers(problem: dict[str, Any]) -> list[str]:
    """Where a refusal points to."""
    return [error["pointer"] for error in problem["errors"]]


async def test_a_key_is_shown_once_and_works(node: RunningNode, user: Api) -> None:
    """Created with a location; neither get nor list give the secret again."""
    body = {"name": "ci", "scopes": ["tasks:read"], "expires_in_days": 90}
    response = await user.post(PATH, json=body)
    made = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == f"{PATH}/{made['key_id']}"
    assert made["api_key"].startswith(made["prefix"])
    me = await user.ok("GET", "/api/v1/auth/me")
    assert (made["owner"], made["role"], made["scopes"]) == (
        me["principal_id"],
        "user",
        ["tasks:read"],
    )
    seen = await user.ok("GET", f"{PATH}/{made['key_id']}")
    listed = await user.ok("GET", PATH, params={"limit": 1})
    del made["api_key"]
    assert (seen, listed) == (made, [made])
    key = node.client(response.json()["api_key"])
    await key.ok("GET", "/api/v1/tasks")
    await key.refused(403, "POST", "/api/v1/tasks", json={"name": "t"})


async def test_last_use_is_shown(node: RunningNode, user: Api) -> None:
    """A key that was never used says nothing; one that was says when."""
    made = await make(user)
    path = f"{PATH}/{made['key_id']}"
    assert "last_used_at" not in await user.ok("GET", path)
    await node.client(made["api_key"]).ok("GET", "/api/v1/tasks")

    async def look() -> dict[str, Any]:
        return dict(await user.ok("GET", path))

    await found(look, lambda seen: "last_used_at" in seen, "the use is noted")


async def test_scopes_and_addresses_are_refused_with_reasons(user: Api) -> None:
    """422 with a pointer for what is none, 403 for what one lacks, 400 for what is malformed."""
    unknown = await user.refused(
        422, "POST", PATH, json={"name": "k", "scopes": ["tasks:read", "tasks:eat"]}
    )
    assert (unknown["code"], pointers(unknown)) == ("unknown-scope", ["/scopes/1"])
    lacking = await user.refused(403, "POST", PATH, json={"name": "k", "scopes": ["users:read"]})
    assert lacking["code"] == "key-exceeds-maker"
    for network in ("192.0.2.7/24", "300.1.1.1", "::1::"):
        body = {"name": "k", "allowed_addresses": ["10.0.0.0/8", network]}
        refused = await user.refused(422, "POST", PATH, json=body)
        assert (refused["code"], pointers(refused)) == (
            "invalid-network",
            ["/allowed_addresses/1"],
        )
    for wrong in ({"expires_in_days": 0}, {"role": "admin"}, {"scopes": ["*"]}, {"owner": "usr_1"}):
        await user.refused(400, "POST", PATH, json={"name": "k", **wrong})


async def test_a_key_is_refused_from_elsewhere(node: RunningNode, user: Api) -> None:
    """Its networks, IPv4 within IPv6 as IPv4, decide."""
    here = await make(user, allowed_addresses=["::ffff:127.0.0.0/104"])
    assert here["allowed_addresses"] == ["127.0.0.0/8"]
    await node.client(here["api_key"]).ok("GET", "/api/v1/tasks")
    elsewhere = await make(user, allowed_addresses=["192.0.2.0/24", "2001:db8::/32"])
    await node.client(elsewhere["api_key"]).refused(403, "GET", "/api/v1/tasks")


async def test_a_scoped_key_makes_no_wider_one(node: RunningNode, admin: Api) -> None:
    """A key of an admin that may only read tasks and make keys gives exactly that."""
    scopes = ["api-keys:write", "tasks:read"]
    maker = node.client((await make(admin, scopes=scopes, expires_in_days=5))["api_key"])
    made = await make(maker, expires_in_days=300)
    assert (made["scopes"], made["role"]) == (scopes, "admin")
    assert timedelta(days=4) < life(made) < timedelta(days=5)
    await node.client(made["api_key"]).refused(403, "GET", "/api/v1/users")
    wider = await make(admin)
    await maker.refused(403, "POST", f"{PATH}/{wider['key_id']}/rotate", json={})


@pytest.mark.parametrize("who", ["agent", "anonymous"])
async def test_agents_and_strangers_have_no_keys(agent: Agent, anonymous: Api, who: str) -> None:
    """An agent has the one that it was given; it neither lists nor makes any."""
    api, status = (agent.api, 403) if who == "agent" else (anonymous, 401)
    await api.refused(status, "GET", PATH)
    await api.refused(status, "POST", PATH, json={"name": "k"})


async def test_others_keys_look_like_keys_that_never_were(
    user: Api, other_user: Api, agent: Agent, admin: Api
) -> None:
    """The same bytes but for the path and the request; lists don't count them."""
    theirs = (await make(other_user))["key_id"]
    (agents,) = await admin.ok("GET", PATH, params={"owner": agent.agent_id})
    never = "key_01m7zzcy9we6nrxfnm00kd253r"
    for method, suffix, body in (("GET", "", None), ("DELETE", "", None), ("POST", "/rotate", {})):
        texts = set()
        for key_id in (theirs, agents["key_id"], never):
            path = f"{PATH}/{key_id}{suffix}"
            headers = {"X-Request-Id": "same"}
            response = await user.request(method, path, headers=headers, json=body)
            assert response.status_code == 404
            texts.add(response.text.replace(key_id, "key"))
        assert len(texts) == 1, texts
    owner = (await other_user.ok("GET", f"{PATH}/{theirs}"))["owner"]
    assert await user.ok("GET", PATH, params={"owner": owner}) == []
    assert theirs not in {key["key_id"] for key in await user.pages(PATH)}


async def test_an_admin_sees_and_revokes_all(
    node: RunningNode, admin: Api, user: Api, agent: Agent
) -> None:
    """Users' keys, agents' and the operator's, by owner and status, page by page."""
    made = await make(user)
    keys = {key["key_id"]: key for key in await admin.pages(f"{PATH}?limit=2")}
    assert made["key_id"] in keys
    assert any(key["name"].startswith("operator nod_") for key in keys.values())
    (agents,) = [key for key in keys.values() if key["owner"] == agent.agent_id]
    assert (agents["role"], agents["scopes"], agents["status"]) == ("agent", [], "active")
    for key_id, api in (
        (made["key_id"], node.client(made["api_key"])),
        (agents["key_id"], agent.api),
    ):
        assert (await admin.ok("DELETE", f"{PATH}/{key_id}"))["status"] == "revoked"
        await api.refused(401, "GET", "/api/v1/tasks")
    revoked = await admin.ok("GET", PATH, params={"owner": agent.agent_id, "status": "revoked"})
    assert [key["key_id"] for key in revoked] == [agents["key_id"]]
    assert await admin.ok("GET", PATH, params={"owner": agent.agent_id, "status": "active"}) == []


async def test_revoking_again_changes_nothing(user: Api) -> None:
    """The answer is the same, its time too."""
    path = f"{PATH}/{(await make(user))['key_id']}"
    first = await user.ok("DELETE", path)
    assert first["status"] == "revoked"
    assert await user.ok("DELETE", path) == first
    assert await user.ok("GET", path) == first
    problem = await user.refused(409, "POST", f"{path}/rotate", json={})
    assert problem["code"] == "api-key-ended"


async def test_a_key_rotates_itself(node: RunningNode, user: Api) -> None:
    """Both work in the overlap, the old one names the new one, and is not rotated again."""
    old = await make(user, scopes=["api-keys:write", "tasks:read"], expires_in_days=30)
    itself = node.client(old["api_key"])
    response = await itself.post(f"{PATH}/{old['key_id']}/rotate", json={"overlap_seconds": 60})
    new = response.json()
    assert (response.status_code, response.headers["location"]) == (
        201,
        f"{PATH}/{new['key_id']}",
    )
    assert [new[name] for name in ("name", "scopes", "owner")] == [
        old[name] for name in ("name", "scopes", "owner")
    ]
    for key in (old, new):
        await node.client(key["api_key"]).ok("GET", "/api/v1/tasks")
    seen = await user.ok("GET", f"{PATH}/{old['key_id']}")
    assert seen["successor_id"] == new["key_id"]
    assert seen["expires_at"] < old["expires_at"]
    problem = await user.refused(409, "POST", f"{PATH}/{old['key_id']}/rotate")
    assert problem["code"] == "api-key-rotated"
    assert new["key_id"] in problem["detail"]


async def test_rotation_without_a_body_has_a_day_of_overlap(user: Api) -> None:
    """The default of the contract."""
    old = await make(user)
    await user.ok("POST", f"{PATH}/{old['key_id']}/rotate")
    seen = await user.ok("GET", f"{PATH}/{old['key_id']}")
    assert seen["status"] == "active"
    assert timedelta(days=1) <= life(seen) < timedelta(days=1, minutes=1)


async def test_an_agents_key_is_rotated_by_an_admin(
    node: RunningNode, admin: Api, agent: Agent
) -> None:
    """The successor speaks for the same agent; without overlap the old one ends at once."""
    (old,) = await admin.ok("GET", PATH, params={"owner": agent.agent_id})
    new = await admin.ok("POST", f"{PATH}/{old['key_id']}/rotate", json={"overlap_seconds": 0})
    assert (new["owner"], new["role"], new["status"]) == (agent.agent_id, "agent", "active")
    await agent.api.refused(401, "GET", "/api/v1/tasks")
    renewed = Agent(agent.agent_id, node.client(new["api_key"]))
    assert (await renewed.heartbeat())["agent_id"] == agent.agent_id
    await admin.ok("DELETE", f"/api/v1/agents/{agent.agent_id}")
    await renewed.api.refused(401, "GET", "/api/v1/tasks")
    ended = await admin.ok("GET", PATH, params={"owner": agent.agent_id})
    # A key that was rotated out had ended before the agent went.
    assert [key["status"] for key in ended] == ["revoked", "revoked"]


async def _connected(socket: JudgedSocket) -> dict[str, Any]:
    await socket.send("connect")
    return await socket.until("welcome")


async def test_sockets_of_a_revoked_key_close(node: RunningNode, user: Api) -> None:
    """At once, and those of other keys of the same user stay."""
    ended, stays = await make(user), await make(user)
    async with (
        open_socket(node.url, token=ended["api_key"]) as socket,
        open_socket(node.url, token=stays["api_key"]) as other,
    ):
        await _connected(socket)
        await _connected(other)
        # Not at the next poll: there is none meanwhile.
        with patch.object(Revocations, "poll", AsyncMock()):
            await user.ok("DELETE", f"{PATH}/{ended['key_id']}")
            assert await socket.close_code() == REVOKED
        await other.send("ping")
        await other.until("pong")


async def test_sockets_of_a_rotated_key_close_at_its_new_end(node: RunningNode, user: Api) -> None:
    """One that was opened before the rotation goes on through the overlap, and not longer."""
    old = await make(user)
    async with open_socket(node.url, token=old["api_key"]) as socket:
        assert "expires_at" not in await _connected(socket)
        rotated_at = time.monotonic()
        await user.ok("POST", f"{PATH}/{old['key_id']}/rotate", json={"overlap_seconds": 2})
        await socket.send("ping")
        await socket.until("pong")
        assert await socket.close_code() == TOKEN_EXPIRED
        assert 1.9 < time.monotonic() - rotated_at < 3.2
    await node.client(old["api_key"]).refused(401, "GET", "/api/v1/tasks")


async def test_events_are_for_the_owner_and_admins(
    node: RunningNode, user: Api, other_user: Api, admin: Api
) -> None:
    """Made, rotated, revoked: seen by the owner and by admins, by nobody else."""
    old = await make(user)
    new = await user.ok("POST", f"{PATH}/{old['key_id']}/rotate", json={})
    await user.ok("DELETE", f"{PATH}/{new['key_id']}")

    async def told(api: Api, key: dict[str, Any]) -> list[str]:
        events = await api.ok("GET", "/api/v1/events", params={"subject": key["key_id"]})
        return [event["type"] for event in events]

    for api in (user, admin):
        await found(partial(told, api, new), lambda seen: len(seen) == 2, "both events")
        assert await told(api, old) == ["api_key.created", "api_key.rotated"]
        assert await told(api, new) == ["api_key.created", "api_key.revoked"]
    assert await told(other_user, old) + await told(other_user, new) == []


async def test_who_signs_signs_for_new_keys_too(node: RunningNode, user: Api) -> None:
    """A key with a signing key of its own makes no key that would not have to sign."""
    made = await make(user)
    key = node.client(made["api_key"])
    bound = {"name": "s", "algorithm": "hmac-sha256", "key_id": made["key_id"]}
    await user.ok("POST", "/api/v1/signing-keys", json=bound)
    for path in (PATH, f"{PATH}/{made['key_id']}/rotate"):
        body = {"name": "k"} if path == PATH else {}
        problem = await key.refused(401, "POST", path, json=body)
        assert problem["code"] == "signature-required"
    await key.ok("GET", PATH)
