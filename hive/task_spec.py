"""What somebody asks for when they submit a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from hive.errors import Invalid
from hive.raw_json import RawJson


class TaskPriority(StrEnum):
    """How urgent a task is; `PRIORITY_RANKS` orders them."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class DependencyPolicy(StrEnum):
    """What becomes of a task when a dependency fails or is cancelled."""

    FAIL = "fail"
    SKIP_ME = "skip-me"
    RUN = "run"


class BackoffKind(StrEnum):
    """How the delay grows with the attempts."""

    FIXED = "fixed"
    LINEAR = "linear"
    EXPONENTIAL = "exponential"


PRIORITY_RANKS: Final[Mapping[TaskPriority, int]] = {
    priority: rank for rank, priority in enumerate(TaskPriority)
}


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delay before the next attempt, in seconds. `jitter` is the share of it that is random."""

    kind: BackoffKind = BackoffKind.EXPONENTIAL
    base_seconds: float = 1.0
    max_seconds: float = 300.0
    jitter: float = 0.1

    def delay_seconds(self, attempt: int, chance: float) -> float:
        """The delay after attempt `attempt` (from 1); `chance` is random, in [0, 1)."""
        if self.kind is BackoffKind.FIXED:
            grown = self.base_seconds
        elif self.kind is BackoffKind.LINEAR:
            grown = self.base_seconds * attempt
        else:
            grown = self.base_seconds * 2.0 ** min(attempt - 1, 30)
        return min(grown, self.max_seconds) * (1.0 - self.jitter * chance)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits in seconds; None is no limit. `heartbeat_seconds`: how long an agent is silent."""

    queue_seconds: float | None = None
    execution_seconds: float | None = None
    total_seconds: float | None = None
    heartbeat_seconds: float | None = None


class ConcurrencyStrategy(StrEnum):
    """What becomes of tasks over the limit of their concurrency key."""

    QUEUE = "queue"
    CANCEL_OLDEST = "cancel-oldest"
    CANCEL_NEWEST = "cancel-newest"


@dataclass(frozen=True, slots=True)
class Concurrency:
    """At most `limit` tasks of the same key run at once, in the whole hive."""

    key: str
    limit: int
    strategy: ConcurrencyStrategy = ConcurrencyStrategy.QUEUE

    @property
    def cancels_oldest(self) -> bool:
        """Whether older tasks go when a new one comes."""
        return self.strategy is ConcurrencyStrategy.CANCEL_OLDEST


@dataclass(frozen=True, slots=True)
class Fairness:
    """Tasks of different keys take turns, in proportion to their weights."""

    key: str
    weight: int = 1


@dataclass(frozen=True, slots=True)
class AgentLabels:
    """Which labels an agent has to have, and which it had better have.

    For `head_start_seconds` in the queue, only agents with all preferred labels may take the task.
    """

    required: Mapping[str, str] = field(default_factory=dict)
    preferred: Mapping[str, str] = field(default_factory=dict)
    head_start_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Sticky:
    """For so long, only the agent that ran `task_id` may take the task.

    Without it, the agent that ran the task's own last attempt.
    """

    task_id: str | None = None
    seconds: float = 1.0


class OnDuplicate(StrEnum):
    """What becomes of a submission whose deduplication key another task holds."""

    REJECT = "reject"
    RETURN_EXISTING = "return-existing"


@dataclass(frozen=True, slots=True)
class Deduplication:
    """Among the tasks of one owner that have not ended, a key stands once."""

    key: str
    on_duplicate: OnDuplicate = OnDuplicate.REJECT


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What somebody asks for."""

    name: str
    description: str | None = None
    priority: TaskPriority = TaskPriority.MEDIUM
    parameters: RawJson | None = None
    dependencies: tuple[str, ...] = ()
    required_capabilities: tuple[str, ...] = ()
    on_dependency_failure: DependencyPolicy = DependencyPolicy.FAIL
    max_attempts: int = 3
    backoff: Backoff | None = None
    non_retryable: tuple[str, ...] = ()
    retry_seconds: float | None = None
    timeouts: Timeouts | None = None
    run_at: datetime | None = None
    concurrency: Concurrency | None = None
    deduplication: Deduplication | None = None
    fairness: Fairness | None = None
    agent_labels: AgentLabels | None = None
    sticky: Sticky | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


def capability_key(required_capabilities: tuple[str, ...]) -> str:
    """One string for a set of required capabilities: what queues are kept by."""
    return "|".join(sorted(required_capabilities))


def can_run(capabilities: frozenset[str], key: str) -> bool:
    """Tell whether an agent of these capabilities can run what is queued under the key."""
    return not key or capabilities.issuperset(key.split("|"))


def check_dependencies(dependencies: tuple[str, ...]) -> None:
    """Raise Invalid when a dependency is named twice."""
    seen: set[str] = set()
    for index, dependency in enumerate(dependencies):
        if dependency in seen:
            raise Invalid(
                "A task can't depend on the same task twice.", pointer=f"/dependencies/{index}"
            )
        seen.add(dependency)
