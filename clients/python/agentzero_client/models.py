"""What the REST contract's schemas look like in Python. Times are aware datetimes; absent is None.

A status that a newer server invents arrives as it is: the literal types are for the type checker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from agentzero_client.access_models import (  # noqa: F401 - programs of 1.0 import them from here.
    ApiKey,
    ApiKeyCreated,
    ApiKeyStatus,
    Me,
    PasswordReset,
    RevokedSessions,
    Session,
    Tokens,
    User,
    UserRole,
)

TaskStatus = Literal[
    "scheduled", "blocked", "queued", "running", "completed", "failed", "cancelled"
]
TaskPriority = Literal["low", "medium", "high", "critical"]
DependencyPolicy = Literal["fail", "skip-me", "run"]
RetriesEnded = Literal["attempts-used", "not-retryable", "budget-used", "timed-out"]
AgentStatus = Literal["idle", "busy", "paused", "draining", "offline"]
DesiredState = Literal["active", "paused", "draining"]
AgentAction = Literal["pause", "resume", "restart", "drain", "stop"]
LogLevel = Literal["debug", "info", "warning", "error"]

ENDED: Final = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a task is: `fraction` from 0 to 1."""

    fraction: float
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailure:
    """Why a task, or its last attempt, ended without success."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long the hive waits before the next attempt. Seconds."""

    kind: Literal["fixed", "linear", "exponential"]
    base_seconds: float | None = None
    max_seconds: float | None = None
    jitter: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Limits in seconds: until started, of one attempt, from submission to the end, of silence."""

    queue_seconds: float | None = None
    execution_seconds: float | None = None
    total_seconds: float | None = None
    heartbeat_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Concurrency:
    """At most `limit` tasks of one key run at once in the whole hive."""

    key: str
    limit: int
    strategy: Literal["queue", "cancel-oldest", "cancel-newest"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fairness:
    """Tasks of different keys take turns, in proportion to their weights."""

    key: str
    weight: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLabels:
    """Labels that the agent has to have, and labels that give agents a head start."""

    required: Mapping[str, str] = field(default_factory=dict)
    preferred: Mapping[str, str] = field(default_factory=dict)
    head_start_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sticky:
    """A head start for the agent that ran `task_id`, or the task's own last attempt."""

    task_id: str | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deduplication:
    """Among the tasks of one owner that have not ended, a key stands once."""

    key: str
    on_duplicate: Literal["reject", "return-existing"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReceipt:
    """What became of a task by an operation; a `duplicate` was there before."""

    task_id: str
    status: TaskStatus
    cancel_requested: bool = False
    duplicate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSummary:
    """A task without its free-form values: what lists and events tell."""

    task_id: str
    name: str
    priority: TaskPriority
    status: TaskStatus
    owner: str
    attempt: int
    max_attempts: int
    dependencies: list[str]
    required_capabilities: list[str]
    labels: Mapping[str, str]
    version: int
    created_at: datetime
    updated_at: datetime
    description: str | None = None
    agent_id: str | None = None
    dependency_count: int | None = None
    waiting_on: list[str] = field(default_factory=list)
    agent_labels: AgentLabels | None = None
    sticky: Sticky | None = None
    on_dependency_failure: DependencyPolicy | None = None
    progress: Progress | None = None
    error: TaskFailure | None = None
    retries_ended: RetriesEnded | None = None
    reason: str | None = None
    cancel_requested: bool = False
    log_count: int = 0
    artifact_count: int = 0
    run_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def has_ended(self) -> bool:
        """Completed, failed or cancelled."""
        return self.status in ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBy:
    """Who works on a task; the lease's identifier is known to its holder only."""

    agent_id: str
    fence: int
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LateResult:
    """What an agent reported under a lease that was taken back: it counts for nothing.

    `result_bytes` is the size of a result that was too large to keep.
    """

    attempt: int
    agent_id: str
    fence: int
    status: Literal["completed", "failed"]
    time: datetime
    result: Any = None
    result_bytes: int | None = None
    error: TaskFailure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file that an agent handed over with its task. `size` is in bytes, `sha256` hexadecimal."""

    name: str
    size: int
    content_type: str
    sha256: str
    attempt: int
    created_at: datetime
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(TaskSummary):
    """One task with its free-form values."""

    parameters: Any = None
    result: Any = None
    late_result: LateResult | None = None
    artifacts: list[Artifact] = field(default_factory=list)
    backoff: Backoff | None = None
    non_retryable: list[str] = field(default_factory=list)
    retry_seconds: float | None = None
    timeouts: Timeouts | None = None
    concurrency: Concurrency | None = None
    fairness: Fairness | None = None
    deduplication: Deduplication | None = None
    lease: HeldBy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of a task's log; `line` counts from 1."""

    line: int
    time: datetime
    level: LogLevel
    message: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """A registered agent."""

    agent_id: str
    name: str
    agent_type: str
    capabilities: list[str]
    slots: int
    labels: Mapping[str, str]
    status: AgentStatus
    desired_state: DesiredState
    version: int
    created_at: datetime
    updated_at: datetime
    agent_version: str | None = None
    last_heartbeat_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRegistered(Agent):
    """An agent just registered, with its own API key: it is shown once."""

    api_key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLease:
    """A lease that an agent holds; `lease_id` is shown to the agent itself and to admins only."""

    task_id: str
    fence: int
    expires_at: datetime
    lease_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentDetail(Agent):
    """One agent with its current leases."""

    leases: list[HeldLease]


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlRequest:
    """A request to the process of an agent that is not yet taken."""

    control_id: int
    action: AgentAction
    requested_at: datetime
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentControlResult:
    """What was asked of an agent and what is true."""

    agent_id: str
    action: AgentAction
    desired_state: DesiredState
    status: AgentStatus
    control: ControlRequest | None = None
    drain_deadline: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatReply:
    """What the hive wants of an agent. Periods in seconds."""

    agent_id: str
    status: AgentStatus
    desired_state: DesiredState
    heartbeat_seconds: float
    lease_seconds: float
    controls: list[ControlRequest]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedTask:
    """What an agent needs to run a task."""

    task_id: str
    name: str
    priority: TaskPriority
    dependencies: list[str]
    required_capabilities: list[str]
    attempt: int
    max_attempts: int
    labels: Mapping[str, str]
    description: str | None = None
    parameters: Any = None
    heartbeat_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to work on a task until `expires_at`; `fence` grows strictly per task."""

    lease_id: str = field(repr=False)
    fence: int
    expires_at: datetime
    task: LeasedTask


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseCompleted(TaskReceipt):
    """What became of the task; `next` is the agent's next lease when it asked for one."""

    next: Lease | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseState:
    """A lease after a renewal. `cancel_requested` asks the agent to stop."""

    lease_id: str = field(repr=False)
    fence: int
    expires_at: datetime
    cancel_requested: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAppended:
    """`log_count` is the number of lines that the task has now."""

    task_id: str
    log_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLogStatus:
    """Where the event log stands."""

    seq: str
    recorder: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveStatus:
    """Agents and tasks counted by status; leases are granted in the state `running` only."""

    agents: Mapping[str, int]
    tasks: Mapping[str, int]
    event_log: EventLogStatus
    time: datetime
    state: str = "running"
    reason: str | None = None
