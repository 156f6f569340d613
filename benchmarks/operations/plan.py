"""Which requests the benchmark sends, in which order, and what has to exist for them.

Each operation of the contract has a share of the requests, as a hive would see it: agents report,
people look, a few change something. What a request uses up (a session that it ends, a lease that
it completes) is made for it beforehand, so that none has to wait for another.

Over 400 lines because it is one list: a method of a few lines for each operation, by its name.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.operations.shares import FIXED, HASHING, SHARES

PASSWORD = "correct horse battery staple"  # noqa: S105 - of users that live for two minutes
OTHER_PASSWORD = "a better battery for horses"  # noqa: S105 - as above
CAPABILITY = "bench"
AGENTS = 50
SLOTS = 64
TASKS = 300
LEAST = 20
# The ring takes no more: tokens of each key are accepted for an hour.
MOST_KEYS = 30
OCTETS = {"Content-Type": "application/octet-stream"}
ARTIFACT_WORDS = 400

Request = dict[str, Any]


@dataclass
class Plan:
    """Both lists of requests.

    A request has `op`, `method`, `path`, `token` and maybe `body` (JSON) or `raw` (as it is).
    """

    mixed: list[Request] = field(default_factory=list)
    hashing: list[Request] = field(default_factory=list)


@dataclass(frozen=True)
class _User:
    user_id: str
    username: str
    token: str
    refresh_token: str


class Preparation:
    """Makes what the requests need, over the API."""

    def __init__(self, client: httpx.Client, admin_token: str) -> None:
        self._client = client
        self._admin = admin_token
        self._numbers = itertools.count()
        self._chance = random.Random(1)  # noqa: S311 - the same plan each time
        self._agents: list[tuple[str, str]] = []
        self._tasks: list[str] = []
        self._leases: list[tuple[str, int, str]] = []

    def plan(self, count: int, hashing: int) -> Plan:
        """So many mixed requests, and so many that hash passwords; about, for none has few."""
        self._make_hive(count)
        plan = Plan()
        for shares, total, requests in (
            (SHARES, count, plan.mixed),
            (HASHING, hashing, plan.hashing),
        ):
            least = LEAST if shares is SHARES else 5
            whole = sum(shares.values())
            for operation_id, share in shares.items():
                number = max(least, round(total * share / whole))
                made = self._requests(operation_id, number)
                requests += [{"op": operation_id, **one} for one in made]
            self._chance.shuffle(requests)
        return plan

    def _requests(self, operation_id: str, count: int) -> Iterator[Request]:
        if operation_id in FIXED:
            return self._same(count, "GET", FIXED[operation_id])
        make: Callable[[int], Iterator[Request]] = getattr(self, f"_{operation_id}")
        return make(count)

    def call(self, method: str, path: str, token: str = "", **options: Any) -> Any:
        """The JSON of a success."""
        headers = {"Authorization": f"Bearer {token or self._admin}", **options.pop("headers", {})}
        answer = self._client.request(method, path, headers=headers, **options)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def _make_hive(self, count: int) -> None:
        for _ in range(AGENTS):
            self._agents.append(self._new_agent())
        self._tasks = [self._new_task() for _ in range(TASKS)]
        ended = ("complete_lease", "fail_lease", "release_lease", "retry_task")
        wanted = sum(max(LEAST, round(count * SHARES[name] / 1000)) for name in ended) + LEAST
        wanted = round(wanted * 1.1)
        for _ in range(wanted - TASKS):
            self._new_task()
        for agent_id, key in itertools.cycle(self._agents[: AGENTS // 2]):
            body = {"max_leases": min(SLOTS // 2, wanted - len(self._leases))}
            claimed = self.call("POST", f"/api/v1/agents/{agent_id}/leases", key, json=body)
            self._leases += [(one["lease_id"], one["fence"], key) for one in claimed]
            if len(self._leases) >= wanted:
                break
        self._kept = [self._leases.pop() for _ in range(LEAST)]

    def _name(self, kind: str) -> str:
        return f"{kind}-{next(self._numbers)}"

    def _new_agent(self) -> tuple[str, str]:
        body = {"name": self._name("agent"), "capabilities": [CAPABILITY], "slots": SLOTS}
        made = self.call("POST", "/api/v1/agents", json=body)
        return made["agent_id"], made["api_key"]

    def _new_task(self) -> str:
        made = self.call("POST", "/api/v1/tasks", json=self._task())
        return str(made["task_id"])

    def _task(self) -> dict[str, Any]:
        return {
            "name": self._name("task"),
            "description": "Count the words of a file",
            "parameters": {"path": "a.txt"},
            "required_capabilities": [CAPABILITY],
        }

    def _new_user(self) -> _User:
        body = {"username": self._name("user"), "password": PASSWORD, "role": "user"}
        made = self.call("POST", "/api/v1/users", json=body)
        return self._log_in(made["user_id"], made["username"])

    def _log_in(self, user_id: str, username: str) -> _User:
        credentials = {"username": username, "password": PASSWORD}
        tokens = self.call("POST", "/api/v1/auth/login", json=credentials)
        return _User(user_id, username, tokens["access_token"], tokens["refresh_token"])

    def _sessions(self, count: int) -> tuple[_User, list[str]]:
        """A user, and so many more sessions of hers."""
        user = self._new_user()
        for _ in range(count):
            self._log_in(user.user_id, user.username)
        listed = self.call("GET", "/api/v1/auth/sessions?limit=200", user.token)
        return user, [one["session_id"] for one in listed if not one["current"]]

    def _same(self, count: int, method: str, path: str, body: Any = None) -> Iterator[Request]:
        for _ in range(count):
            yield self._request(method, path, body=body)

    def _request(self, method: str, path: str, token: str = "", body: Any = None) -> Request:
        request = {"method": method, "path": path, "token": token or self._admin}
        return request if body is None else {**request, "body": body}

    def _any_task(self) -> str:
        return f"/api/v1/tasks/{self._chance.choice(self._tasks)}"

    def _any_agent(self) -> tuple[str, str]:
        return self._chance.choice(self._agents)

    # One method for each other operation: so many requests for it.

    def _get_task(self, count: int) -> Iterator[Request]:
        return (self._request("GET", self._any_task()) for _ in range(count))

    def _get_agent(self, count: int) -> Iterator[Request]:
        return (
            self._request("GET", f"/api/v1/agents/{self._any_agent()[0]}") for _ in range(count)
        )

    def _get_task_logs(self, count: int) -> Iterator[Request]:
        return (self._request("GET", f"{self._any_task()}/logs") for _ in range(count))

    def _get_task_status(self, count: int) -> Iterator[Request]:
        return (self._request("GET", f"{self._any_task()}/status") for _ in range(count))

    def _get_task_artifacts(self, count: int) -> Iterator[Request]:
        return (self._request("GET", f"{self._any_task()}/artifacts") for _ in range(count))

    def _get_task_artifact(self, count: int) -> Iterator[Request]:
        lease_id, fence, key = self._kept[0]
        path = f"/api/v1/leases/{lease_id}/artifacts/read"
        content = b"word,count" * ARTIFACT_WORDS
        made = self.call("PUT", path, key, params={"fence": fence}, content=content, headers=OCTETS)
        return self._same(count, "GET", made["url"])

    def _attach_artifact(self, count: int) -> Iterator[Request]:
        for number in range(count):
            lease_id, fence, key = self._chance.choice(self._kept)
            path = f"/api/v1/leases/{lease_id}/artifacts/words-{number % 8}?fence={fence}"
            raw = f"{self._name('word')}," * ARTIFACT_WORDS
            yield {**self._request("PUT", path, key), "raw": raw}

    def _get_user(self, count: int) -> Iterator[Request]:
        return self._same(count, "GET", f"/api/v1/users/{self._new_user().user_id}")

    def _list_user_sessions(self, count: int) -> Iterator[Request]:
        return self._same(count, "GET", f"/api/v1/users/{self._new_user().user_id}/sessions")

    def _get_api_key(self, count: int) -> Iterator[Request]:
        return self._same(count, "GET", f"/api/v1/api-keys/{self._new_key()}")

    def _get_signing_key(self, count: int) -> Iterator[Request]:
        return self._same(count, "GET", f"/api/v1/signing-keys/{self._new_signing_key()}")

    def _get_audit_record(self, count: int) -> Iterator[Request]:
        (record,) = self.call("GET", "/api/v1/audit?limit=1")
        return self._same(count, "GET", f"/api/v1/audit/{record['record_id']}")

    def _heartbeat_agent(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            agent_id, key = self._any_agent()
            yield self._request("POST", f"/api/v1/agents/{agent_id}/heartbeat", key, {"load": 0.2})

    def _claim_leases(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            agent_id, key = self._chance.choice(self._agents[AGENTS // 2 :])
            body = {"max_leases": 1, "wait_seconds": 0}
            yield self._request("POST", f"/api/v1/agents/{agent_id}/leases", key, body)

    def _renew_lease(self, count: int) -> Iterator[Request]:
        more = {"progress": {"fraction": 0.4, "message": "read 4 of 10 chapters"}}
        return self._on_kept(count, "renew", more)

    def _append_lease_logs(self, count: int) -> Iterator[Request]:
        return self._on_kept(count, "logs", {"lines": [{"level": "info", "message": "opened"}]})

    def _complete_lease(self, count: int) -> Iterator[Request]:
        return self._end(count, "complete", {"result": {"words": 1200}})

    def _fail_lease(self, count: int) -> Iterator[Request]:
        error = {"code": "unreadable-file", "message": "not UTF-8", "retryable": False}
        return self._end(count, "fail", {"error": error})

    def _release_lease(self, count: int) -> Iterator[Request]:
        return self._end(count, "release", {"reason": "shutting down"})

    def _on_kept(self, count: int, verb: str, more: dict[str, Any]) -> Iterator[Request]:
        for _ in range(count):
            lease_id, fence, key = self._chance.choice(self._kept)
            body = {"fence": fence, **more}
            yield self._request("POST", f"/api/v1/leases/{lease_id}/{verb}", key, body)

    def _end(self, count: int, verb: str, more: dict[str, Any]) -> Iterator[Request]:
        for _ in range(count):
            lease_id, fence, key = self._leases.pop()
            body = {"fence": fence, **more}
            yield self._request("POST", f"/api/v1/leases/{lease_id}/{verb}", key, body)

    def _create_task(self, count: int) -> Iterator[Request]:
        return (self._request("POST", "/api/v1/tasks", body=self._task()) for _ in range(count))

    def _update_task(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            spec = {**self._task(), "required_capabilities": ["nobody-has-this"]}
            made = self.call("POST", "/api/v1/tasks", json=spec)
            path = f"/api/v1/tasks/{made['task_id']}"
            yield self._request("PATCH", path, body={"priority": "high"})

    def _get_task_graph(self, count: int) -> Iterator[Request]:
        return (self._request("GET", f"{self._any_task()}/graph") for _ in range(count))

    def _cancel_subtree(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            spec = {**self._task(), "required_capabilities": ["nobody-has-this"]}
            made = self.call("POST", "/api/v1/tasks", json=spec)
            yield self._request("POST", f"/api/v1/tasks/{made['task_id']}/cancel-subtree")

    def _create_tasks(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            tasks = [{**self._task(), "key": f"k{n}"} for n in range(10)]
            for n, task in enumerate(tasks[1:]):
                task["depends_on"] = [f"k{n}"]
            yield self._request("POST", "/api/v1/tasks/batch", body={"tasks": tasks})

    def _cancel_task(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            spec = {**self._task(), "required_capabilities": ["nobody-has-this"]}
            made = self.call("POST", "/api/v1/tasks", json=spec)
            yield self._request("DELETE", f"/api/v1/tasks/{made['task_id']}")

    def _retry_task(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            lease_id, fence, key = self._leases.pop()
            error = {"code": "broken", "message": "broken", "retryable": False}
            body = {"fence": fence, "error": error}
            failed = self.call("POST", f"/api/v1/leases/{lease_id}/fail", key, json=body)
            yield self._request("POST", f"/api/v1/tasks/{failed['task_id']}/retry")

    def _schedule(self) -> dict[str, Any]:
        # Its time is far: what is measured is the asking.
        return {"name": self._name("schedule"), "task": self._task(), "interval_seconds": 31536000}

    def _new_schedule(self, owner: _User) -> str:
        made = self.call("POST", "/api/v1/schedules", owner.token, json=self._schedule())
        return f"/api/v1/schedules/{made['schedule_id']}"

    def _on_schedules(
        self, count: int, method: str, path: str = "", body: Any = None
    ) -> Iterator[Request]:
        owner = self._new_user()
        for number in range(count):
            # One person may have a bounded number of them.
            owner = owner if number % 500 else self._new_user()
            yield self._request(method, self._new_schedule(owner) + path, body=body)

    def _create_schedule(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            token = self._new_user().token
            yield self._request("POST", "/api/v1/schedules", token, self._schedule())

    def _get_schedule(self, count: int) -> Iterator[Request]:
        return self._on_schedules(count, "GET")

    def _update_schedule(self, count: int) -> Iterator[Request]:
        for request in self._on_schedules(count, "PUT"):
            yield {**request, "body": {**self._schedule(), "overlap": "allow"}}

    def _delete_schedule(self, count: int) -> Iterator[Request]:
        return self._on_schedules(count, "DELETE")

    def _pause_schedule(self, count: int) -> Iterator[Request]:
        return self._on_schedules(count, "POST", "/pause")

    def _resume_schedule(self, count: int) -> Iterator[Request]:
        return self._on_schedules(count, "POST", "/resume")

    def _run_schedule(self, count: int) -> Iterator[Request]:
        return self._on_schedules(count, "POST", "/run")

    def _get_schedule_times(self, count: int) -> Iterator[Request]:
        return self._on_schedules(count, "GET", "/times")

    def _register_agent(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            yield self._request("POST", "/api/v1/agents", body={"name": self._name("registered")})

    def _update_agent(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            agent_id, _key = self._new_agent()
            body = {
                "name": self._name("updated"),
                "agent_type": "bench",
                "capabilities": ["other"],
                "slots": 2,
                "labels": {},
            }
            yield self._request("PUT", f"/api/v1/agents/{agent_id}", body=body)

    def _unregister_agent(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            yield self._request("DELETE", f"/api/v1/agents/{self._new_agent()[0]}")

    def _control_agent(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            path = f"/api/v1/agents/{self._new_agent()[0]}/control"
            yield self._request("POST", path, body={"action": "pause"})

    def _get_task_diagnosis(self, count: int) -> Iterator[Request]:
        return (self._request("GET", f"{self._any_task()}/diagnosis") for _ in range(count))

    def _send_message(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            path = f"/api/v1/agents/{self._any_agent()[0]}/messages"
            yield self._request("POST", path, body={"data": {"topic": "cache", "hit": True}})

    def _list_messages(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            agent_id, key = self._any_agent()
            yield self._request("GET", f"/api/v1/agents/{agent_id}/messages?limit=10", key)

    def _acknowledge_message(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            agent_id, key = self._any_agent()
            path = f"/api/v1/agents/{agent_id}/messages"
            sent = self.call("POST", path, json={"data": {"topic": "cache"}})
            yield self._request("POST", f"{path}/{sent['message_id']}/acknowledge", key)

    def _broadcast_message(self, count: int) -> Iterator[Request]:
        body = {"data": {"reload": True}, "selector": {"capabilities": [CAPABILITY]}}
        return self._same(count, "POST", "/api/v1/hive/broadcast", body)

    def _rebalance_hive(self, count: int) -> Iterator[Request]:
        return self._same(count, "POST", "/api/v1/hive/rebalance")

    def _control_hive(self, count: int) -> Iterator[Request]:
        # A paused hive would leave the claims of the others without work.
        return self._same(count, "POST", "/api/v1/hive/control", {"action": "resume"})

    def _create_ws_ticket(self, count: int) -> Iterator[Request]:
        return self._same(count, "POST", "/api/v1/auth/ws-tickets", {})

    def _refresh(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            body = {"refresh_token": self._new_user().refresh_token}
            yield self._request("POST", "/api/v1/auth/refresh", body=body)

    def _logout(self, count: int) -> Iterator[Request]:
        user = self._new_user()
        for _ in range(count):
            token = self._log_in(user.user_id, user.username).token
            yield self._request("POST", "/api/v1/auth/logout", token, {})

    def _revoke_session(self, count: int) -> Iterator[Request]:
        user, sessions = self._sessions(count)
        for session_id in sessions:
            yield self._request("DELETE", f"/api/v1/auth/sessions/{session_id}", user.token)

    def _revoke_other_sessions(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            yield self._request("DELETE", "/api/v1/auth/sessions", self._sessions(1)[0].token)

    def _revoke_user_session(self, count: int) -> Iterator[Request]:
        user, sessions = self._sessions(count)
        for session_id in sessions:
            path = f"/api/v1/users/{user.user_id}/sessions/{session_id}"
            yield self._request("DELETE", path)

    def _revoke_user_sessions(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            path = f"/api/v1/users/{self._new_user().user_id}/sessions"
            yield self._request("DELETE", path)

    def _new_key(self) -> str:
        body = {"name": self._name("key"), "scopes": ["tasks:read"]}
        # A user has a bounded number of them.
        made = self.call("POST", "/api/v1/api-keys", self._new_user().token, json=body)
        return str(made["key_id"])

    def _create_api_key(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            body = {"name": self._name("key"), "scopes": ["tasks:read"]}
            yield self._request("POST", "/api/v1/api-keys", self._new_user().token, body)

    def _rotate_api_key(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            path = f"/api/v1/api-keys/{self._new_key()}/rotate"
            yield self._request("POST", path, body={"overlap_seconds": 60})

    def _revoke_api_key(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            yield self._request("DELETE", f"/api/v1/api-keys/{self._new_key()}")

    def _new_signing_key(self) -> str:
        # Whoever has one has to sign: each is somebody's who does nothing else.
        made = self.call(
            "POST", "/api/v1/signing-keys", self._new_user().token, json=self._signing_key()
        )
        return str(made["signing_key_id"])

    def _signing_key(self) -> dict[str, str]:
        return {"name": self._name("signing"), "algorithm": "hmac-sha256"}

    def _create_signing_key(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            token = self._new_user().token
            yield self._request("POST", "/api/v1/signing-keys", token, self._signing_key())

    def _revoke_signing_key(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            yield self._request("DELETE", f"/api/v1/signing-keys/{self._new_signing_key()}")

    def _update_user(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            path = f"/api/v1/users/{self._new_user().user_id}"
            yield self._request("PATCH", path, body={"role": "viewer"})

    def _delete_user(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            yield self._request("DELETE", f"/api/v1/users/{self._new_user().user_id}")

    def _update_system_settings(self, count: int) -> Iterator[Request]:
        path, body = "/api/v1/system/settings", {"admin_allowlist": ["127.0.0.0/8", "::1/128"]}
        return self._same(count, "PATCH", path, body)

    def _rotate_token_keys(self, count: int) -> Iterator[Request]:
        return self._same(min(count, MOST_KEYS), "POST", "/api/v1/auth/keys/rotate", {})

    def _login(self, count: int) -> Iterator[Request]:
        users = [self._new_user() for _ in range(10)]
        for _ in range(count):
            body = {"username": self._chance.choice(users).username, "password": PASSWORD}
            yield self._request("POST", "/api/v1/auth/login", body=body)

    def _create_user(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            body = {"username": self._name("new"), "password": PASSWORD, "role": "user"}
            yield self._request("POST", "/api/v1/users", body=body)

    def _reset_user_password(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            path = f"/api/v1/users/{self._new_user().user_id}/password"
            yield self._request("POST", path, body={"password": OTHER_PASSWORD})

    def _change_password(self, count: int) -> Iterator[Request]:
        for _ in range(count):
            body = {"current_password": PASSWORD, "new_password": OTHER_PASSWORD}
            yield self._request("POST", "/api/v1/auth/password", self._new_user().token, body)
