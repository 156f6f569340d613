"""Who may do what: every operation with every credential.

The table below is written by hand. It is compared with the contract and with the table of roles,
so that a permission changes in three places or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pytest
import pytest_asyncio

from hive.permissions import PERMISSIONS, ROLE_PERMISSIONS, Role
from server.contract import Operation
from tests.api.operations import CONTRACT, OPERATIONS, Existing, make_existing, send_example
from tests.api.running import PASSWORD, Agent, Api, RunningNode

pytestmark = pytest.mark.asyncio(loop_scope="module")

PUBLIC: Final = frozenset({"anonymous", "viewer", "user", "other_user", "agent", "admin"})
READERS: Final = frozenset({"viewer", "user", "other_user", "agent", "admin"})
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
    "logout": READERS,
    "get_me": READERS,
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
    "complete_lease": WORKERS,
    "fail_lease": WORKERS,
    "release_lease": WORKERS,
    "list_tasks": READERS,
    "create_task": SUBMITTERS,
    "get_task": READERS,
    "cancel_task": SUBMITTERS,
    "get_task_logs": READERS,
    "get_hive_status": READERS,
    "list_events": READERS,
}
REFUSED_DETAILS: Final = {
    "anonymous": "Not authenticated",
    "expired": "Token expired",
    "garbage": "Invalid token",
}
CALLERS: Final = (*sorted(PUBLIC), "expired", "garbage")
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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(node: RunningNode, admin: Api) -> Agent:
    """The agent of the cells."""
    return await node.add_agent(admin)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def existing(node: RunningNode, admin: Api, user: Api) -> Existing:
    """Resources of `user` and of another agent."""
    return await make_existing(node, admin, user)


@pytest.fixture(scope="module")
def callers(
    node: RunningNode, admin: Api, people: dict[str, Api], anonymous: Api, worker: Agent
) -> dict[str, Api]:
    """A client for each column."""
    return {
        **people,
        "anonymous": anonymous,
        "admin": admin,
        "agent": worker.api,
        "expired": node.client(node.expired_token()),
        "garbage": node.client("not-a-token-of-ours"),
    }


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


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_cell(
    node: RunningNode,
    callers: dict[str, Api],
    worker: Agent,
    operation: Operation,
    caller: str,
) -> None:
    """Whoever is not in the row is refused; whoever is gets another answer than 401 and 403."""
    api = callers[caller]
    row = ALLOWED[operation.operation_id]
    # Resources that are not there: what belongs to whom has its own tests.
    value = worker.agent_id if operation.permission == "agents:work" else "unknown"
    if operation.operation_id == "logout" and caller in READERS - {"agent"}:
        api = await node.log_in(caller)
    if operation.operation_id in ("login", "refresh"):
        # Their example credentials are wrong, which is another 401 than that of the caller.
        allowed = await _ask_for_tokens(api, operation)
        assert allowed
        return
    response = await send_example(api, operation, operation.path.format_map(_Always(value)))
    if caller in row or operation.public:
        assert response.status_code not in (401, 403), response.text
        assert response.status_code < 500
    elif caller in REFUSED_DETAILS:
        assert response.status_code == 401
        assert response.json()["detail"] == REFUSED_DETAILS[caller]
        assert response.headers["WWW-Authenticate"] == "Bearer"
    else:
        assert response.status_code == 403
        assert response.json()["code"] == "forbidden"


@pytest.mark.parametrize(("operation", "caller"), REFUSED_BY_NAME)
async def test_refused_caller_learns_nothing_of_what_exists(
    callers: dict[str, Api], existing: Existing, operation: Operation, caller: str
) -> None:
    """Without the permission the answer is the same for what exists and for what never did."""
    answers = []
    for value in (existing.value(operation), "unknown"):
        target = operation.path.format_map(_Always(value))
        response = await send_example(callers[caller], operation, target)
        problem = response.json()
        assert problem.pop("instance") == target
        del problem["request_id"]
        answers.append((response.status_code, problem))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("operation", ON_LEASES)
async def test_lease_of_another_agent_is_as_if_it_never_was(
    callers: dict[str, Api], existing: Existing, operation: Operation
) -> None:
    """An agent that names the lease of another gets the answer for one that never was."""
    answers = []
    for value in (existing.lease_id, "lse_01m7zzcy9we6nrxfnm00kd253k"):
        target = operation.path.format_map(_Always(value))
        response = await send_example(callers["agent"], operation, target)
        problem = response.json()
        del problem["instance"], problem["request_id"]
        answers.append((response.status_code, problem))
    assert answers[0] == answers[1]
    assert answers[0][0] == 404


@pytest.mark.parametrize("caller", ["other_user", "agent", "viewer"])
async def test_task_is_changed_by_its_owner_and_admins(
    callers: dict[str, Api], existing: Existing, user: Api, caller: str
) -> None:
    """Reading is hive-wide by role; cancelling another's task is 403 and changes nothing."""
    before = await user.task(existing.task_id)
    assert await callers[caller].task(existing.task_id) == before
    await callers[caller].refused(403, "DELETE", f"/api/v1/tasks/{existing.task_id}")
    assert await user.task(existing.task_id) == before


async def test_owner_cannot_be_given(user: Api, admin: Api) -> None:
    """Nobody submits in the name of another, nor sets what the server decides."""
    for name, value in {
        "owner": "usr_1",
        "task_id": "tsk_1",
        "_id": "tsk_1",
        "status": "completed",
        "version": 7,
        "attempt": 0,
        "result": 1,
        "created_at": "2026-01-01T00:00:00Z",
    }.items():
        await user.refused(400, "POST", "/api/v1/tasks", json={"name": "x", name: value})
    for name, value in {
        "agent_id": "agt_1",
        "status": "idle",
        "desired_state": "active",
        "version": 7,
        "api_key": "azk_x",
    }.items():
        await admin.refused(400, "POST", "/api/v1/agents", json={"name": "x", name: value})


class _Always(dict[str, str]):
    """One value for every parameter of a path."""

    def __init__(self, value: str) -> None:
        super().__init__()
        self._value = value

    def __missing__(self, name: str) -> str:
        return self._value


async def _ask_for_tokens(api: Api, operation: Operation) -> bool:
    """Whether right credentials are taken, whatever the caller presents besides."""
    body: dict[str, str] = {"username": "admin", "password": PASSWORD}
    tokens = await api.ok("POST", "/api/v1/auth/login", json=body)
    if operation.operation_id == "refresh":
        given = {"refresh_token": tokens["refresh_token"]}
        tokens = await api.ok("POST", operation.path, json=given)
    return bool(tokens["access_token"])
