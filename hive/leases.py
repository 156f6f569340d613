"""The right to work on a task: limited in time, fenced, and held by one agent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class TaskLease:
    """A lease as the task carries it.

    `slot` is the number of the agent's slot that it takes; `key` and `key_slot` the concurrency
    key and its slot, where the task has one.
    """

    lease_id: str
    agent_id: str
    slot: int
    fence: int
    expires_at: datetime
    key: str | None = None
    key_slot: int | None = None


@dataclass(frozen=True, slots=True)
class LeaseProof:
    """What an agent shows with every report: the lease and the fence it was granted with."""

    lease_id: str
    fence: int


@dataclass(frozen=True, slots=True)
class NewLease:
    """What a claim puts into the task, for `seconds` from the database's now.

    `labels` are the words of the agent's labels (`hive.matching`): some tasks prefer them.
    """

    lease_id: str
    agent_id: str
    slot: int
    seconds: float
    key: str | None = None
    key_slot: int | None = None
    labels: tuple[str, ...] = ()
