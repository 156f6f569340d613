"""What coordinating the hive needs of the world, as guarantees.

All methods raise `Unavailable` when the store does not answer in time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from hive.changes import Actor, Change
from hive.coordination import HiveControl, TakeBack
from hive.diagnosis import Snapshot
from hive.messages import Mailboxes, Messages
from hive.tasks import Task

DecideHive = Callable[[HiveControl], Change | None]


class Hive(Protocol):
    """What is decided about the hive as a whole: one document, in every node's sight."""

    async def get(self) -> HiveControl:
        """As it is for a majority now."""

    async def change(self, decide: DecideHive, actor: Actor) -> HiveControl:
        """Load, decide, save, as `Tasks.change`. Raises WriteConflict."""


class Gate(Protocol):
    """Whether leases are granted now."""

    async def is_open(self) -> bool:
        """True while the hive runs. What another node decided counts here within 1 s."""


@dataclass(frozen=True, slots=True)
class CapabilityUse:
    """Agents that have one capability: how many of each status."""

    capability: str
    agents: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """Queued tasks of one set of required capabilities and one priority."""

    required_capabilities: tuple[str, ...]
    priority: str
    tasks: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Leader:
    """Who holds a duty, or held it last (`is_current` tells), under which term."""

    duty: str
    node_id: str
    term: int
    expires_at: datetime
    is_current: bool


class Topology(Protocol):
    """The hive counted: each method one look at the store as it is now."""

    async def capabilities(self, *, limit: int) -> Sequence[CapabilityUse]:
        """The capabilities of registered agents, by name."""

    async def queue_depths(self, *, limit: int) -> Sequence[QueueDepth]:
        """What is queued; the longest waiting first."""

    async def leaders(self) -> Sequence[Leader]:
        """The duties that were ever held, by name."""


class Diagnoses(Protocol):
    """What is needed to say why tasks wait."""

    async def waiting(self, *, after: str | None, limit: int) -> Sequence[Task]:
        """Tasks that wait for something, the oldest first, behind the identifier `after`."""

    async def snapshot(self, tasks: Sequence[Task]) -> Snapshot:
        """The hive as far as it concerns these tasks. Its parts are read one after the other."""


@dataclass(frozen=True, slots=True)
class TakenBack:
    """A lease that is, or was, taken from an agent."""

    task_id: str
    agent_id: str
    reason: TakeBack


class Holders(Protocol):
    """Leases of agents that should not hold them now."""

    async def drained(self, *, limit: int) -> Sequence[TakenBack]:
        """Leases of draining agents whose deadline is over."""

    async def offline(self, *, limit: int) -> Sequence[TakenBack]:
        """Leases of agents that are offline, or were unregistered."""


class Rebalancing(Protocol):
    """Takes leases back before they are over."""

    async def rebalance(self, actor: Actor) -> Sequence[TakenBack]:
        """Take back what offline agents hold, and drained ones; at most 1,000 leases at a time."""


@dataclass(frozen=True, slots=True)
class Coordination:
    """What the operations of the tag `hive` reach."""

    hive: Hive
    topology: Topology
    diagnoses: Diagnoses
    messages: Messages
    mailboxes: Mailboxes
    rebalancing: Rebalancing
