"""A small hive that keeps the contracts: real HTTP and WebSockets on loopback, all in memory.

Tests set it up, break it and look into it. What either side says against a contract ends up in
`violations`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import tornado.httpserver
import tornado.netutil
import tornado.web

from tests.client.contracts import contracts

TIME = "2026-11-21T09:00:00.000Z"
ENDED = ("completed", "failed", "cancelled")
HOST = "127.0.0.1"


@dataclass
class Trouble:
    """Answers a matching request with a problem, `times` times."""

    method: str
    pattern: str
    status: int
    code: str = "trouble"
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    acts: bool = False


@dataclass
class HeldLease:
    """A lease that the fake granted."""

    lease_id: str
    fence: int
    task_id: str
    expires_at: float


class Refusal(Exception):  # It is an answer.
    """A problem to answer with."""

    def __init__(self, status: int, code: str, detail: str = "") -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail or code


class FakeHive:
    """The state of the fake. All of it on the event loop of the test."""

    def __init__(self) -> None:
        self.port = 0
        self.violations: list[str] = []
        self.requests: list[tuple[str, str, Any]] = []
        self.frames: list[dict[str, Any]] = []
        self.tasks: dict[str, dict[str, Any]] = {}
        self.agents: dict[str, dict[str, Any]] = {}
        self.api_keys: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, list[dict[str, Any]]] = {}
        self.events: list[dict[str, Any]] = []
        self.leases: dict[str, HeldLease] = {}
        self.ended_by: dict[str, tuple[str, int, str]] = {}
        self.controls: list[dict[str, Any]] = []
        self.tokens = {"admin-key"}
        self.agent_keys: dict[str, str] = {}
        self.refresh_tokens: set[str] = set()
        self.password = "secret"
        self.expires_in = 3600
        self.lease_seconds = 30.0
        self.heartbeat_seconds = 15.0
        self.page_size = 50
        self.trimmed_up_to = 0
        self.blocks_sockets = False
        self.repeats_events = 0
        self.swallows: set[str] = set()
        self.pushes = True
        self.troubles: list[Trouble] = []
        self.answers: dict[str, tuple[str, Any]] = {}
        self.keys: list[str | None] = []
        self.drops = 0
        self.links: dict[str, Any] = {}
        self.watchers: set[Any] = set()
        self.changed = asyncio.Condition()
        self._server: tornado.httpserver.HTTPServer | None = None
        self._numbers = itertools.count(1)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self.port}"

    async def start(self) -> None:
        """Listen; after a stop on the same port."""
        from tests.client.fake_sockets import make_app  # noqa: PLC0415  # It names our types.

        sockets = tornado.netutil.bind_sockets(self.port, HOST)
        self.port = sockets[0].getsockname()[1]
        self._server = tornado.httpserver.HTTPServer(make_app(self))
        self._server.add_sockets(sockets)

    async def stop(self) -> None:
        """Break every connection and listen no longer."""
        if self._server is None:
            return
        self._server.stop()
        self.abort_links()
        self.abort_watchers()
        await self._server.close_all_connections()
        self._server = None

    async def until(self, condition: Any, seconds: float = 30.0) -> Any:
        """Wait until the condition holds and give what it gives; fail the test when it does not."""
        found = None
        async with asyncio.timeout(seconds), self.changed:
            while not (found := condition()):
                await self.changed.wait()
        return found

    def notify(self) -> None:
        """Something changed."""

        async def tell() -> None:
            async with self.changed:
                self.changed.notify_all()

        asyncio.ensure_future(tell())  # noqa: RUF006  # It ends at once.

    def judge(self, fault: str | None) -> None:
        """Remember a violation."""
        if fault is not None:
            self.violations.append(fault)

    # Tasks and leases

    def add_task(self, name: str, **members: Any) -> str:
        """Queue a task, and push it where there is room."""
        task_id = f"tsk_{next(self._numbers)}"
        self.tasks[task_id] = {
            "task_id": task_id,
            "name": name,
            "priority": "medium",
            "status": "queued",
            "owner": "usr_1",
            "attempt": 0,
            "max_attempts": 3,
            "dependencies": [],
            "required_capabilities": [],
            "labels": {},
            "version": 1,
            "created_at": TIME,
            "updated_at": TIME,
            **members,
        }
        self.logs[task_id] = []
        self.emit("task.created", task_id)
        self.push()
        return task_id

    def move(self, task_id: str, event: str, **members: Any) -> None:
        """Change a task and tell."""
        task = self.tasks[task_id]
        task.update(members)
        task["version"] += 1
        self.emit(event, task_id)

    def grant(self, task_id: str) -> dict[str, Any]:
        """Lease a task."""
        task = self.tasks[task_id]
        fence = task.setdefault("fence_", 0) + 1
        task["fence_"] = fence
        lease_id = f"lse_{next(self._numbers)}"
        now = asyncio.get_running_loop().time()
        self.leases[lease_id] = HeldLease(lease_id, fence, task_id, now + self.lease_seconds)
        self.move(task_id, "task.started", status="running", attempt=task["attempt"] + 1)
        names = ("task_id", "name", "priority", "dependencies", "required_capabilities", "attempt")
        shown = {name: task[name] for name in (*names, "max_attempts", "labels")}
        if "parameters" in task:
            shown["parameters"] = task["parameters"]
        if "heartbeat_seconds" in task.get("timeouts", {}):
            shown["heartbeat_seconds"] = task["timeouts"]["heartbeat_seconds"]
        return {"lease_id": lease_id, "fence": fence, "expires_at": TIME, "task": shown}

    def push(self) -> None:
        """Assign queued tasks to links with room."""
        if not self.pushes:
            return
        for link in list(self.links.values()):
            for task_id, task in self.tasks.items():
                if task["status"] == "queued" and link.room() > 0:
                    link.assign(self.grant(task_id))

    def expire(self, task_id: str, *, tell: bool = False) -> None:
        """Take the lease of a task back."""
        lease = next(lease for lease in self.leases.values() if lease.task_id == task_id)
        del self.leases[lease.lease_id]
        self.move(task_id, "task.retrying", status="queued")
        if tell:
            for link in self.links.values():
                link.drop(lease.lease_id, tell=True)

    def cancel(self, task_id: str) -> dict[str, Any]:
        """Cancel a task, asking its agent when it runs."""
        task = self.tasks[task_id]
        if task["status"] in ENDED:
            raise Refusal(409, "illegal-transition")
        if task["status"] != "running":
            self.move(task_id, "task.cancelled", status="cancelled")
        else:
            self.move(task_id, "task.cancelling", cancel_requested=True)
            for lease in self.leases.values():
                if lease.task_id == task_id:
                    for link in self.links.values():
                        link.tell(
                            {"type": "cancel", "lease_id": lease.lease_id, "reason": "requested"}
                        )
        return {"message": "Task cancelled", "result": self.receipt(task_id)}

    def retry(self, task_id: str) -> dict[str, Any]:
        """Queue a failed task again."""
        if self.tasks[task_id]["status"] != "failed":
            raise Refusal(409, "illegal-transition")
        self.move(task_id, "task.queued", status="queued", reason="retried")
        return self.receipt(task_id)

    def receipt(self, task_id: str) -> dict[str, Any]:
        """What became of a task."""
        return {"task_id": task_id, "status": self.tasks[task_id]["status"]}

    def report(self, lease_id: str, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        """Carry a report out."""
        lease = self.leases.get(lease_id)
        if lease is None or lease.fence != body["fence"]:
            ended = self.ended_by.get(lease_id)
            if ended is not None and ended[1:] == (body["fence"], verb):
                return self.receipt(ended[0]) | self.following(body)
            raise Refusal(409, "lease-lost")
        task = self.tasks[lease.task_id]
        if verb == "renew":
            lease.expires_at = asyncio.get_running_loop().time() + self.lease_seconds
            if "progress" in body:
                self.move(lease.task_id, "task.progress", progress=body["progress"])
            return {
                "lease_id": lease_id,
                "fence": lease.fence,
                "expires_at": TIME,
                "cancel_requested": bool(task.get("cancel_requested")),
            }
        if verb == "logs":
            return self.append_logs(lease.task_id, body["lines"])
        return self.end(lease, verb, body)

    def append_logs(self, task_id: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        """Keep log lines."""
        for line in lines:
            number = len(self.logs[task_id]) + 1
            kept = {"level": "info", **line, "line": number, "time": TIME, "attempt": 1}
            self.logs[task_id].append(kept)
        self.emit("task.log", task_id)
        return {"task_id": task_id, "log_count": len(self.logs[task_id])}

    def end(self, lease: HeldLease, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        """End a lease by a report."""
        lease_id, task = lease.lease_id, self.tasks[lease.task_id]
        del self.leases[lease_id]
        self.ended_by[lease_id] = (lease.task_id, lease.fence, verb)
        if verb == "complete":
            result = {"result": body["result"]} if "result" in body else {}
            self.move(lease.task_id, "task.completed", status="completed", **result)
        elif task.get("cancel_requested"):
            self.move(lease.task_id, "task.cancelled", status="cancelled")
        elif verb == "fail":
            error = {name: body["error"][name] for name in ("code", "message")}
            task["retryable_"] = body["error"].get("retryable", True)
            self.move(lease.task_id, "task.failed", status="failed", error=error)
        else:
            task["release_reason_"] = body.get("reason")
            self.move(lease.task_id, "task.released", status="queued", attempt=task["attempt"] - 1)
        for link in self.links.values():
            link.drop(lease_id)
        return self.receipt(lease.task_id) | self.following(body)

    def following(self, body: dict[str, Any]) -> dict[str, Any]:
        """The next lease, when a completion asks for it and something is queued."""
        queued = (task_id for task_id, task in self.tasks.items() if task["status"] == "queued")
        if not body.get("claim_next") or (task_id := next(queued, None)) is None:
            return {}
        return {"next": self.grant(task_id)}

    # Agents

    def add_agent(self, name: str, **members: Any) -> tuple[str, str]:
        """Register; give identifier and key. Raise Refusal for a name that is taken."""
        if any(agent["name"] == name for agent in self.agents.values()):
            raise Refusal(409, "name-taken")
        agent_id = f"agt_{next(self._numbers)}"
        key = f"azk_{agent_id}_0123456789abcdef"
        self.agents[agent_id] = {
            "agent_id": agent_id,
            "name": name,
            "agent_type": "generic",
            "capabilities": [],
            "slots": 1,
            "labels": {},
            "status": "idle",
            "desired_state": "active",
            "version": 1,
            "created_at": TIME,
            "updated_at": TIME,
            **members,
        }
        self.agent_keys[key] = agent_id
        self.tokens.add(key)
        return agent_id, key

    def control(self, action: str) -> None:
        """Ask the agents' processes."""
        control = {"control_id": next(self._numbers), "action": action, "requested_at": TIME}
        self.controls.append(control)
        for link in self.links.values():
            shown = {"control_id": control["control_id"], "action": action}
            link.tell({"type": "control", **shown})

    def heartbeat(self, agent_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """Take a sign of life."""
        taken = body.get("controls_taken", 0)
        self.controls = [c for c in self.controls if c["control_id"] > taken]
        return {
            "agent_id": agent_id,
            "status": "idle",
            "desired_state": "active",
            "heartbeat_seconds": self.heartbeat_seconds,
            "lease_seconds": self.lease_seconds,
            "controls": self.controls,
        }

    # Events

    def emit(self, kind: str, subject: str, **data: Any) -> dict[str, Any]:
        """Append to the log and tell the watchers."""
        resource = self.tasks.get(subject) or self.agents.get(subject) or {}
        public = ("result", "parameters")
        shown = {k: v for k, v in resource.items() if k not in public and not k.endswith("_")}
        event = {
            "specversion": "1.0",
            "id": f"{subject}:{len(self.events) + 1}",
            "source": f"/api/v1/tasks/{subject}",
            "type": kind,
            "subject": subject,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "seq": str(len(self.events) + 1),
            "data": {**shown, **data},
        }
        self.events.append(event)
        for watcher in list(self.watchers):
            watcher.deliver(event)
        self.notify()
        return event

    def abort_links(self) -> None:
        """Cut the agents off without a close frame."""
        for link in list(self.links.values()):
            link.abort()

    def abort_watchers(self) -> None:
        """Cut the watchers off without a close frame."""
        for watcher in list(self.watchers):
            watcher.abort()

    def trouble(self, method: str, path: str) -> Trouble | None:
        """Give the trouble that is due for this request."""
        for trouble in self.troubles:
            if trouble.times and trouble.method == method and re.search(trouble.pattern, path):
                trouble.times -= 1
                return trouble
        return None

    def check_frame(self, frame: dict[str, Any]) -> None:
        """Judge a frame of either side."""
        self.judge(contracts().frame(frame))


def problem(status: int, code: str, detail: str, path: str) -> bytes:
    """An RFC 9457 problem."""
    body = {
        "type": "about:blank",
        "title": code,
        "status": status,
        "detail": detail,
        "instance": path,
        "code": code,
    }
    return json.dumps(body).encode()
