"""What the hive as a whole answers, as the REST contract names it. Unknown fields are dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from agentzero_client.models import TaskStatus

HiveAction = Literal["pause", "resume", "drain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveControlResult:
    """What was asked of the hive and what is true; `running` counts the tasks that still run."""

    action: str
    state: str
    running: int
    version: int
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveNode:
    """A process that serves the hive."""

    node_id: str
    version: str
    address: str
    duties: Sequence[str]
    started_at: datetime
    seen_at: datetime
    alive: bool
    draining: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilityUse:
    """Agents that have one capability, counted by status."""

    capability: str
    agents: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepth:
    """Queued tasks of one set of capabilities and one priority."""

    required_capabilities: Sequence[str]
    priority: str
    tasks: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """Who carries out a duty; nobody when it is not `current`."""

    duty: str
    node_id: str
    term: int
    expires_at: datetime
    current: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveTopology:
    """Of what the hive is made."""

    state: str
    nodes: Sequence[HiveNode]
    agents: Mapping[str, int]
    capabilities: Sequence[CapabilityUse]
    queue: Sequence[QueueDepth]
    leaders: Sequence[Leader]
    time: datetime
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDiagnosis:
    """Why a task waits; one that runs or has ended has no cause."""

    task_id: str
    name: str
    status: TaskStatus
    version: int
    created_at: datetime
    waits: bool
    cause: str | None = None
    detail: str | None = None
    remedy: str | None = None
    required_capabilities: Sequence[str] = ()
    waiting_on: Sequence[str] = ()
    run_at: datetime | None = None
    concurrency_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenBack:
    """A lease that was taken from an agent: it is offline, or its drain is over."""

    task_id: str
    agent_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageReceipt:
    """A message waits for the agent until it expires."""

    message_id: str
    agent_id: str
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BroadcastResult:
    """How many agents were selected, how many have the message, how many mailboxes were full."""

    matched: int
    sent: int
    full: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentMessage:
    """A message as the agent reads it; `sender` is the principal that sent it."""

    message_id: str
    sender: str
    data: Any
    created_at: datetime
    expires_at: datetime
