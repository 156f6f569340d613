"""Schemathesis against the server as users run it: every phase, every check."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from pymongo import MongoClient

from server.contract import Contract
from server.resources import openapi_path
from tests.servers import ROOT, ServerProcess

# The examples of the contract log in with it.
PASSWORD = "correct horse battery staple"
QUEUED_TASKS = 600
LEASE_OPERATIONS = (
    "renew_lease",
    "append_lease_logs",
    "complete_lease",
    "fail_lease",
    "release_lease",
)
AGENT_OPERATIONS = (
    "get_agent",
    "update_agent",
    "control_agent",
    "heartbeat_agent",
    "claim_leases",
    "unregister_agent",
)
TASK_OPERATIONS = ("get_task", "get_task_logs", "cancel_task")
USER_OPERATIONS = (
    "get_user",
    "update_user",
    "reset_user_password",
    "list_user_sessions",
    "revoke_user_sessions",
    "delete_user",
)
KEY_OPERATIONS = ("get_api_key", "rotate_api_key", "revoke_api_key")
SIGNING_KEY_OPERATIONS = ("get_signing_key", "revoke_signing_key")
LISTS = {
    "list_agents": "agents",
    "list_tasks": "tasks",
    "list_events": "events",
    "list_users": "users",
    "list_user_sessions": "users/{user_id}/sessions",
    "list_sessions": "auth/sessions",
    "list_api_keys": "api-keys",
    "list_signing_keys": "signing-keys",
    "list_audit_records": "audit",
    "export_audit_records": "audit/export",
}
# What changes who asks: it would end the whole run. Somebody new does each.
ON_ONESELF = ("logout", "change_password", "create_signing_key", "revoke_session")
# What can be done once with what was given, before the rest of the run takes it away.
ONCE = tuple(f"--include-operation-id={name}" for name in ("refresh", "revoke_user_session"))
OTHERS = tuple(f"--exclude-operation-id={name}" for name in ON_ONESELF)


@dataclass(frozen=True)
class Target:
    """A running server with something in it."""

    url: str
    admin_key: str
    agent_key: str
    given: dict[str, Any]


@pytest.fixture
def target(
    tmp_path: Path, mongodb_uri: str, mongodb_client: MongoClient[dict[str, Any]]
) -> Iterator[Target]:
    """A server of its own, with agents, and with tasks that every agent can claim."""
    database = f"test_{uuid.uuid4().hex}"
    server = ServerProcess(
        tmp_path / "data",
        MONGODB_URI=mongodb_uri,
        MONGODB_DATABASE=database,
        ADMIN_PASSWORD=PASSWORD,
        RATE_LIMIT_ENABLED="false",
        LOG_LEVEL="error",
    )
    try:
        url = server.start()
        key = server.data.find_operator_key()
        assert key is not None
        yield _fill(url, key)
    finally:
        server.stop()
        mongodb_client.drop_database(database)


def _fill(url: str, key: str) -> Target:
    with Arranging(url, key) as admin:
        given = {**_hive_given(admin), **_identity_given(admin)}
        for name, path in LISTS.items():
            links = admin.client.get(f"/api/v1/{path.format_map(admin.named)}?limit=1").links
            following = links["next"]["url"].partition("cursor=")[2] if "next" in links else ""
            given[name] = {**given.get(name, {}), "cursor": following}
        return Target(url, key, admin.named["agent_key"], given)


class Arranging:
    """A client that makes what the fuzzing finds; `named` keeps identifiers for later."""

    def __init__(self, url: str, credential: str) -> None:
        headers = {"Authorization": f"Bearer {credential}"}
        self.client = httpx.Client(base_url=url, headers=headers, timeout=20)
        self.named: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def post(self, path: str, **body: Any) -> Any:
        """Create something."""
        answer = self.client.post(f"/api/v1/{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def log_in(self, username: str) -> dict[str, str]:
        """The tokens of a new session."""
        tokens: dict[str, str] = self.post("auth/login", username=username, password=PASSWORD)
        return tokens

    def add_user(self, role: str = "user") -> tuple[str, str]:
        """A new user: its identifier and its name."""
        username = f"fuzz-{uuid.uuid4().hex[:12]}"
        made = self.post("users", username=username, password=PASSWORD, role=role)
        return made["user_id"], username


def _hive_given(admin: Arranging) -> dict[str, Any]:
    one, two = [admin.post("agents", name=name, slots=64) for name in ("one", "two")]
    admin.named["agent_key"] = one["api_key"]
    tasks = [admin.post("tasks", name=f"task {n}")["task_id"] for n in range(QUEUED_TASKS)]
    leases = admin.post(f"agents/{one['agent_id']}/leases", max_leases=len(LEASE_OPERATIONS))
    given: dict[str, Any] = {
        name: {"path": {"lease_id": lease["lease_id"]}, "body": {"fence": lease["fence"]}}
        for name, lease in zip(LEASE_OPERATIONS, leases, strict=True)
    }
    for name in AGENT_OPERATIONS:
        agent = two if name == "unregister_agent" else one
        given[name] = {"path": {"agent_id": agent["agent_id"]}}
    for name in TASK_OPERATIONS:
        given[name] = {"path": {"task_id": tasks[-1]}}
    return given


def _identity_given(admin: Arranging) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name in USER_OPERATIONS:
        user_id, username = admin.add_user()
        given[name] = {"path": {"user_id": user_id}}
        if name == "list_user_sessions":
            admin.named["user_id"] = user_id
            admin.log_in(username)
            admin.log_in(username)
            session = admin.client.get(f"/api/v1/users/{user_id}/sessions").json()[0]
            named = {"user_id": user_id, "session_id": session["session_id"]}
            given["revoke_user_session"] = {"path": named}
    for name in KEY_OPERATIONS:
        given[name] = {"path": {"key_id": admin.post("api-keys", name=name)["key_id"]}}
    for name in SIGNING_KEY_OPERATIONS:
        with Arranging(
            str(admin.client.base_url), admin.log_in(admin.add_user()[1])["access_token"]
        ) as signer:
            made = signer.post("signing-keys", name=name, algorithm="hmac-sha256")
        given[name] = {"path": {"signing_key_id": made["signing_key_id"]}}
    # Two of them make a list with a second page.
    admin.log_in("admin")
    tokens = admin.log_in("admin")
    given["refresh"] = {"body": {"refresh_token": tokens["refresh_token"]}}
    record = admin.client.get("/api/v1/audit?limit=1").json()[0]
    given["get_audit_record"] = {"path": {"record_id": record["record_id"]}}
    return given


def fuzz(target: Target, key: str, tmp_path: Path, *options: str) -> dict[str, dict[str, int]]:
    """Run Schemathesis; it has to find nothing. The number of answers by operation and status."""
    tally = tmp_path / "tally.json"
    environment = {
        **os.environ,
        "AGENTZERO_FUZZ_KEY": key,
        "AGENTZERO_FUZZ_GIVEN": json.dumps(target.given),
        "AGENTZERO_FUZZ_OWN": json.dumps(own_identifiers(target.url, key)),
        "AGENTZERO_FUZZ_TALLY": str(tally),
        # Hypothesis keeps no examples between runs, and leaves nothing in the checkout.
        "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path / "hypothesis"),
    }
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(openapi_path())]
    done = subprocess.run(
        [*command, "--url", target.url, *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-30_000:]}\n{done.stderr[-3_000:]}"
    print(done.stdout[-1_500:])  # noqa: T201 - shown when a later assertion fails
    answers: dict[str, dict[str, int]] = json.loads(tally.read_text())
    return answers


def own_identifiers(url: str, key: str) -> list[str]:
    """Who fuzzes: the user or agent, and the API key."""
    with Arranging(url, key) as caller:
        me = caller.client.get("/api/v1/auth/me").json()
    return [me[name] for name in ("principal_id", "key_id") if name in me]


def fuzz_on_oneself(target: Target, tmp_path: Path, *options: str) -> dict[str, dict[str, int]]:
    """What changes the caller is done by a new user each, with a session and a second one."""
    answers: dict[str, dict[str, int]] = {}
    for name in ON_ONESELF:
        with Arranging(target.url, target.admin_key) as admin:
            user_id, username = admin.add_user()
            admin.log_in(username)
            (session,) = admin.client.get(f"/api/v1/users/{user_id}/sessions").json()
            token = admin.log_in(username)["access_token"]
        given = {"revoke_session": {"path": {"session_id": session["session_id"]}}}
        alone = replace(target, given=given)
        answers |= fuzz(alone, token, tmp_path, f"--include-operation-id={name}", *options)
    return answers


def assert_every_operation_succeeded(*runs: dict[str, dict[str, int]]) -> None:
    """A refusal proves little: each operation gave a success in one of the runs, too."""
    succeeded = {
        name
        for answers in runs
        for name, statuses in answers.items()
        if any(status.startswith("2") for status in statuses)
    }
    missed = {
        name: [answers.get(name, {}) for answers in runs]
        for name in Contract.load(openapi_path()).operations.keys() - succeeded
    }
    assert missed == {}


@pytest.mark.timeout(400)
def test_fuzzing_as_admin_finds_nothing(target: Target, tmp_path: Path) -> None:
    """All phases and checks with the operator's key; every operation reaches a 2xx."""
    # First: the others guess passwords until no unknown user of this address may log in.
    alone = fuzz_on_oneself(target, tmp_path, "--phases=examples,coverage")
    once = fuzz(target, target.admin_key, tmp_path, *ONCE, "--phases=examples")
    answers = fuzz(target, target.admin_key, tmp_path, *OTHERS, "--max-examples=25")
    assert_every_operation_succeeded(alone, once, answers)


@pytest.mark.more
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("role", ["admin", "agent"])
def test_long_fuzzing_finds_nothing(target: Target, tmp_path: Path, role: str) -> None:
    """Many more examples, of another seed, for who may do everything and for who may do little."""
    key = {"admin": target.admin_key, "agent": target.agent_key}[role]
    alone = fuzz_on_oneself(target, tmp_path, "--phases=examples,coverage")
    once = fuzz(target, target.admin_key, tmp_path, *ONCE, "--phases=examples")
    answers = fuzz(target, key, tmp_path, *OTHERS, "--max-examples=300", "--seed=1")
    if role == "admin":
        assert_every_operation_succeeded(alone, once, answers)
