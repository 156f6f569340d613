"""The wire of the fake hive: its REST routes, its event socket and its agent link, in Tornado."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import tornado.web
import tornado.websocket

from tests.client.contracts import contracts
from tests.client.fake_hive import FakeHive, Refusal, problem

REFUSED = 1008
TAKEN_OVER = 4010


def make_app(hive: FakeHive) -> tornado.web.Application:
    """The routes."""
    known = {"hive": hive}
    return tornado.web.Application(
        [
            (r"/ws", EventSocket, known),
            (r"/ws/agents/([^/]+)", AgentSocket, known),
            (r"/.*", Rest, known),
        ],
        log_function=lambda _: None,
    )


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
            answer = await self.route(method, path.removeprefix("/api/v1/").split("/"), body)
            if trouble is not None:
                raise Refusal(trouble.status, trouble.code)
        except Refusal as refusal:
            self.set_status(refusal.status)
            self.set_header("Content-Type", "application/problem+json")
            for name, value in (trouble.headers if trouble else {}).items():
                self.set_header(name, value)
            self.finish(problem(refusal.status, refusal.code, refusal.detail, path))
            return
        status = 201 if (method, path) == ("POST", "/api/v1/agents") else 200
        self.hive.judge(contracts().response(method, path, status, answer))
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(answer))

    get = post = put = delete = handle

    def identify(self, path: str) -> None:
        if path in ("/api/v1/auth/login", "/api/v1/auth/refresh"):
            return
        if bearer(self.request) not in self.hive.tokens:
            raise Refusal(401, "invalid-token", "Invalid token")

    async def route(self, method: str, path: list[str], body: Any) -> Any:
        match [method, *path]:
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
            case ["DELETE", "tasks", task_id]:
                self.find(self.hive.tasks, task_id, "task-not-found")
                return self.hive.cancel(task_id)
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
            case [_, "agents", *rest]:
                return await self.agents(method, rest, body)
        raise Refusal(404, "not-found")

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
                self.find(hive.agents, agent_id, "agent-not-found").update(body)
                return hive.agents[agent_id]
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
            chosen = chosen[::-1]
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


class Socket(tornado.websocket.WebSocketHandler):
    """What both sockets share."""

    def initialize(self, hive: FakeHive) -> None:
        self.hive = hive

    async def prepare(self) -> None:
        if self.hive.blocks_sockets:
            self.hive.requests.append(("GET", self.request.path, None))
            self.hive.notify()
            self.set_status(403)
            self.finish()

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return "agentzero.v1" if "agentzero.v1" in subprotocols else None

    def admit(self) -> bool:
        if bearer(self.request) in self.hive.tokens:
            return True
        self.close(REFUSED, "invalid token")
        return False

    def read(self, message: str | bytes) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(message)
        self.hive.check_frame(frame)
        self.hive.frames.append(frame)
        self.hive.notify()
        return frame

    def tell(self, frame: dict[str, Any]) -> None:
        self.hive.check_frame(frame)
        if self.ws_connection is not None and not self.ws_connection.is_closing():
            asyncio.ensure_future(self.send(frame))  # noqa: RUF006  # It ends with the socket.

    async def send(self, frame: dict[str, Any]) -> None:
        try:
            await self.write_message(json.dumps(frame))
        except tornado.websocket.WebSocketClosedError:
            return

    def abort(self) -> None:
        if self.ws_connection is not None:
            self.ws_connection.stream.close()  # type: ignore[attr-defined]  # Of WebSocketProtocol13.


class EventSocket(Socket):
    """`/ws`"""

    def open(self) -> None:
        self.patterns: list[str] = []
        if self.admit():
            self.cursor = int(self.get_query_argument("cursor", "-1"))
            if self.cursor > len(self.hive.events):
                self.close(4009, "the cursor is not of this log")

    def on_message(self, message: str | bytes) -> None:
        frame = self.read(message)
        if frame["type"] != "subscribe":
            return
        self.patterns = frame.get("events", ["*"])
        replays, place = self.cursor >= 0, self.cursor
        if not replays:
            place = len(self.hive.events)
        events = {"events": self.patterns, "cursor": str(place)}
        self.tell({"type": "subscribed", "id": frame["id"], **events})
        if replays and place < self.hive.trimmed_up_to:
            to = self.hive.trimmed_up_to
            gap = {"from": str(place), "to": str(to), "reason": "trimmed"}
            self.tell({"type": "gap", **gap, "snapshot": "/api/v1/hive/status"})
            place = to
        if replays:
            place = max(0, place - self.hive.repeats_events)
        for event in self.hive.events[place:]:
            self.deliver(event)
        end = {"cursor": str(len(self.hive.events)), "replay_end": True}
        self.tell({"type": "bookmark", **end})
        self.hive.watchers.add(self)
        self.hive.notify()

    def deliver(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if any(
            p in ("*", kind) or (p.endswith(".*") and kind.startswith(p[:-1]))
            for p in self.patterns
        ):
            self.tell(event)

    def on_close(self) -> None:
        self.hive.watchers.discard(self)
        self.hive.notify()


class AgentSocket(Socket):
    """`/ws/agents/{agent_id}`"""

    def open(self, agent_id: str) -> None:
        self.agent_id = agent_id
        self.slots = 0
        self.reserved = 0
        self.held: set[str] = set()
        self.admit()

    def room(self) -> int:
        return self.slots - len(self.held) - self.reserved

    def assign(self, lease: dict[str, Any]) -> None:
        self.held.add(lease["lease_id"])
        self.tell({"type": "assign", "lease": lease})

    def drop(self, lease_id: str, *, tell: bool = False) -> None:
        if lease_id in self.held:
            self.held.discard(lease_id)
            if tell:
                self.tell({"type": "cancel", "lease_id": lease_id, "reason": "lost"})

    def on_message(self, message: str | bytes) -> None:
        frame = self.read(message)
        kind = frame["type"]
        if kind == "hello":
            self.greet(frame)
        elif kind == "heartbeat":
            free = frame.get("free_slots")
            if free is not None:
                self.reserved = max(0, self.slots - len(self.held) - free)
            body = self.hive.heartbeat(self.agent_id, frame)
            if "id" in frame:
                self.tell({"type": "result", "id": frame["id"], "status": 200, "body": body})
            self.hive.push()
        elif kind in VERBS:
            self.report(frame)

    def greet(self, frame: dict[str, Any]) -> None:
        older = self.hive.links.get(self.agent_id)
        if older is not None:
            older.close(TAKEN_OVER, "taken over")
        self.slots = frame["slots"]
        asked = [proof["lease_id"] for proof in frame["resume_leases"]]
        self.held = {lease_id for lease_id in asked if lease_id in self.hive.leases}
        ready = {
            "agent_id": self.agent_id,
            "heartbeat_seconds": self.hive.heartbeat_seconds,
            "lease_seconds": self.hive.lease_seconds,
            "slots": self.slots,
            "desired_state": "active",
            "resumed": sorted(self.held),
            "lost": [lease_id for lease_id in asked if lease_id not in self.held],
        }
        self.tell({"type": "ready", **ready})
        self.hive.links[self.agent_id] = self
        self.hive.push()
        self.hive.notify()

    def report(self, frame: dict[str, Any]) -> None:
        body = {k: v for k, v in frame.items() if k not in ("type", "id", "lease_id")}
        result: dict[str, Any] = {"type": "result", "id": frame["id"]}
        try:
            answer = self.hive.report(frame["lease_id"], VERBS[frame["type"]], body)
            result |= {"status": 200, "body": answer}
        except Refusal as refusal:
            self.drop(frame["lease_id"])
            said = problem(refusal.status, refusal.code, refusal.detail, "/")
            result |= {"status": refusal.status, "problem": json.loads(said)}
        if frame["type"] in self.hive.swallows:
            self.hive.swallows.discard(frame["type"])
            self.abort()
            return
        self.tell(result)
        self.hive.push()

    def on_close(self) -> None:
        if self.hive.links.get(self.agent_id) is self:
            del self.hive.links[self.agent_id]
        self.hive.notify()


VERBS = {
    "accept": "renew",
    "reject": "release",
    "progress": "renew",
    "log": "logs",
    "complete": "complete",
    "fail": "fail",
    "release": "release",
}


def bearer(request: Any) -> str | None:
    value: str = request.headers.get("Authorization", "")
    return value.removeprefix("Bearer ") if value.startswith("Bearer ") else None
