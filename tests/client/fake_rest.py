# ruff: noqa: D102, C901, PLR0911, PLR0912, TRY301
# Tornado's names say what they are; one branch is one operation, and a refusal is an answer.
"""The REST operations of the fake hive that the client uses."""

from __future__ import annotations

import json
from typing import Any

import tornado.web

from tests.client.contracts import contracts
from tests.client.fake_hive import FakeHive, Refusal, problem


class Rest(tornado.web.RequestHandler):
    """Every REST operation that the client uses."""

    def initialize(self, hive: FakeHive) -> None:
        self.hive = hive

    async def handle(self) -> None:
        method, path = str(self.request.method), self.request.path
        body = json.loads(self.request.body) if self.request.body else None
        self.hive.requests.append((method, path, body))
        self.hive.judge(contracts().request(method, path, body))
        self.hive.notify()
        trouble = self.hive.trouble(method, path)
        try:
            if trouble is not None and not trouble.acts:
                raise Refusal(trouble.status, trouble.code)
            self.identify(path)
            answer = await self.once(method, path, body)
            if trouble is not None:
                raise Refusal(trouble.status, trouble.code)
        except Refusal as refusal:
            self.set_status(refusal.status)
            self.set_header("Content-Type", "application/problem+json")
            for name, value in (trouble.headers if trouble else {}).items():
                self.set_header(name, value)
            self.finish(problem(refusal.status, refusal.code, refusal.detail, path))
            return
        if method == "POST" and self.hive.drops:
            self.hive.drops -= 1
            self.detach().close()
            return
        made = path == "/api/v1/agents" or path.startswith("/api/v1/api-keys")
        status = 201 if method == "POST" and made else 200
        self.hive.judge(contracts().response(method, path, status, answer))
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(answer))

    get = post = put = patch = delete = handle

    def identify(self, path: str) -> None:
        if path in ("/health/live", "/api/v1/auth/login", "/api/v1/auth/refresh"):
            return
        if bearer(self.request) not in self.hive.tokens:
            raise Refusal(401, "invalid-token", "Invalid token")

    async def once(self, method: str, path: str, body: Any) -> Any:
        """What comes under a key that was answered gets that answer, without its secret."""
        key = self.request.headers.get("Idempotency-Key")
        if method == "POST":
            self.hive.keys.append(key)
        if key is None or key not in self.hive.answers:
            answer = await self.route(method, path.removeprefix("/api/v1/").split("/"), body)
            if key is not None:
                self.hive.answers[key] = (path, answer)
            return answer
        where, answer = self.hive.answers[key]
        if where != path:
            raise Refusal(422, "idempotency-key-reused")
        if "api_key" in answer:
            raise Refusal(409, "secret-not-replayed")
        return answer

    async def route(self, method: str, path: list[str], body: Any) -> Any:
        match [method, *path]:
            case ["GET", "", "health", "live"]:
                return {"status": "alive", "version": "1"}
            case ["POST", "auth", "login"]:
                if body["password"] != self.hive.password:
                    raise Refusal(401, "invalid-credentials", "Invalid credentials")
                return self.tokens()
            case ["POST", "auth", "refresh"]:
                if body["refresh_token"] not in self.hive.refresh_tokens:
                    raise Refusal(401, "invalid-token", "Invalid token")
                self.hive.refresh_tokens.discard(body["refresh_token"])
                return self.tokens()
            case ["POST", "auth", "logout"]:
                self.hive.tokens.discard(str(bearer(self.request)))
                return {"message": "Logged out"}
            case ["GET", "auth", "me"]:
                return self.me()
            case ["POST", "tasks"]:
                task_id = self.hive.add_task(**body)
                return self.hive.receipt(task_id)
            case ["GET", "tasks"]:
                wanted = self.get_query_argument("status", None)
                tasks = [self.public(t) for t in self.hive.tasks.values()]
                return self.page([t for t in tasks if wanted in (None, t["status"])])
            case ["GET", "tasks", task_id]:
                return self.public(self.find(self.hive.tasks, task_id, "task-not-found"))
            case ["PATCH", "tasks", task_id]:
                task = self.find(self.hive.tasks, task_id, "task-not-found")
                task.update(body)
                return self.public(task)
            case ["DELETE", "tasks", task_id]:
                self.find(self.hive.tasks, task_id, "task-not-found")
                return self.hive.cancel(task_id)
            case ["POST", "tasks", task_id, "retry"]:
                task = self.find(self.hive.tasks, task_id, "task-not-found")
                if self.request.headers.get("If-Match", seen := f'"{task["version"]}"') != seen:
                    raise Refusal(412, "precondition-failed")
                return self.hive.retry(task_id)
            case ["GET", "tasks", task_id, "logs"]:
                limit = int(self.get_query_argument("limit", "100"))
                return {"task_id": task_id, "logs": self.hive.logs[task_id][-limit:]}
            case ["GET", "hive", "status"]:
                return {
                    "agents": {"idle": len(self.hive.agents)},
                    "tasks": {},
                    "event_log": {"seq": str(len(self.hive.events))},
                    "time": "2026-11-21T09:00:00.000Z",
                }
            case ["GET", "events"]:
                return self.history()
            case ["POST", "leases", lease_id, verb]:
                return self.hive.report(lease_id, verb, body)
            case [_, "api-keys", *rest]:
                return self.api_keys(method, rest, body)
            case [_, "agents", *rest]:
                return await self.agents(method, rest, body)
        raise Refusal(404, "not-found")

    def api_keys(self, method: str, path: list[str], body: Any) -> Any:
        keys = self.hive.api_keys
        match [method, *path]:
            case ["POST"]:
                return self.make_key(body)
            case ["GET"]:
                wanted = self.get_query_argument("status", None)
                return self.page([k for k in keys.values() if wanted in (None, k["status"])])
            case ["GET", key_id]:
                return self.find(keys, key_id, "api-key-not-found")
            case ["DELETE", key_id]:
                key = self.find(keys, key_id, "api-key-not-found")
                key["status"] = "revoked"
                return key
            case ["POST", key_id, "rotate"]:
                old = self.find(keys, key_id, "api-key-not-found")
                if "successor_id" in old:
                    raise Refusal(409, "api-key-rotated")
                new = self.make_key({"name": old["name"], "scopes": old["scopes"]})
                old["successor_id"] = new["key_id"]
                return new
        raise Refusal(404, "not-found")

    def make_key(self, wish: dict[str, Any]) -> dict[str, Any]:
        number = len(self.hive.api_keys)
        key = {
            "key_id": f"key_{number}",
            "name": wish["name"],
            "prefix": f"azk_{number}",
            "owner": "usr_1",
            "role": "admin",
            "scopes": wish.get("scopes", []),
            "allowed_addresses": wish.get("allowed_addresses", []),
            "status": "active",
            "created_at": "2026-11-21T09:00:00.000Z",
        }
        self.hive.api_keys[str(key["key_id"])] = key
        return key | {"api_key": f"azk_{number}-secret"}

    async def agents(self, method: str, path: list[str], body: Any) -> Any:
        hive = self.hive
        match [method, *path]:
            case ["POST"]:
                agent_id, key = hive.add_agent(**body)
                return {**hive.agents[agent_id], "api_key": key}
            case ["GET"]:
                return self.page(list(hive.agents.values()))
            case ["GET", agent_id]:
                return {**self.find(hive.agents, agent_id, "agent-not-found"), "leases": []}
            case ["PUT", agent_id]:
                agent = self.find(hive.agents, agent_id, "agent-not-found")
                if self.request.headers.get("If-Match", seen := f'"{agent["version"]}"') != seen:
                    raise Refusal(412, "precondition-failed")
                agent.update(body, version=agent["version"] + 1)
                return agent
            case ["DELETE", agent_id]:
                self.find(hive.agents, agent_id, "agent-not-found")
                del hive.agents[agent_id]
                return {"message": "Agent unregistered successfully"}
            case ["POST", agent_id, "control"]:
                asked = {"agent_id": agent_id, "action": body["action"]}
                return {**asked, "desired_state": "paused", "status": "paused"}
            case ["POST", agent_id, "heartbeat"]:
                return hive.heartbeat(agent_id, body)
            case ["POST", agent_id, "leases"]:
                return await self.claim(body)
        raise Refusal(404, "not-found")

    async def claim(self, body: Any) -> list[dict[str, Any]]:
        def queued() -> list[str]:
            tasks = self.hive.tasks.items()
            return [task_id for task_id, task in tasks if task["status"] == "queued"]

        try:
            await self.hive.until(queued, min(body["wait_seconds"], 1.0))
        except TimeoutError:
            return []
        return [self.hive.grant(task_id) for task_id in queued()[: body["max_leases"]]]

    def tokens(self) -> dict[str, Any]:
        number = len(self.hive.requests)
        access, refresh = f"access-{number}", f"refresh-{number}"
        self.hive.tokens.add(access)
        self.hive.refresh_tokens.add(refresh)
        pair = {"access_token": access, "refresh_token": refresh}
        return {**pair, "token_type": "bearer", "expires_in": self.hive.expires_in}

    def me(self) -> dict[str, Any]:
        agent_id = self.hive.agent_keys.get(str(bearer(self.request)))
        me = {"principal_id": agent_id or "usr_1", "username": "admin", "permissions": []}
        return (
            {**me, "role": "admin"}
            if agent_id is None
            else {**me, "role": "agent", "agent_id": agent_id}
        )

    def history(self) -> Any:
        after = int(self.get_query_argument("after", "0"))
        if self.get_query_argument("after", None) is not None and after < self.hive.trimmed_up_to:
            raise Refusal(410, "log-trimmed", "The log starts later.")
        events = self.hive.events[max(after, self.hive.trimmed_up_to) :]
        kind = self.get_query_argument("type", "*")
        chosen = [
            e
            for e in events
            if kind in ("*", e["type"]) or (kind.endswith(".*") and e["type"].startswith(kind[:-1]))
        ]
        if self.get_query_argument("order", "asc") == "desc":
            chosen.reverse()
        return self.page(chosen)

    def page(self, items: list[Any]) -> list[Any]:
        start = int(self.get_query_argument("cursor", "0"))
        size = min(int(self.get_query_argument("limit", "50")), self.hive.page_size)
        if start + size < len(items):
            query = [
                f"{name}={self.get_query_argument(name)}"
                for name in self.request.query_arguments
                if name != "cursor"
            ]
            target = "&".join([*query, f"cursor={start + size}"])
            self.set_header(
                "Link", f'</x>; rel="first", <{self.request.path}?{target}>; rel="next"'
            )
        return items[start : start + size]

    @staticmethod
    def find(where: dict[str, dict[str, Any]], name: str, code: str) -> dict[str, Any]:
        if name not in where:
            raise Refusal(404, code)
        return where[name]

    @staticmethod
    def public(task: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in task.items() if not name.endswith("_")}


def bearer(request: Any) -> str | None:
    """The credential that a request carries."""
    value: str = request.headers.get("Authorization", "")
    return value.removeprefix("Bearer ") if value.startswith("Bearer ") else None
