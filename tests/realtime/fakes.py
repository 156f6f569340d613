"""Ten-line adapters of the ports that the real-time side needs."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from hive.agents import Agent, AgentSpec, AgentStatus, DesiredState
from hive.changes import ABSENT
from hive.errors import AgentNotFound, InvalidToken, LeaseNotFound, LogTrimmed, Unavailable
from hive.events import Event
from hive.leases import TaskLease
from hive.permissions import ROLE_PERMISSIONS, Principal, Role
from hive.task_spec import TaskSpec
from hive.tasks import Task, TaskStatus

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
AGENT = "agt_1"


def principal(role: Role = Role.USER, **fields: Any) -> Principal:
    """A principal with all permissions of its role."""
    given = {
        "principal_id": f"usr_{role}",
        "name": role.value,
        "permissions": ROLE_PERMISSIONS[role],
    }
    return Principal(role=role, **given | fields)


PRINCIPALS = {
    "user": principal(session_id="ses_1"),
    "viewer": principal(Role.VIEWER),
    "admin": principal(Role.ADMIN, key_id="key_1"),
    "agent": principal(Role.AGENT, principal_id=AGENT, agent_id=AGENT, key_id="key_2"),
    "nobody": principal(permissions=frozenset()),
}


async def authenticate(credential: str, address: str | None = None) -> Principal:
    """Every principal's token is its name."""
    del address
    if credential == "unavailable":
        raise Unavailable
    if credential not in PRINCIPALS:
        raise InvalidToken
    return PRINCIPALS[credential]


async def redeem(credential: str, address: str | None = None) -> Principal:
    """Every principal's ticket is its name behind `azt_`; it may be used again."""
    if not credential.startswith("azt_"):
        raise InvalidToken
    return await authenticate(credential.removeprefix("azt_"), address)


def payload_of(frame: bytes) -> bytes:
    """The payload of a text frame of the server (RFC 6455, section 5.2)."""
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]


IDENTIFIERS = {
    "user": "user_id",
    "session": "session_id",
    "api_key": "key_id",
    "signing_key": "signing_key_id",
}


def event(
    seq: int, event_type: str = "task.created", *, private_to: str | None = None, **fields: Any
) -> Event:
    """An event with a summary as the contract has it; `private_to` is its hidden owner."""
    noun = event_type.partition(".")[0]
    subject = str(fields.get(f"{noun}_id", f"{noun}_{seq}")) if noun != "log" else "log"
    common = {"version": 1, "labels": {}, "created_at": NOW, "updated_at": NOW, "name": "x"}
    task: dict[str, Any] = {
        "task_id": subject,
        "priority": "medium",
        "status": "queued",
        "owner": "usr_user",
    }
    task |= {"attempt": 0, "max_attempts": 3, "dependencies": [], "required_capabilities": []}
    agent: dict[str, Any] = {
        "agent_id": subject,
        "agent_type": "worker",
        "capabilities": [],
        "slots": 1,
    }
    agent |= {"status": "idle", "desired_state": "active"}
    message = {"message_id": subject, "agent_id": "agt_1", "from": "usr_user", "expires_at": NOW}
    schedule: dict[str, Any] = {"schedule_id": subject, "owner": "usr_user", "status": "active"}
    schedule |= {"overlap": "skip", "catch_up_seconds": 60, "jitter_seconds": 0, "paused": False}
    schedule |= {"counts": {"made": 0, "skipped": 0, "missed": 0}}
    made = {"task": task, "agent": agent, "message": message, "schedule": schedule}
    made["hive"] = {"hive_id": "hive", "state": "paused"}
    data: dict[str, Any] = made[noun] | common if noun in made else {}
    if noun in IDENTIFIERS:
        data = {IDENTIFIERS[noun]: subject}
    return Event(seq, f"{subject}:{seq}", event_type, subject, NOW, data | fields, owner=private_to)


class FakeLog:
    """A log in memory whose oldest entries can be taken away."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.down = False
        self.reads = 0

    def append(self, event_type: str = "task.created", **fields: Any) -> Event:
        """Add an event behind the last."""
        last = self.events[-1].seq if self.events else 0
        self.events.append(event(last + 1, event_type, **fields))
        return self.events[-1]

    async def read(
        self, wanted: Any, *, after: int, limit: int, newest_first: bool = False
    ) -> list[Event]:
        """As the port says, ascending and unfiltered."""
        await asyncio.sleep(0)
        self.reads += 1
        if self.down:
            raise Unavailable
        if after and self.events and after + 1 < self.events[0].seq:
            raise LogTrimmed
        return [entry for entry in self.events if entry.seq > after][:limit]

    async def tail(self) -> int:
        """The newest seq."""
        return self.events[-1].seq if self.events else 0

    async def oldest(self) -> int:
        """The oldest seq."""
        return self.events[0].seq if self.events else 0

    async def recorder(self) -> str | None:
        """Nobody."""
        return None


class FakeIdentifiers:
    """Numbers."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def new(self, prefix: str) -> str:
        """The next one."""
        return f"{prefix}_{next(self._numbers)}"


class FakeAgents:
    """One agent."""

    def __init__(self) -> None:
        spec = AgentSpec(name="worker", slots=2)
        self.agent = Agent(
            AGENT, spec, AgentStatus.OFFLINE, DesiredState.ACTIVE, 1, NOW, NOW, online=False
        )
        self.heard = 0
        self.presence: list[bool | None] = []

    async def get(self, agent_id: str) -> Agent:
        """The agent."""
        if agent_id != AGENT:
            raise AgentNotFound
        return self.agent

    async def change(self, agent_id: str, decide: Any, actor: Any) -> Agent:
        """Apply what an announcement changes."""
        change = decide(await self.get(agent_id))
        if change is not None:
            spec: dict[str, Any] = {}
            if "capabilities" in change.fields:
                spec["capabilities"] = tuple(change.fields["capabilities"])
            if "slots" in change.fields:
                spec["slots"] = change.fields["slots"]
            version = change.fields.get("agent_version", self.agent.agent_version)
            self.agent = replace(
                self.agent,
                spec=replace(self.agent.spec, **spec),
                version=self.agent.version + 1,
                agent_version=None if version is ABSENT else version,
            )
        return self.agent

    async def heard_of(self, agent_id: str, *, controls_taken: int | None) -> Agent:
        """Count, and drop the controls that were taken."""
        self.heard += 1
        kept = (c for c in self.agent.controls if c.control_id > (controls_taken or 0))
        self.agent = replace(await self.get(agent_id), controls=tuple(kept))
        return self.agent

    async def refresh(self, agent_id: str, *, online: bool | None = None) -> Agent:
        """Note what is said of the connection."""
        self.presence.append(online)
        self.agent = replace(await self.get(agent_id), online=bool(online))
        return self.agent


@dataclass
class FakeTasks:
    """Tasks by lease; `gate` holds changes up. Also gives them out, as a dispatcher."""

    tasks: dict[str, Task] = field(default_factory=dict)
    queue: list[Task] = field(default_factory=list)
    queued: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    claims: list[int] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    order: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    def offer(self, number: int, **fields: Any) -> Task:
        """Queue a task; its lease is made at once, its name is its number's."""
        lease = TaskLease(f"lse_{number}", AGENT, number, 1, NOW)
        spec = fields.pop("spec", TaskSpec(name=f"task-{number}"))
        task = Task(
            f"tsk_{number}", spec, "usr_user", TaskStatus.RUNNING, 2, NOW, NOW,
            lease=lease, attempt=1, fence=1, agent_id=AGENT, **fields,
        )  # fmt: skip
        self.queue.append(task)
        self.queued.set()
        return task

    async def claim(self, agent_id: str, *, max_leases: int, wait_seconds: float) -> list[Task]:
        """As the port says."""
        self.claims.append(max_leases)
        try:
            async with asyncio.timeout(wait_seconds):
                await self.queued.wait()
        except TimeoutError:
            return []
        taken, self.queue = self.queue[:max_leases], self.queue[max_leases:]
        if not self.queue:
            self.queued.clear()
        self.tasks |= {task.lease.lease_id: task for task in taken if task.lease}
        return taken

    async def held_by(self, agent_id: str) -> Sequence[Task]:
        """Those with a lease."""
        return [task for task in self.tasks.values() if task.lease is not None]

    async def renew(self, proof: Any, seconds: float, *, agent_id: str | None) -> Task:
        """The task of the lease."""
        self.order.append("renew")
        return self._of(proof)

    async def change_leased(self, proof: Any, decide: Any, actor: Any, *, agent_id: Any) -> Task:
        """Decide, and apply the status and the end of the lease."""
        await self.gate.wait()
        task = self._of(proof)
        change = decide(task)
        if change is None:
            return task
        self.order.append(change.event)
        fields: dict[str, Any] = {"status": change.fields.get("status", task.status)}
        if change.fields.get("lease") is ABSENT:
            fields["lease"] = None
        if "result" in change.fields:
            fields["result"] = change.fields["result"]
        if change.event == "task.released":
            self.released.append(task.task_id)
        self.tasks[proof.lease_id] = changed = replace(task, version=task.version + 1, **fields)
        return changed

    def _of(self, proof: Any) -> Task:
        if proof.lease_id not in self.tasks:
            raise LeaseNotFound
        return self.tasks[proof.lease_id]
