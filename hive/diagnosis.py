"""Why a task waits: one cause for each, of a look at the hive as it is at that moment.

The causes are looked at in the order of `Cause`, and the first that holds is told: what has to end
before the others matter. All of it is pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from hive.coordination import HiveControl
from hive.task_spec import TaskSpec
from hive.tasks import Task, TaskStatus


class Cause(StrEnum):
    """What keeps a task from being run."""

    RUN_AT = "run-at"
    BACKOFF = "backoff"
    DEPENDENCY = "dependency"
    HIVE_PAUSED = "hive-paused"
    NO_CAPABLE_AGENT = "no-capable-agent"
    CAPABLE_AGENTS_OFFLINE = "capable-agents-offline"
    CAPABLE_AGENTS_PAUSED = "capable-agents-paused"
    CONCURRENCY_LIMIT = "concurrency-limit"
    NO_FREE_SLOT = "no-free-slot"
    NOT_CLAIMED = "not-claimed"


CAUSES: Final[Mapping[Cause, tuple[str, str]]] = {
    Cause.RUN_AT: ("It is scheduled for later.", "Wait until `run_at`."),
    Cause.BACKOFF: ("An attempt failed, and the next one waits.", "Wait until `run_at`."),
    Cause.DEPENDENCY: (
        "Tasks that it depends on have not ended.",
        "Look at the tasks in `waiting_on`.",
    ),
    Cause.HIVE_PAUSED: ("The hive is paused or draining.", "Resume the hive."),
    Cause.NO_CAPABLE_AGENT: (
        "No registered agent has the capabilities and labels that it requires.",
        "Register such an agent, or mend the requirement.",
    ),
    Cause.CAPABLE_AGENTS_OFFLINE: (
        "Every agent that could run it is offline.",
        "Start one of them.",
    ),
    Cause.CAPABLE_AGENTS_PAUSED: (
        "Every agent that could run it and is there is paused or draining.",
        "Resume one of them.",
    ),
    Cause.CONCURRENCY_LIMIT: (
        "As many tasks of its concurrency key run as may.",
        "Wait until one of them ends.",
    ),
    Cause.NO_FREE_SLOT: (
        "Every agent that could run it now has all of its slots in use.",
        "Wait, or add slots or agents.",
    ),
    Cause.NOT_CLAIMED: (
        "An agent could take it, and none has asked for it yet.",
        "Usually over at once; otherwise look whether the agents still ask for work.",
    ),
}
"""What each cause means, and what to do about it."""

DEPENDENCIES_SHOWN: Final = 100


@dataclass(frozen=True, slots=True)
class AgentOutlook:
    """What a task can expect of an agent, or of several that are alike."""

    capabilities: frozenset[str]
    labels: Mapping[str, str] = field(default_factory=dict)
    online: bool = True
    takes_work: bool = True
    free_slots: int = 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The hive at one moment. `key_slots` are the slots in use of each concurrency key."""

    hive: HiveControl = field(default_factory=HiveControl)
    agents: Sequence[AgentOutlook] = ()
    key_slots: Mapping[str, frozenset[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why one task waits, with what the cause is about."""

    cause: Cause
    waiting_on: tuple[str, ...] = ()
    run_at: datetime | None = None
    concurrency_key: str | None = None

    @property
    def detail(self) -> str:
        """A sentence for people."""
        return CAUSES[self.cause][0]


def diagnose(task: Task, snapshot: Snapshot) -> Diagnosis | None:
    """Why the task waits; None for one that runs or has ended."""
    if task.status is TaskStatus.SCHEDULED:
        cause = Cause.BACKOFF if task.error is not None else Cause.RUN_AT
        return Diagnosis(cause, run_at=task.run_at)
    if task.status is TaskStatus.BLOCKED:
        return Diagnosis(Cause.DEPENDENCY, waiting_on=task.waiting_on[:DEPENDENCIES_SHOWN])
    if task.status is not TaskStatus.QUEUED:
        return None
    cause = _cause_in_queue(task.spec, snapshot)
    if cause is Cause.CONCURRENCY_LIMIT and task.spec.concurrency is not None:
        return Diagnosis(cause, concurrency_key=task.spec.concurrency.key)
    return Diagnosis(cause)


def _cause_in_queue(spec: TaskSpec, snapshot: Snapshot) -> Cause:
    capable = [agent for agent in snapshot.agents if _is_capable(agent, spec)]
    present = [agent for agent in capable if agent.online]
    active = [agent for agent in present if agent.takes_work]
    holds = {
        Cause.HIVE_PAUSED: not snapshot.hive.grants,
        Cause.NO_CAPABLE_AGENT: not capable,
        Cause.CAPABLE_AGENTS_OFFLINE: not present,
        Cause.CAPABLE_AGENTS_PAUSED: not active,
        Cause.CONCURRENCY_LIMIT: _is_at_limit(spec, snapshot),
        Cause.NO_FREE_SLOT: not any(agent.free_slots > 0 for agent in active),
    }
    return next((cause for cause, is_so in holds.items() if is_so), Cause.NOT_CLAIMED)


def _is_capable(agent: AgentOutlook, spec: TaskSpec) -> bool:
    if not agent.capabilities.issuperset(spec.required_capabilities):
        return False
    required = spec.agent_labels.required if spec.agent_labels else {}
    return all(agent.labels.get(key) == value for key, value in required.items())


def _is_at_limit(spec: TaskSpec, snapshot: Snapshot) -> bool:
    if spec.concurrency is None:
        return False
    used = snapshot.key_slots.get(spec.concurrency.key, frozenset())
    return used.issuperset(range(1, spec.concurrency.limit + 1))
