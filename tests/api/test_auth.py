"""Sessions over the wire: logging in, refreshing, logging out, and who one is."""

from __future__ import annotations

import uuid

import pytest

from hive.changes import Actor
from hive.permissions import ROLE_PERMISSIONS, Role
from hive.users import UserChange
from tests.api.running import PASSWORD, Agent, Api, RunningNode

pytestmark = pytest.mark.asyncio(loop_scope="module")
AUTH = "/api/v1/auth"


@pytest.mark.parametrize("role", [Role.ADMIN, Role.USER, Role.VIEWER])
async def test_me_tells_role_and_permissions(node: RunningNode, role: Role) -> None:
    """A user sees its identifier, name, role, session and all that the role may do."""
    name = f"{role}-{uuid.uuid4().hex[:8]}"
    user_id = await node.add_user(name, role)
    me = await (await node.log_in(name)).ok("GET", f"{AUTH}/me")
    session = me.pop("session_id")
    assert session.startswith("ses_")
    assert me == {
        "principal_id": user_id,
        "username": name,
        "role": role,
        "permissions": sorted(ROLE_PERMISSIONS[role]),
    }


async def test_me_of_an_agent_names_the_agent(agent: Agent) -> None:
    """An agent's key has no session."""
    me = await agent.api.ok("GET", f"{AUTH}/me")
    assert (me["role"], me["agent_id"]) == ("agent", agent.agent_id)
    assert me["principal_id"] == agent.agent_id
    assert me["key_id"].startswith("key_")
    assert "session_id" not in me


async def test_login_by_another_case_is_the_same_user(node: RunningNode) -> None:
    """Names are unique without regard to case."""
    name = f"Case-{uuid.uuid4().hex[:8]}"
    await node.add_user(name, Role.USER)
    me = await (await node.log_in(name.upper())).ok("GET", f"{AUTH}/me")
    assert me["username"] == name


async def test_refusals_of_a_login_are_alike(node: RunningNode, anonymous: Api) -> None:
    """Unknown user, wrong password and disabled user can't be told apart."""
    name = f"gone-{uuid.uuid4().hex[:8]}"
    user_id = await node.add_user(name, Role.USER)
    await node.node.services.users.update(user_id, UserChange(disabled=True), Actor("test"))
    answers = [
        await anonymous.refused(401, "POST", f"{AUTH}/login", json=credentials)
        for credentials in (
            {"username": name, "password": PASSWORD},
            {"username": "admin", "password": "not this one"},
            {"username": "nobody", "password": PASSWORD},
        )
    ]
    for answer in answers:
        del answer["request_id"]
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("password", ["x" * 4_097, "é" * 2_049])
async def test_very_long_password_is_refused(anonymous: Api, password: str) -> None:
    """Hashing takes no more than 4 KiB, counted in bytes."""
    credentials = {"username": "admin", "password": password}
    await anonymous.refused(400, "POST", f"{AUTH}/login", json=credentials)


async def test_refresh_rotates(node: RunningNode, anonymous: Api) -> None:
    """A refresh gives a new pair that works; the old access token lives until its end."""
    first = await _log_in(anonymous)
    second = await anonymous.ok(
        "POST", f"{AUTH}/refresh", json={"refresh_token": first["refresh_token"]}
    )
    assert second["refresh_token"] != first["refresh_token"]
    assert second["token_type"] == "bearer"
    for tokens in (first, second):
        await node.client(tokens["access_token"]).ok("GET", f"{AUTH}/me")


async def test_lost_answer_of_a_refresh_is_repeated(anonymous: Api) -> None:
    """The same token again gives the same successor while that is unused."""
    given = {"refresh_token": (await _log_in(anonymous))["refresh_token"]}
    answers = [await anonymous.ok("POST", f"{AUTH}/refresh", json=given) for _ in range(2)]
    assert answers[0]["refresh_token"] == answers[1]["refresh_token"]


async def test_reused_refresh_token_ends_the_session(node: RunningNode, anonymous: Api) -> None:
    """Once the successor was used, the predecessor is a theft: all tokens of the family die."""
    first = await _log_in(anonymous)
    second, third = first, first
    for _ in range(2):
        second, third = (
            third,
            await anonymous.ok(
                "POST", f"{AUTH}/refresh", json={"refresh_token": third["refresh_token"]}
            ),
        )
    for tokens in (first, third, second):
        given = {"refresh_token": tokens["refresh_token"]}
        problem = await anonymous.refused(401, "POST", f"{AUTH}/refresh", json=given)
        assert problem["code"] == "invalid-token"
    await node.client(third["access_token"]).refused(401, "GET", f"{AUTH}/me")


@pytest.mark.parametrize("token", ["x", "azr_garbage", "azk_" + "0" * 30, "é"])
async def test_refresh_token_that_is_none_is_refused(anonymous: Api, token: str) -> None:
    """401 `Invalid token`."""
    problem = await anonymous.refused(401, "POST", f"{AUTH}/refresh", json={"refresh_token": token})
    assert problem["detail"] == "Invalid token"


async def test_access_token_is_no_refresh_token(node: RunningNode, anonymous: Api) -> None:
    """Nor the other way round."""
    tokens = await _log_in(anonymous)
    given = {"refresh_token": tokens["access_token"][:512]}
    await anonymous.refused(401, "POST", f"{AUTH}/refresh", json=given)
    await node.client(tokens["refresh_token"]).refused(401, "GET", f"{AUTH}/me")


@pytest.mark.parametrize("body", [{"json": {}}, {}])
async def test_logout_ends_the_session_at_once(
    node: RunningNode, anonymous: Api, body: dict[str, object]
) -> None:
    """With `{}` or without a body; access and refresh token are refused by the next request."""
    tokens = await _log_in(anonymous)
    api = node.client(tokens["access_token"])
    response = await api.post(f"{AUTH}/logout", **body)  # type: ignore[arg-type]
    assert response.json() == {"message": "Logged out"}
    problem = await api.refused(401, "GET", f"{AUTH}/me")
    assert problem["detail"] == "Invalid token"
    given = {"refresh_token": tokens["refresh_token"]}
    await anonymous.refused(401, "POST", f"{AUTH}/refresh", json=given)


async def test_logout_leaves_other_sessions(node: RunningNode, anonymous: Api) -> None:
    """Only the session of the token that was presented ends."""
    one, other = [node.client((await _log_in(anonymous))["access_token"]) for _ in range(2)]
    await one.ok("POST", f"{AUTH}/logout", json={})
    await other.ok("GET", f"{AUTH}/me")


async def test_key_has_no_session_to_end(agent: Agent) -> None:
    """Logging out with an API key conflicts, and the key goes on."""
    await agent.api.refused(409, "POST", f"{AUTH}/logout", json={})
    await agent.api.ok("GET", f"{AUTH}/me")


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Basic YTpi", "Token x", "Bearer a b", "Bearer a,Bearer b", "é"],
)
async def test_malformed_authorization_is_unauthorized(node: RunningNode, header: str) -> None:
    """401 with `WWW-Authenticate`, whatever stands there."""
    client = node.client(headers={"Authorization": header.encode("latin-1")})
    response = await client.get(f"{AUTH}/me")
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_scheme_is_read_without_case(node: RunningNode, admin: Api) -> None:
    """RFC 9110: `bearer` is `Bearer`."""
    client = node.client(headers={"Authorization": f"bEARER  {admin.credential}"})
    await client.ok("GET", f"{AUTH}/me")


async def test_changed_role_counts_at_once(node: RunningNode) -> None:
    """The role of today decides, not the one that stands in the token."""
    name = f"demoted-{uuid.uuid4().hex[:8]}"
    user_id = await node.add_user(name, Role.ADMIN)
    api = await node.log_in(name)
    await api.ok("POST", "/api/v1/agents", json={"name": name})
    await node.node.services.users.update(user_id, UserChange(Role.VIEWER), Actor("test"))
    await api.refused(403, "POST", "/api/v1/agents", json={"name": f"{name}-2"})
    assert (await api.ok("GET", f"{AUTH}/me"))["role"] == "viewer"


async def _log_in(anonymous: Api) -> dict[str, str]:
    credentials = {"username": "admin", "password": PASSWORD, "device": "a test"}
    return dict(await anonymous.ok("POST", f"{AUTH}/login", json=credentials))
