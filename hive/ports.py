"""What the hive needs of the world, as guarantees. Adapters are in `storage/` and `server/`.

All methods raise `Unavailable` when the store does not answer in time; a write that raised it may
or may not have happened, and repeating it is safe.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from hive.agents import Agent, AgentStatus
from hive.api_key_ports import ApiKeys
from hive.artifacts import Artifacts
from hive.attempts import LateReport
from hive.audit_ports import AuditReader
from hive.batches import Batches
from hive.changes import Actor, Change
from hive.coordination_ports import Coordination
from hive.errors import UnknownField
from hive.events import Audience, Event
from hive.graphs import Graphs, Subtrees
from hive.identity_ports import Accounts
from hive.leases import LeaseProof
from hive.nodes import Nodes
from hive.schedule_ports import Scheduling
from hive.signing_ports import SigningKeys
from hive.system_settings import System
from hive.task_spec import TaskPriority
from hive.tasks import Task, TaskStatus
from hive.tickets import Tickets
from hive.token_keys import TokenKeys
from hive.user_ports import Sessions, Users

DecideTask = Callable[[Task], Change | None]
DecideAgent = Callable[[Agent], Change | None]


Label = tuple[str, str]
"""Key and value. A key has neither a dot nor a `$` in it."""


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks a list shows; None is any. All of `labels` have to be there."""

    status: TaskStatus | None = None
    priority: TaskPriority | None = None
    owner: str | None = None
    agent_id: str | None = None
    name: str | None = None
    labels: tuple[Label, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentFilter:
    """Which agents a list shows; None is any. All of `labels` have to be there."""

    status: AgentStatus | None = None
    agent_type: str | None = None
    capability: str | None = None
    labels: tuple[Label, ...] = ()


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a history shows. `pattern` is `*`, `task.*` or a type; None is any.

    Private events are shown as far as the audience sees them; by default, none of them.
    """

    pattern: str | None = None
    subject: str | None = None
    audience: Audience = field(default_factory=Audience)


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


class Holdings(Protocol):
    """Who works on what."""

    async def held_by(self, agent_id: str) -> Sequence[Task]:
        """The tasks that the agent has leases on, without free-form values."""


class Tasks(Holdings, Protocol):
    """The tasks.

    Every change is one atomic update of one document with its event, majority-committed.
    """

    async def insert(self, task_id: str, change: Change, actor: Actor) -> Task:
        """Add a task under the identifier, or give the one that is there."""

    async def get(self, task_id: str) -> Task:
        """Raise TaskNotFound when there is none."""

    async def statuses(self, task_ids: Sequence[str]) -> dict[str, TaskStatus]:
        """The statuses of those of the tasks that exist."""

    async def list(
        self, wanted: TaskFilter, *, after: str | None, limit: int, newest_first: bool = True
    ) -> Sequence[Task]:
        """By identifier, without free-form values, behind the identifier `after`."""

    async def change(self, task_id: str, decide: DecideTask, actor: Actor) -> Task:
        """Load, decide, save under the version that was loaded; again when another was faster.

        Gives the task after the change (or as it is, when `decide` gives None). What `decide`
        raises goes through. Raises TaskNotFound; WriteConflict after many vain attempts.
        """

    async def change_leased(
        self, proof: LeaseProof, decide: DecideTask, actor: Actor, *, agent_id: str | None
    ) -> Task:
        """As `change`, for the task that the lease belongs to or belonged to.

        Raises LeaseNotFound for a lease that never was, or that another agent than `agent_id` held
        (None: any).
        """

    async def keep_late_result(
        self, proof: LeaseProof, report: LateReport, actor: Actor, *, agent_id: str | None
    ) -> None:
        """Keep what was reported under a lease that was taken back from `agent_id` (None: any).

        Of a task the newest fence only; nothing is kept for a lease that ended in another way.
        """

    async def renew(self, proof: LeaseProof, seconds: float, *, agent_id: str | None) -> Task:
        """Extend a current lease. Raises LeaseLost, LeaseNotFound."""

    async def count_by_status(self) -> dict[str, int]:
        """How many tasks there are of each status."""


class OpenTasks(Protocol):
    """The tasks that have not ended, by their mark `open`."""

    async def count(self, owner: str, *, most: int) -> int:
        """How many tasks of the owner have not ended; it counts to `most` only."""

    async def find(self, owner: str, key: str) -> str | None:
        """The task of the owner that holds the deduplication key."""


class Submissions(Protocol):
    """New tasks, within the bounds of their owners."""

    async def submit(self, task_id: str, change: Change, actor: Actor) -> Task:
        """As `Tasks.insert`; gives the standing task where the submission asks for that.

        Raises TooManyTasks; DuplicateTask when another task holds the deduplication key.
        """

    def room(self, owner: str, tasks: int = 1) -> AbstractAsyncContextManager[None]:
        """Room for so many new tasks, which are there at the end of it, or not when it raises.

        Entering raises TooManyTasks.
        """


class TaskWaits(Protocol):
    """Who waits for tasks."""

    async def wait(self, task_id: str, *, seconds: float, seen: frozenset[int] | None) -> Task:
        """The task once it has ended, or is at none of the versions `seen` (None: any will do).

        After so many seconds, and when the node drains, as it is. Raises TaskNotFound.
        """


class TaskLogs(Protocol):
    """The log lines of tasks, numbered from 1 within a task."""

    async def append(
        self,
        proof: LeaseProof,
        lines: Sequence[Mapping[str, str]],
        actor: Actor,
        *,
        agent_id: str | None,
        seconds: float | None = None,
    ) -> Task:
        """Append lines (`level`, `message`) under a current lease; extend it when `seconds` say so.

        At most one event per task and second. Raises LeaseLost, LeaseNotFound.
        """

    async def read(self, task_id: str, *, after: int | None, limit: int) -> Sequence[LogLine]:
        """The last lines, or the first behind line number `after`; ascending."""

    async def dropped(self, task_id: str) -> int:
        """How many of the oldest lines are not kept any more."""


class Agents(Protocol):
    """The agents.

    Every change is one atomic update of one document with its event, majority-committed.
    """

    async def insert(self, agent_id: str, change: Change, actor: Actor) -> Agent:
        """Add an agent under the identifier, or give the one that is there. Raises NameTaken."""

    async def get(self, agent_id: str) -> Agent:
        """Raise AgentNotFound when there is none (a tombstone is none)."""

    async def list(
        self, wanted: AgentFilter, *, after: str | None, limit: int, newest_first: bool = False
    ) -> Sequence[Agent]:
        """By identifier; `after` is the last one of the page before."""

    async def change(self, agent_id: str, decide: DecideAgent, actor: Actor) -> Agent:
        """Load, decide, save, as `Tasks.change`. Raises AgentNotFound, NameTaken, WriteConflict."""

    async def heard_of(self, agent_id: str, *, controls_taken: int | None) -> Agent:
        """Note a sign of life (no event), and take the control requests up to that one away."""

    async def count_by_status(self) -> dict[str, int]:
        """How many agents there are of each status."""


class EventLog(Protocol):
    """The history: dense `seq`, strictly increasing, majority-committed."""

    async def read(
        self, wanted: EventFilter, *, after: int, limit: int, newest_first: bool = False
    ) -> Sequence[Event]:
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

    async def claim(self, agent_id: str, *, max_leases: int, wait_seconds: float) -> Sequence[Task]:
        """Up to `max_leases` leased tasks; waits so long for the first one.

        Never over the agent's slots.
        """


class Dependencies(Protocol):
    """Carries the end of tasks on to those that wait on them."""

    async def settle(self, task: Task) -> Task:
        """Tell a new task which of its dependencies have ended; the task after that."""


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
class ItemFields:
    """The members that the items of a list can have, in the contract's order, and always have."""

    known: tuple[str, ...]
    required: frozenset[str]

    def check(self, names: Sequence[str]) -> None:
        """Raise UnknownField for a name that is none of them."""
        for name in names:
            if name not in self.known:
                raise UnknownField(
                    f"The items of this list have no {name!r}. They have {', '.join(self.known)}."
                )


@dataclass(frozen=True, slots=True)
class Limits:
    """Periods that agents are told, in seconds."""

    lease_seconds: float
    agent_heartbeat_seconds: float


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a handler can reach, made by `server/bootstrap/`."""

    identity: Accounts
    api_keys: ApiKeys
    users: Users
    sessions: Sessions
    system: System
    tickets: Tickets
    token_keys: TokenKeys
    signing_keys: SigningKeys
    agents: Agents
    tasks: Tasks
    logs: TaskLogs
    artifacts: Artifacts
    events: EventLog
    audit: AuditReader
    submissions: Submissions
    task_waits: TaskWaits
    batches: Batches
    graphs: Graphs
    subtrees: Subtrees
    scheduling: Scheduling
    dispatcher: Dispatcher
    dependencies: Dependencies
    presence: Presence
    nodes: Nodes
    coordination: Coordination
    identifiers: Identifiers
    cursors: Cursors
    documents: Documents
    limits: Limits
    version: str
    readiness: Callable[[], Awaitable[Mapping[str, Any]]]
    item_fields: Mapping[str, ItemFields]
    """Of the lists, by operationId."""
