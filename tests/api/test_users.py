"""Users over the wire: what admins do with them, and what everybody does with a password."""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.api.running import PASSWORD, Agent, Api, RunningNode

pytestmark = pytest.mark.asyncio(loop_scope="module")
USERS = "/api/v1/users"
AUTH = "/api/v1/auth"
NEW = "a better battery for horses"
ROOT = Path(__file__).resolve().parents[2]


def _name(prefix: str = "user") -> str:
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


async def _create(admin: Api, **given: Any) -> dict[str, Any]:
    body = {"username": _name(), "password": PASSWORD, **given}
    return dict(await admin.ok("POST", USERS, json=body))


async def test_created_user_is_shown_and_logs_in(node: RunningNode, admin: Api) -> None:
    """201 with where it is; role `user` unless another is given; the password is never shown."""
    name = _name("Ann")
    response = await admin.post(USERS, json={"username": name, "password": PASSWORD})
    assert response.status_code == 201
    user = response.json()
    assert response.headers["Location"] == f"{USERS}/{user['user_id']}"
    assert user == {
        "user_id": user["user_id"],
        "username": name,
        "role": "user",
        "disabled": False,
        "signing": False,
        "version": 1,
        "created_at": user["created_at"],
        "password_changed_at": user["created_at"],
    }
    assert await admin.ok("GET", f"{USERS}/{user['user_id']}") == user
    me = await (await node.log_in(name)).ok("GET", f"{AUTH}/me")
    assert me["principal_id"] == user["user_id"]


async def test_username_is_taken_in_any_case(admin: Api) -> None:
    """409, and the first one stays."""
    name = _name("Case")
    await _create(admin, username=name)
    body = {"username": name.upper(), "password": PASSWORD}
    problem = await admin.refused(409, "POST", USERS, json=body)
    assert problem["code"] == "username-taken"


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"password": "short"}, 400),
        ({"password": "x" * 257}, 400),
        ({"password": "password123"}, 422),
        ({"role": "agent"}, 400),
        ({"role": None}, 400),
        ({"disabled": True}, 400),
        ({"user_id": "usr_1"}, 400),
        ({"username": "ann\n"}, 400),
        ({"username": "é"}, 400),
        ({"username": ""}, 400),
    ],
)
async def test_what_can_not_be_a_user(admin: Api, given: dict[str, Any], status: int) -> None:
    """Only a name, a password that is not common, and a role of people."""
    body = {"username": _name(), "password": PASSWORD, **given}
    await admin.refused(status, "POST", USERS, json=body)


async def test_pages_of_users_hold_each_once_while_users_come_and_go(admin: Api) -> None:
    """Following `Link`, filters stay in force; a user made meanwhile comes at the end."""
    made = [(await _create(admin, role="viewer"))["user_id"] for _ in range(5)]
    response = await admin.get(f"{USERS}?role=viewer&disabled=false&limit=2")
    seen = [user["user_id"] for user in response.json()]
    made.append((await _create(admin, role="viewer"))["user_id"])
    await _create(admin, role="user")
    while "next" in response.links:
        response = await admin.get(response.links["next"]["url"])
        assert {user["role"] for user in response.json()} == {"viewer"}
        seen += [user["user_id"] for user in response.json()]
    assert len(set(seen)) == len(seen)
    assert [user_id for user_id in seen if user_id in made] == made


async def test_a_cursor_of_another_list_is_refused(admin: Api) -> None:
    """400: cursors are signed for one operation."""
    await _create(admin)
    link = (await admin.get(f"{USERS}?limit=1")).links["next"]["url"]
    cursor = link.partition("cursor=")[2]
    problem = await admin.refused(400, "GET", f"{AUTH}/sessions?cursor={cursor}")
    assert problem["code"] == "malformed-cursor"


async def test_disabled_users_are_found(admin: Api) -> None:
    """The filter `disabled`."""
    user_id = (await _create(admin))["user_id"]
    changed = await admin.ok("PATCH", f"{USERS}/{user_id}", json={"disabled": True})
    assert (changed["disabled"], changed["version"]) == (True, 2)
    disabled = await admin.pages(f"{USERS}?disabled=true&limit=2")
    assert user_id in [user["user_id"] for user in disabled]
    assert all(user["disabled"] for user in disabled)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("PATCH", "", {"role": "viewer"}),
        ("DELETE", "", None),
        ("POST", "/password", {}),
        ("GET", "/sessions", None),
        ("DELETE", "/sessions", None),
    ],
)
async def test_unknown_user_is_not_found(
    admin: Api, method: str, path: str, body: dict[str, Any] | None
) -> None:
    """404 `user-not-found`, whatever is asked of it."""
    request = {} if body is None else {"json": body}
    for user_id in ("usr_01m7zzcy9we6nrxfnm00kd253j", "x", "ses_1"):
        problem = await admin.refused(404, method, f"{USERS}/{user_id}{path}", **request)
        assert problem["code"] == "user-not-found"


@pytest.mark.parametrize("body", [{}, {"role": "root"}, {"version": 3}, {"username": "x"}])
async def test_only_role_and_disabled_can_be_changed(admin: Api, body: dict[str, Any]) -> None:
    """400 for everything else, an empty change included."""
    user_id = (await _create(admin))["user_id"]
    await admin.refused(400, "PATCH", f"{USERS}/{user_id}", json=body)


async def test_a_new_role_counts_from_the_next_request(node: RunningNode, admin: Api) -> None:
    """The token stays good and has today's role."""
    user = await _create(admin)
    api = await node.log_in(user["username"])
    await api.refused(403, "GET", USERS)
    await admin.ok("PATCH", f"{USERS}/{user['user_id']}", json={"role": "admin"})
    await api.ok("GET", USERS)
    await admin.ok("PATCH", f"{USERS}/{user['user_id']}", json={"role": "viewer"})
    await api.refused(403, "GET", USERS)


async def test_a_disabled_user_is_out_at_once(node: RunningNode, admin: Api) -> None:
    """Tokens and password are refused; enabled again, only the password is good."""
    user = await _create(admin)
    api = await node.log_in(user["username"])
    path = f"{USERS}/{user['user_id']}"
    await admin.ok("PATCH", path, json={"disabled": True})
    await api.refused(401, "GET", f"{AUTH}/me")
    credentials = {"username": user["username"], "password": PASSWORD}
    await api.refused(401, "POST", f"{AUTH}/login", json=credentials)
    await admin.ok("PATCH", path, json={"disabled": False})
    await api.refused(401, "GET", f"{AUTH}/me")
    await (await node.log_in(user["username"])).ok("GET", f"{AUTH}/me")


async def test_a_deleted_user_is_gone_and_the_name_is_free(node: RunningNode, admin: Api) -> None:
    """Its token is refused at once, its tasks stay, and another may have the name."""
    user = await _create(admin)
    api = await node.log_in(user["username"])
    task_id = await api.submit()
    path = f"{USERS}/{user['user_id']}"
    assert await admin.ok("DELETE", path) == {"message": "User deleted"}
    await api.refused(401, "GET", f"{AUTH}/me")
    await admin.refused(404, "GET", path)
    await admin.refused(404, "DELETE", path)
    assert (await admin.task(task_id))["owner"] == user["user_id"]
    again = await _create(admin, username=user["username"])
    assert again["user_id"] != user["user_id"]


@pytest.mark.parametrize("change", [{"role": "user"}, {"disabled": True}, None])
async def test_the_last_admin_stays(
    node: RunningNode, admin: Api, change: dict[str, Any] | None
) -> None:
    """409 `last-admin`, and the admin goes on."""
    me = await admin.ok("GET", f"{AUTH}/me")
    for user in await admin.pages(f"{USERS}?role=admin"):
        if user["user_id"] != me["principal_id"]:
            await admin.ok("DELETE", f"{USERS}/{user['user_id']}")
    path = f"{USERS}/{me['principal_id']}"
    if change is None:
        problem = await admin.refused(409, "DELETE", path)
    else:
        problem = await admin.refused(409, "PATCH", path, json=change)
    assert problem["code"] == "last-admin"
    assert (await admin.ok("GET", path))["role"] == "admin"


async def test_a_reset_without_a_password_shows_a_random_one_once(
    node: RunningNode, admin: Api
) -> None:
    """It works, the old one does not, and the user's sessions are over."""
    user = await _create(admin)
    api = await node.log_in(user["username"])
    path = f"{USERS}/{user['user_id']}/password"
    shown: list[str] = []
    without: tuple[dict[str, str] | None, ...] = (None, {})
    for body in without:
        answer = await admin.ok("POST", path, json=body)
        assert answer["message"] == "Password reset"
        shown.append(answer["password"])
    assert shown[0] != shown[1]
    assert all(len(each) >= 20 for each in shown)
    await api.refused(401, "GET", f"{AUTH}/me")
    old = {"username": user["username"], "password": PASSWORD}
    await api.refused(401, "POST", f"{AUTH}/login", json=old)
    await api.ok("POST", f"{AUTH}/login", json={**old, "password": shown[1]})


async def test_a_reset_to_a_given_password_does_not_show_it(node: RunningNode, admin: Api) -> None:
    """And the policy holds for it."""
    user = await _create(admin)
    path = f"{USERS}/{user['user_id']}/password"
    answer = await admin.ok("POST", path, json={"password": NEW})
    assert answer == {"message": "Password reset"}
    problem = await admin.refused(422, "POST", path, json={"password": "password123"})
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("weak-password", "/password")
    credentials = {"username": user["username"], "password": NEW}
    await node.client().ok("POST", f"{AUTH}/login", json=credentials)


async def test_ones_own_password_is_changed(node: RunningNode, admin: Api) -> None:
    """The session that asks stays; all others end."""
    user = await _create(admin, role="viewer")
    api, other = [await node.log_in(user["username"]) for _ in range(2)]
    body = {"current_password": PASSWORD, "new_password": NEW}
    assert await api.ok("POST", f"{AUTH}/password", json=body) == {"message": "Password changed"}
    await api.ok("GET", f"{AUTH}/me")
    await other.refused(401, "GET", f"{AUTH}/me")
    credentials = {"username": user["username"], "password": NEW}
    await node.client().ok("POST", f"{AUTH}/login", json=credentials)


@pytest.mark.parametrize("current", ["not this one", "é" * 4_096])
async def test_a_wrong_current_password_is_no_expired_token(
    node: RunningNode, admin: Api, current: str
) -> None:
    """422 with the place of the mistake; a client must not throw its tokens away."""
    user = await _create(admin)
    api = await node.log_in(user["username"])
    body = {"current_password": current, "new_password": NEW}
    problem = await api.refused(422, "POST", f"{AUTH}/password", json=body)
    assert problem["code"] == "wrong-password"
    assert problem["errors"][0]["pointer"] == "/current_password"
    weak = {"current_password": PASSWORD, "new_password": "password123"}
    problem = await api.refused(422, "POST", f"{AUTH}/password", json=weak)
    assert problem["errors"][0]["pointer"] == "/new_password"
    await api.ok("GET", f"{AUTH}/me")


async def test_a_stolen_token_can_not_guess_the_password(node: RunningNode, admin: Api) -> None:
    """Guesses are bounded like logins: 429 then, also for the right one."""
    user = await _create(admin)
    api = await node.log_in(user["username"])
    statuses = []
    for n in range(12):
        body = {"current_password": f"guess {n}", "new_password": NEW}
        statuses.append((await api.post(f"{AUTH}/password", json=body)).status_code)
    assert statuses == [422] * 10 + [429] * 2
    body = {"current_password": PASSWORD, "new_password": NEW}
    await api.refused(429, "POST", f"{AUTH}/password", json=body)


async def test_a_key_changes_no_password(agent: Agent, node: RunningNode, admin: Api) -> None:
    """403 for an agent, and for a user's own API key."""
    body = {"current_password": PASSWORD, "new_password": NEW}
    await agent.api.refused(403, "POST", f"{AUTH}/password", json=body)
    key = node.directory.find_operator_key()
    problem = await node.client(key).refused(403, "POST", f"{AUTH}/password", json=body)
    assert problem["code"] == "session-required"


@pytest.mark.parametrize("who", ["user", "viewer", "agent"])
async def test_users_are_for_admins(user: Api, viewer: Api, agent: Agent, who: str) -> None:
    """403 for everybody else, about oneself, too."""
    api = {"user": user, "viewer": viewer, "agent": agent.api}[who]
    me = (await api.ok("GET", f"{AUTH}/me"))["principal_id"]
    for method, path, body in (
        ("GET", USERS, None),
        ("POST", USERS, {"username": _name(), "password": PASSWORD}),
        ("GET", f"{USERS}/{me}", None),
        ("PATCH", f"{USERS}/{me}", {"role": "admin"}),
        ("DELETE", f"{USERS}/{me}", None),
        ("POST", f"{USERS}/{me}/password", {}),
        ("GET", f"{USERS}/{me}/sessions", None),
        ("DELETE", f"{USERS}/{me}/sessions", None),
        ("DELETE", f"{USERS}/{me}/sessions/ses_1", None),
    ):
        await api.refused(403, method, path, **({} if body is None else {"json": body}))


async def test_operator_works_from_the_command_line(node: RunningNode) -> None:
    """`agentzero user` asks the running server with the operator's key."""
    node.directory.write_running_server(node.url)
    name = _name("cli")
    code, said = await _user(node, "create", name, "--role", "viewer")
    assert code == 0, said
    credentials = {"username": name, "password": said.rpartition(": ")[2].strip()}
    tokens = await node.client().ok("POST", f"{AUTH}/login", json=credentials)
    code, said = await _user(node, "reset-password", name.upper())
    assert code == 0, said
    await node.client(tokens["access_token"]).refused(401, "GET", f"{AUTH}/me")
    assert await _user(node, "disable", name) == (
        0,
        f"User `{name}` is disabled; all sessions ended.\n",
    )
    code, said = await _user(node, "list", "--disabled")
    assert name in [line.split("\t")[0] for line in said.splitlines()]
    assert await _user(node, "disable", "nobody") == (1, "There is no user `nobody`.\n")
    code, said = await _user(node, "create", name)
    assert (code, "refused (409)" in said) == (1, True)


async def _user(node: RunningNode, *arguments: str) -> tuple[int | None, str]:
    """Exit code, and all that the command said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "server.cli", "user", *arguments),
        cwd=ROOT,
        env={"AGENTZERO_DATA_DIR": str(node.directory.path), "NO_COLOR": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    return process.returncode, said.decode()
