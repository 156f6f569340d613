"""Who may do what: every operation with every kind of credential.

The table below is written by hand. It is compared with the contract and with the table of roles,
so that a permission changes in three places or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pytest
import pytest_asyncio

from hive.permissions import ADMIN_PERMISSIONS, PERMISSIONS, ROLE_PERMISSIONS, Role
from server.contract import Operation
from tests.api.operations import (
    CONTRACT,
    OPERATIONS,
    Existing,
    add_person,
    make_existing,
    send_example,
)
from tests.api.running import PASSWORD, Agent, Api, RunningNode

pytestmark = pytest.mark.asyncio(loop_scope="module")

PUBLIC: Final = frozenset({"anonymous", "viewer", "user", "other_user", "agent", "admin"})
READERS: Final = frozenset({"viewer", "user", "other_user", "agent", "admin"})
PEOPLE: Final = frozenset({"viewer", "user", "other_user", "admin"})
SUBMITTERS: Final = frozenset({"user", "other_user", "agent", "admin"})
CONTROLLERS: Final = frozenset({"user", "other_user", "admin"})
WORKERS: Final = frozenset({"agent", "admin"})
ADMINS: Final = frozenset({"admin"})

ALLOWED: Final[Mapping[str, frozenset[str]]] = {
    "get_liveness": PUBLIC,
    "get_readiness": PUBLIC,
    "get_openapi_yaml": PUBLIC,
    "get_openapi_json": PUBLIC,
    "get_asyncapi_yaml": PUBLIC,
    "get_asyncapi_json": PUBLIC,
    "login": PUBLIC,
    "refresh": PUBLIC,
    "get_jwks": PUBLIC,
    "logout": READERS,
    "get_me": READERS,
    "create_ws_ticket": READERS,
    "list_sessions": READERS,
    "change_password": PEOPLE,
    "revoke_session": PEOPLE,
    "revoke_other_sessions": PEOPLE,
    "rotate_token_keys": ADMINS,
    "list_users": ADMINS,
    "create_user": ADMINS,
    "get_user": ADMINS,
    "update_user": ADMINS,
    "delete_user": ADMINS,
    "reset_user_password": ADMINS,
    "list_user_sessions": ADMINS,
    "revoke_user_sessions": ADMINS,
    "revoke_user_session": ADMINS,
    "list_api_keys": PEOPLE,
    "create_api_key": PEOPLE,
    "get_api_key": PEOPLE,
    "revoke_api_key": PEOPLE,
    "rotate_api_key": PEOPLE,
    "list_signing_keys": PEOPLE,
    "create_signing_key": PEOPLE,
    "get_signing_key": PEOPLE,
    "revoke_signing_key": PEOPLE,
    "get_system_settings": ADMINS,
    "update_system_settings": ADMINS,
    "list_audit_records": ADMINS,
    "export_audit_records": ADMINS,
    "get_audit_record": ADMINS,
    "list_agents": READERS,
    "register_agent": ADMINS,
    "get_agent": READERS,
    "update_agent": ADMINS,
    "unregister_agent": ADMINS,
    "control_agent": CONTROLLERS,
    "heartbeat_agent": WORKERS,
    "claim_leases": WORKERS,
    "renew_lease": WORKERS,
    "append_lease_logs": WORKERS,
    "attach_artifact": WORKERS,
    "complete_lease": WORKERS,
    "fail_lease": WORKERS,
    "release_lease": WORKERS,
    "list_tasks": READERS,
    "create_task": SUBMITTERS,
    "create_tasks": SUBMITTERS,
    "get_task": READERS,
    "update_task": SUBMITTERS,
    "cancel_task": SUBMITTERS,
    "retry_task": SUBMITTERS,
    "get_task_logs": READERS,
    "get_task_artifacts": READERS,
    "get_task_artifact": READERS,
    "get_task_graph": READERS,
    "cancel_subtree": SUBMITTERS,
    "get_task_status": READERS,
    "list_schedules": READERS,
    "create_schedule": SUBMITTERS,
    "get_schedule": READERS,
    "update_schedule": SUBMITTERS,
    "delete_schedule": SUBMITTERS,
    "pause_schedule": SUBMITTERS,
    "resume_schedule": SUBMITTERS,
    "run_schedule": SUBMITTERS,
    "get_schedule_times": READERS,
    "get_hive_status": READERS,
    "get_hive_topology": READERS,
    "list_messages": WORKERS,
    "send_message": SUBMITTERS,
    "acknowledge_message": WORKERS,
    "broadcast_message": SUBMITTERS,
    "list_diagnoses": READERS,
    "get_task_diagnosis": READERS,
    "control_hive": ADMINS,
    "rebalance_hive": ADMINS,
    "list_events": READERS,
}
NOBODIES: Final = {
    "anonymous": "Not authenticated",
    "expired": "Token expired",
    "garbage": "Invalid token",
    "disabled": "Invalid token",
    "ended": "Invalid token",
}
KEYS: Final = ("scoped", "wrong_scope")
CALLERS: Final = (*sorted(PUBLIC), *sorted(NOBODIES.keys() - PUBLIC), *KEYS)
# What changes the caller itself: somebody new does it.
ON_ONESELF: Final = frozenset(
    {"logout", "change_password", "create_signing_key", "revoke_other_sessions"}
)
# The contract's examples ask for more than every caller of the row has to give.
MODEST: Final[Mapping[str, Any]] = {"create_api_key": {"name": "cell"}}
OF_A_SESSION: Final = {"logout": 409, "change_password": 403}
REFUSED_BY_NAME: Final = [
    pytest.param(one, caller, id=f"{one.operation_id}-{caller}")
    for one in CONTRACT.operations.values()
    for caller in sorted(PUBLIC - ALLOWED.get(one.operation_id, PUBLIC))
    if "{" in one.path
]
ON_LEASES: Final = [
    pytest.param(one, id=one.operation_id)
    for one in CONTRACT.operations.values()
    if "{lease_id}" in one.path
]
PRIVATE: Final = [
    pytest.param(one, id=one.operation_id)
    for one in CONTRACT.operations.values()
    if one.ownership == "private"
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(node: RunningNode, admin: Api) -> Agent:
    """The agent of the cells."""
    return await node.add_agent(admin)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def existing(node: RunningNode, admin: Api, user: Api) -> Existing:
    """Resources of `user` and of another agent."""
    return await make_existing(node, admin, user)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def callers(
    node: RunningNode, admin: Api, people: dict[str, Api], anonymous: Api, worker: Agent
) -> dict[str, Api]:
    """A client for each column but those of API keys."""
    disabled = await add_person(node, admin, Role.ADMIN)
    user_id = (await disabled.ok("GET", "/api/v1/auth/me"))["principal_id"]
    ended = await add_person(node, admin, Role.ADMIN)
    await ended.ok("POST", "/api/v1/auth/logout", json={})
    await admin.ok("PATCH", f"/api/v1/users/{user_id}", json={"disabled": True})
    return {
        **people,
        "anonymous": anonymous,
        "admin": admin,
        "agent": worker.api,
        "expired": node.client(node.expired_token()),
        "garbage": node.client("not-a-token-of-ours"),
        "disabled": disabled,
        "ended": ended,
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def key_owners(node: RunningNode, admin: Api) -> dict[str, Api]:
    """The admins who make the API keys, one for each kind: nobody may have them all."""
    return {kind: await add_person(node, admin, Role.ADMIN) for kind in KEYS}


async def test_every_operation_has_a_row() -> None:
    """A new operation gets a row here; one that is gone leaves."""
    assert ALLOWED.keys() == CONTRACT.operations.keys()


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_row_agrees_with_contract_and_roles(operation: Operation) -> None:
    """The contract's permission, by the table of roles, gives exactly the row."""
    row = ALLOWED[operation.operation_id]
    if operation.public:
        assert row == PUBLIC
        assert operation.permission is None
        return
    assert operation.permission in PERMISSIONS
    by_roles = {role.value for role in Role if operation.permission in ROLE_PERMISSIONS[role]}
    if "user" in by_roles:
        by_roles.add("other_user")
    assert row == by_roles
    assert (row == ADMINS) == (operation.permission in ADMIN_PERMISSIONS)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_cell(
    node: RunningNode,
    callers: dict[str, Api],
    admin: Api,
    key_owners: dict[str, Api],
    worker: Agent,
    operation: Operation,
    caller: str,
) -> None:
    """Whoever is not in the row is refused; whoever is gets another answer than 401 and 403."""
    # Resources that are not there: what belongs to whom has its own tests.
    value = worker.agent_id if operation.permission == "agents:work" else "unknown"
    target = operation.path.format_map(_Always(value))
    if caller in KEYS:
        on_oneself = operation.operation_id in ON_ONESELF
        owner = await add_person(node, admin, Role.ADMIN) if on_oneself else key_owners[caller]
        api = await _with_key(node, owner, operation, right=caller == "scoped")
    elif operation.operation_id in ON_ONESELF and caller in PEOPLE:
        api = await add_person(node, admin, Role(caller.removeprefix("other_")))
    else:
        api = callers[caller]
    if operation.operation_id in ("login", "refresh"):
        # Their example credentials are wrong, which is another 401 than that of the caller.
        assert await _ask_for_tokens(api, operation)
        return
    body = MODEST.get(operation.operation_id)
    response = await send_example(api, operation, target, **({"json": body} if body else {}))
    if operation.public or caller in ALLOWED[operation.operation_id] or caller == "scoped":
        assert response.status_code < 500
        if caller == "scoped" and operation.operation_id in OF_A_SESSION:
            assert response.status_code == OF_A_SESSION[operation.operation_id]
        else:
            assert response.status_code not in (401, 403), response.text
    elif caller in NOBODIES:
        assert response.status_code == 401
        assert response.json()["detail"] == NOBODIES[caller]
        assert response.headers["WWW-Authenticate"] == "Bearer"
    else:
        assert response.status_code == 403
        assert response.json()["code"] == "forbidden"


@pytest.mark.parametrize(("operation", "caller"), REFUSED_BY_NAME)
async def test_refused_caller_learns_nothing_of_what_exists(
    callers: dict[str, Api], existing: Existing, operation: Operation, caller: str
) -> None:
    """Without the permission the answer is the same for what exists and for what never did."""
    answers = [
        await _refusal(callers[caller], operation, target)
        for target in (existing.target(operation), operation.path.format_map(_Always("unknown")))
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("operation", ON_LEASES)
async def test_lease_of_another_agent_is_as_if_it_never_was(
    callers: dict[str, Api], existing: Existing, operation: Operation
) -> None:
    """An agent that names the lease of another gets the answer for one that never was."""
    await _require_like_unknown(callers["agent"], existing, operation)


@pytest.mark.parametrize("operation", PRIVATE)
async def test_what_is_private_does_not_exist_for_others(
    callers: dict[str, Api], existing: Existing, operation: Operation
) -> None:
    """Sessions and keys of one user are, for another, as if they never were."""
    await _require_like_unknown(callers["other_user"], existing, operation)


@pytest.mark.parametrize(
    ("path", "identifier"),
    [("auth/sessions", "session_id"), ("api-keys", "key_id"), ("signing-keys", "signing_key_id")],
)
async def test_private_lists_show_what_is_ones_own(
    callers: dict[str, Api], existing: Existing, path: str, identifier: str
) -> None:
    """Nothing of another user is in a list, whatever the filter says."""
    owner = existing.named["user_id"]
    filters: list[dict[str, str]] = [{}] if path == "auth/sessions" else [{}, {"owner": owner}]
    for chosen in filters:
        listed = await callers["other_user"].ok("GET", f"/api/v1/{path}", params=chosen)
        assert existing.named[identifier] not in {one[identifier] for one in listed}
        assert owner not in {one.get("owner", one.get("user_id")) for one in listed}


@pytest.mark.parametrize("caller", ["other_user", "agent", "viewer"])
async def test_task_is_changed_by_its_owner_and_admins(
    callers: dict[str, Api], existing: Existing, user: Api, caller: str
) -> None:
    """Reading is hive-wide by role; cancelling another's task is 403 and changes nothing."""
    before = await user.task(existing.task_id)
    assert await callers[caller].task(existing.task_id) == before
    await callers[caller].refused(403, "DELETE", f"/api/v1/tasks/{existing.task_id}")
    assert await user.task(existing.task_id) == before


class _Always(dict[str, str]):
    """One value for every parameter of a path."""

    def __init__(self, value: str) -> None:
        super().__init__()
        self._value = value

    def __missing__(self, name: str) -> str:
        return self._value


async def _with_key(node: RunningNode, owner: Api, operation: Operation, *, right: bool) -> Api:
    """A client with an API key of an admin: exactly the permission, or all the others."""
    needed = {operation.permission} if operation.permission else set()
    scopes = needed if right else PERMISSIONS - needed
    body: dict[str, Any] = {"name": "cell", "scopes": sorted(scopes or PERMISSIONS)}
    issued = await owner.ok("POST", "/api/v1/api-keys", json=body)
    return node.client(issued["api_key"])


async def _refusal(api: Api, operation: Operation, target: str) -> tuple[int, dict[str, Any]]:
    """Status and problem, without what names the request."""
    response = await send_example(api, operation, target)
    problem = response.json()
    assert problem.pop("instance") == target
    del problem["request_id"]
    return response.status_code, problem


async def _require_like_unknown(api: Api, existing: Existing, operation: Operation) -> None:
    """Demand 404, alike for what exists and for an identifier that was never given."""
    never = {
        name: value[:4] + "01m7zzcy9we6nrxfnm00kd2zzz" for name, value in existing.named.items()
    }
    there = await _refusal(api, operation, existing.target(operation))
    nowhere = await _refusal(api, operation, operation.path.format_map(never))
    assert there == nowhere
    assert there[0] == 404


async def _ask_for_tokens(api: Api, operation: Operation) -> bool:
    """Whether right credentials are taken, whatever the caller presents besides."""
    body: dict[str, str] = {"username": "admin", "password": PASSWORD}
    tokens = await api.ok("POST", "/api/v1/auth/login", json=body)
    if operation.operation_id == "refresh":
        given = {"refresh_token": tokens["refresh_token"]}
        tokens = await api.ok("POST", operation.path, json=given)
    return bool(tokens["access_token"])
