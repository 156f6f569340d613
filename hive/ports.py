"""What the hive needs of the world, as guarantees. Adapters are in `storage/` and `server/`.

All methods raise `Unavailable` when the store does not answer in time; a write that raised it may or may not
have happened, and repeating it is safe.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from hive.agents import Agent, AgentStatus
from hive.changes import Actor, Change, Without
from hive.events import Event
from hive.identity_ports import Accounts
from hive.leases import LeaseProof, NewLease
from hive.task_spec import TaskPriority
from hive.tasks import Task, TaskStatus

DecideTask = Callable[[Task], Change | None]
DecideAgent = Callable[[Agent], Change | None]


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks a list shows; None is any."""

    status: TaskStatus | None = None
    priority: TaskPriority | None = None
    owner: str | None = None
    agent_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class AgentFilter:
    """Which agents a list shows; None is any."""

    status: AgentStatus | None = None
    agent_type: str | None = None


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a history shows. `pattern` is `*`, `task.*` or a type; None is any."""

    pattern: str | None = None
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a task's log; `line` counts from 1 within the task."""

    line: int
    time: datetime
    level: str
    message: str
    attempt: int


class Identifiers(Protocol):
    """Makes identifiers: TypeIDs, ordered by the time they are made."""

    def new(self, prefix: str) -> str:
        """A new identifier such as `tsk_01m7...`."""


class Tasks(Protocol):
    """The tasks. Every change is one atomic update of one document with its event, majority-committed."""

    async def insert(self, task_id: str, change: Change, actor: Actor) -> Task:
        """Add a task under the identifier."""

    async def get(self, task_id: str) -> Task:
        """Raise TaskNotFound when there is none."""

    async def statuses(self, task_ids: Sequence[str]) -> dict[str, TaskStatus]:
        """The statuses of those of the tasks that exist."""

    async def list(self, wanted: TaskFilter, *, after: str | None, limit: int) -> list[Task]:
        """Newest first, without free-form values; `after` is the last identifier of the page before."""

    async def change(self, task_id: str, decide: DecideTask, actor: Actor) -> Task:
        """Load, decide, save under the version that was loaded; again when another was faster.

        Gives the task after the change (or as it is, when `decide` gives None). What `decide` raises
        goes through. Raises TaskNotFound; WriteConflict after many vain attempts.
        """

    async def change_leased(
        self, proof: LeaseProof, decide: DecideTask, actor: Actor, *, agent_id: str | None
    ) -> Task:
        """As `change`, for the task that the lease belongs to or belonged to.

        Raises LeaseNotFound for a lease that never was, or that another agent than `agent_id` held (None: any).
        """

    async def claim(
        self, lease: NewLease, capability_keys: Sequence[str], change: Change, actor: Actor
    ) -> Task | None:
        """Lease the most urgent queued task of these keys; None when there is none.

        At most one claimer gets a task. Raises SlotTaken when the agent's slot is in use.
        """

    async def renew(self, proof: LeaseProof, seconds: float, *, agent_id: str | None) -> Task:
        """Extend a current lease. Raises LeaseLost, LeaseNotFound."""

    async def append_logs(
        self,
        proof: LeaseProof,
        lines: Sequence[Mapping[str, str]],
        actor: Actor,
        *,
        agent_id: str | None,
    ) -> Task:
        """Append lines under a current lease. Raises LeaseLost, LeaseNotFound."""

    async def read_logs(self, task_id: str, *, after: int | None, limit: int) -> list[LogLine]:
        """The last lines, or the first behind line number `after`; ascending."""

    async def queued_keys(self) -> list[str]:
        """The capability keys under which something is queued."""

    async def held_by(self, agent_id: str) -> list[Task]:
        """The tasks that the agent has leases on, without free-form values."""

    async def count_by_status(self) -> dict[str, int]:
        """How many tasks there are of each status."""

    # What the duties ask.

    async def ids_with_release_pending(self, *, limit: int) -> list[tuple[str, TaskStatus]]:
        """Ended tasks whose dependents may not have been told."""

    async def released(self, task_ids: Sequence[str]) -> None:
        """Note that the dependents of these tasks have been told. Idempotent."""

    async def dependents_of(self, task_id: str, *, after: str | None, limit: int) -> list[Task]:
        """Tasks that wait on the task, by identifier."""

    async def drop_dependency(self, task_id: str, mark: Without) -> Task | None:
        """Take one dependency off the list of a task. Idempotent; no event."""

    async def ids_unblocked(self, *, limit: int) -> list[str]:
        """Blocked tasks that wait on nothing any more."""

    async def ids_due(self, *, limit: int) -> list[str]:
        """Scheduled tasks whose `run_at` has come."""

    async def ids_expired(self, *, limit: int) -> list[str]:
        """Running tasks whose lease is over, by the database's clock."""

    async def ids_unobedient(self, grace_seconds: float, *, limit: int) -> list[str]:
        """Running tasks whose cancellation was asked longer ago than the grace period."""

    async def ids_timed_out(self, *, limit: int) -> list[tuple[str, str]]:
        """Tasks over one of their timeouts: identifier and `queue`, `execution` or `total`."""

    async def expire(self, task_id: str, decide: DecideTask, actor: Actor) -> Task | None:
        """As `change`, only while the lease is over by the database's clock; None otherwise."""

    async def announce_logs(self, actor: Actor) -> None:
        """Make the `task.log` events that were held back, of tasks whose second is over."""


class Agents(Protocol):
    """The agents. Every change is one atomic update of one document with its event, majority-committed."""

    async def insert(self, agent_id: str, change: Change, actor: Actor) -> Agent:
        """Add an agent. Raises NameTaken."""

    async def get(self, agent_id: str) -> Agent:
        """Raise AgentNotFound when there is none (a tombstone is none)."""

    async def list(self, wanted: AgentFilter, *, after: str | None, limit: int) -> list[Agent]:
        """Oldest first; `after` is the last identifier of the page before."""

    async def change(self, agent_id: str, decide: DecideAgent, actor: Actor) -> Agent:
        """Load, decide, save, as `Tasks.change`. Raises AgentNotFound, NameTaken, WriteConflict."""

    async def heard_of(self, agent_id: str, *, controls_taken: int | None) -> Agent:
        """Note a sign of life (no event), and take the control requests up to that one away."""

    async def ids_silent(self, timeout_seconds: float, *, limit: int) -> list[str]:
        """Agents that count as online and were not heard of for so long."""

    async def ids(self) -> list[str]:
        """All agents."""

    async def count_by_status(self) -> dict[str, int]:
        """How many agents there are of each status."""


class EventLog(Protocol):
    """The history: dense `seq`, strictly increasing, majority-committed."""

    async def read(
        self, wanted: EventFilter, *, after: int, limit: int, newest_first: bool = False
    ) -> list[Event]:
        """Events behind `after` ascending, or before it descending (0: from the newest).

        Raises LogTrimmed, ascending only, when events behind `after` (greater than 0) are gone.
        """

    async def tail(self) -> int:
        """The newest `seq`, 0 when there is none."""

    async def oldest(self) -> int:
        """The oldest `seq` that is kept, 0 when there is none."""

    async def recorder(self) -> str | None:
        """The node that writes the log now."""


class Dispatcher(Protocol):
    """Gives queued tasks to agents that ask, the most urgent first."""

    async def claim(self, agent_id: str, *, max_leases: int, wait_seconds: float) -> list[Task]:
        """Up to `max_leases` leased tasks; waits so long for the first one. Never over the agent's slots."""


class Presence(Protocol):
    """Keeps the status of agents true."""

    async def refresh(self, agent_id: str, *, online: bool | None = None) -> Agent:
        """Work the status out again; `online` says what is newly known of the connection."""


class Cursors(Protocol):
    """Opaque, signed positions in lists."""

    def encode(self, operation: str, position: str) -> str:
        """A cursor that only this operation accepts."""

    def decode(self, operation: str, cursor: str) -> str:
        """Raise Invalid when the cursor is not ours."""


class Documents(Protocol):
    """The contracts that this server keeps, as bytes."""

    def read(self, name: str) -> bytes:
        """One of `openapi.yaml`, `openapi.json`, `asyncapi.yaml`, `asyncapi.json`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Periods that agents are told, in seconds."""

    lease_seconds: float
    agent_heartbeat_seconds: float


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a handler can reach, made by `server/bootstrap.py`."""

    identity: Accounts
    agents: Agents
    tasks: Tasks
    events: EventLog
    dispatcher: Dispatcher
    presence: Presence
    identifiers: Identifiers
    cursors: Cursors
    documents: Documents
    limits: Limits
    version: str
    readiness: Callable[[], Awaitable[Mapping[str, Any]]]
