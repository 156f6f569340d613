"""A server with something in it for every operation, and the callers that fuzz it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, Self

import httpx

from hive.permissions import Role

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
    "send_message",
    "unregister_agent",
)
TASK_OPERATIONS = (
    "get_task_graph",
    "cancel_subtree",
    "get_task",
    "get_task_logs",
    "get_task_artifacts",
    "get_task_status",
    "get_task_diagnosis",
    "update_task",
    "cancel_task",
)
SCHEDULE_OPERATIONS = (
    "get_schedule",
    "update_schedule",
    "pause_schedule",
    "resume_schedule",
    "run_schedule",
    "get_schedule_times",
    "delete_schedule",
)
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
    "list_diagnoses": "hive/diagnosis",
    "list_schedules": "schedules",
    "list_events": "events",
    "list_users": "users",
    "list_user_sessions": "users/{user_id}/sessions",
    "list_sessions": "auth/sessions",
    "list_api_keys": "api-keys",
    "list_signing_keys": "signing-keys",
    "list_audit_records": "audit",
    "export_audit_records": "audit/export",
}
Given = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Caller:
    """Who fuzzes, and what exists for it by operationId."""

    url: str
    role: Role
    credential: str
    given: Given


class Arranging:
    """A client that makes what the fuzzing finds; `named` keeps identifiers for later."""

    def __init__(self, url: str, credential: str) -> None:
        self.url = url
        self.credential = credential
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

    def get(self, path: str) -> Any:
        """Read something."""
        answer = self.client.get(f"/api/v1/{path}")
        assert answer.is_success, answer.text
        return answer.json()

    def log_in(self, username: str) -> dict[str, str]:
        """The tokens of a new session."""
        tokens: dict[str, str] = self.post("auth/login", username=username, password=PASSWORD)
        return tokens

    def add_user(self, role: Role = Role.USER) -> tuple[str, str]:
        """A new user: its identifier and its name."""
        username = f"fuzz-{uuid.uuid4().hex[:12]}"
        made = self.post("users", username=username, password=PASSWORD, role=role)
        return made["user_id"], username


def prepare(admin: Arranging, role: Role) -> Caller:
    """A new caller of the role (the operator for an admin), with everything for every operation.

    What belongs to somebody belongs to the caller where its role can own it.
    """
    # Whoever fuzzed before may have paused it.
    admin.post("hive/control", action="resume")
    agents = [admin.post("agents", name=f"{role}-{n}", slots=64) for n in (1, 2)]
    if role is Role.AGENT:
        caller, username = Arranging(admin.url, agents[0]["api_key"]), None
    elif role is Role.ADMIN:
        caller, username = Arranging(admin.url, admin.credential), "admin"
    else:
        _, username = admin.add_user(role)
        caller = Arranging(admin.url, admin.log_in(username)["access_token"])
    with caller:
        given = _hive_given(admin, caller if role is not Role.VIEWER else admin, agents)
        given |= _users_given(admin)
        if username is not None:
            given |= _own_given(caller, username)
        for name, path in LISTS.items():
            answer = caller.client.get(f"/api/v1/{path.format_map(admin.named)}?limit=1")
            following = answer.links.get("next", {}).get("url", "").partition("cursor=")[2]
            given[name] = {**given.get(name, {}), "cursor": following}
    return Caller(admin.url, role, caller.credential, given)


def _hive_given(admin: Arranging, owner: Arranging, agents: list[dict[str, Any]]) -> Given:
    one, two = agents
    tasks = [owner.post("tasks", name=f"task {n}")["task_id"] for n in range(QUEUED_TASKS)]
    leases = admin.post(f"agents/{one['agent_id']}/leases", max_leases=len(LEASE_OPERATIONS) + 2)
    failing = leases.pop()
    attaching = leases.pop()
    error = {"code": "broken", "message": "broken", "retryable": False}
    body = {"fence": failing["fence"], "error": error}
    failed = admin.post(f"leases/{failing['lease_id']}/fail", **body)
    given: Given = {
        name: {"path": {"lease_id": lease["lease_id"]}, "body": {"fence": lease["fence"]}}
        for name, lease in zip(LEASE_OPERATIONS, leases, strict=True)
    }
    for name in AGENT_OPERATIONS:
        agent = two if name == "unregister_agent" else one
        given[name] = {"path": {"agent_id": agent["agent_id"]}}
    for name in SCHEDULE_OPERATIONS:
        body = {"name": f"{name} {uuid.uuid4().hex}", "task": {"name": "scheduled"}}
        made = owner.post("schedules", **body, interval_seconds=31_536_000)
        given[name] = {"path": {"schedule_id": made["schedule_id"]}}
    for name in TASK_OPERATIONS:
        given[name] = {"path": {"task_id": tasks[-1]}}
    given |= _messages_given(admin, one["agent_id"])
    given |= _artifacts_given(admin, attaching)
    given["retry_task"] = {"path": {"task_id": failed["task_id"]}}
    return given


def _messages_given(admin: Arranging, agent_id: str) -> Given:
    """Two messages make a list with a second page."""
    sent = [admin.post(f"agents/{agent_id}/messages", data=n) for n in (1, 2)]
    answer = admin.client.get(f"/api/v1/agents/{agent_id}/messages?limit=1")
    following = answer.links["next"]["url"].partition("cursor=")[2]
    named = {"agent_id": agent_id, "message_id": sent[0]["message_id"]}
    return {
        "list_messages": {"path": {"agent_id": agent_id}, "cursor": following},
        "acknowledge_message": {"path": named},
    }


def _artifacts_given(admin: Arranging, lease: dict[str, Any]) -> Given:
    """A file that is there, and a lease to hand others over under."""
    uploaded = {"lease_id": lease["lease_id"], "artifact_name": "words.csv"}
    path = "/api/v1/leases/{lease_id}/artifacts/{artifact_name}".format_map(uploaded)
    answer = admin.client.put(path, params={"fence": lease["fence"]})
    assert answer.is_success, answer.text
    downloaded = {"task_id": lease["task"]["task_id"], "artifact_name": "words.csv"}
    return {"attach_artifact": {"path": uploaded}, "get_task_artifact": {"path": downloaded}}


def _users_given(admin: Arranging) -> Given:
    """Other users, for admins; a record of the audit log."""
    given: Given = {}
    for name in USER_OPERATIONS:
        user_id, username = admin.add_user()
        given[name] = {"path": {"user_id": user_id}}
        if name == "list_user_sessions":
            admin.named["user_id"] = user_id
            admin.log_in(username)
            admin.log_in(username)
            session = admin.get(f"users/{user_id}/sessions")[0]
            named = {"user_id": user_id, "session_id": session["session_id"]}
            given["revoke_user_session"] = {"path": named}
    record = admin.get("audit?limit=1")[0]
    given["get_audit_record"] = {"path": {"record_id": record["record_id"]}}
    return given


def _own_given(caller: Arranging, username: str) -> Given:
    """Keys and sessions of the caller itself."""
    given: Given = {}
    for name in KEY_OPERATIONS:
        given[name] = {"path": {"key_id": caller.post("api-keys", name=name)["key_id"]}}
    for name in SIGNING_KEY_OPERATIONS:
        # With an API key of its own: it signs what comes with that one, and nothing else has to be.
        key_id = caller.post("api-keys", name=name)["key_id"]
        made = caller.post("signing-keys", name=name, algorithm="hmac-sha256", key_id=key_id)
        given[name] = {"path": {"signing_key_id": made["signing_key_id"]}}
    # Two of them make a list with a second page.
    caller.log_in(username)
    tokens = caller.log_in(username)
    given["refresh"] = {"body": {"refresh_token": tokens["refresh_token"]}}
    return given
