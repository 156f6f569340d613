"""What the background duties need: the queue, the sweeps, the change feed and the log they write.

All methods raise `Unavailable` when the store does not answer in time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from hive.changes import Actor, Change
from hive.events import Event
from hive.leases import NewLease
from hive.ports import DecideTask
from hive.task_spec import DependencyPolicy
from hive.tasks import Task, TaskStatus


class Queue(Protocol):
    """The queued tasks, as the claimer of a node sees them."""

    async def claim(
        self, lease: NewLease, capability_keys: Sequence[str], change: Change, actor: Actor
    ) -> Task | None:
        """Lease the most urgent queued task of these keys; None when there is none.

        At most one claimer gets a task. Without `lease.key` only tasks without a concurrency key,
        with it only tasks of that key. Raises SlotTaken when a slot is in use.
        """

    async def claim_many(
        self,
        leases: Sequence[NewLease],
        capability_keys: Sequence[str],
        start: Callable[[NewLease], Change],
        actor: Actor,
    ) -> Sequence[Task]:
        """Put these leases of one agent on the most urgent queued tasks without a concurrency key.

        Fewer tasks than leases when there are no more, or when some slots are in use. Raises
        SlotTaken when tasks were there and others were faster each time.
        """

    @property
    def has_keyed(self) -> bool:
        """Whether tasks with a concurrency key may be queued, as of the last `queued_keys`."""

    async def queued_keys(self) -> Sequence[str]:
        """The capability keys under which something is queued."""

    async def slots_in_use(self, agent_id: str) -> set[int]:
        """The slots of an agent that its leases take."""

    async def keyed_head(
        self,
        capability_keys: Sequence[str],
        *,
        without: Sequence[str],
        agent_id: str = "",
        labels: Sequence[str] = (),
    ) -> tuple[str, int] | None:
        """The concurrency key and limit of the most urgent queued task that the agent may take.

        Keys in `without` are passed over. None when the most urgent one has no key.
        """

    async def key_slots(self, key: str) -> set[int]:
        """The slots of a concurrency key that are in use."""


class Sweeps(Protocol):
    """What the reaper and the releaser look for. Time is the database's."""

    async def release_pending(self, *, limit: int) -> Sequence[tuple[str, TaskStatus]]:
        """Ended tasks whose dependents may not have been told, longest ago first."""

    async def released(self, task_ids: Sequence[str]) -> None:
        """Note that the dependents of these tasks have been told. Idempotent."""

    async def drop_ended(
        self, ended: Sequence[str], policies: Collection[DependencyPolicy], *, limit: int
    ) -> Sequence[str]:
        """Take these dependencies off the lists of up to `limit` tasks of these policies.

        Their identifiers. No event.
        """

    async def to_end(
        self, ended: Sequence[str], policies: Collection[DependencyPolicy], *, limit: int
    ) -> Sequence[Task]:
        """Tasks of these policies that wait on one of these."""

    async def change_all(self, task_ids: Sequence[str], decide: DecideTask, actor: Actor) -> None:
        """As `Tasks.change` for each, once: one that another was faster to change is left."""

    async def all_settled(self, task_ids: Sequence[str]) -> None:
        """As `settled`, for many."""

    async def settle_pending(self, *, limit: int) -> Sequence[Task]:
        """Tasks whose dependencies may not have been looked at since the insert, oldest first."""

    async def settled(self, task_id: str) -> Task:
        """Note that it was done; the task after that. Idempotent, no event."""

    async def supersede(self, actor: Actor, *, limit: int) -> None:
        """Cancel what newer tasks of a concurrency key have superseded, after a crash."""

    async def unblocked(self, *, limit: int) -> Sequence[str]:
        """Blocked tasks that wait on nothing any more."""

    async def due(self, *, limit: int) -> Sequence[str]:
        """Scheduled tasks whose `run_at` has come."""

    async def expired(self, *, limit: int) -> Sequence[str]:
        """Running tasks whose lease is over."""

    async def unobedient(self, grace_seconds: float, *, limit: int) -> Sequence[str]:
        """Running tasks whose cancellation was asked longer ago than the grace period."""

    async def timed_out(self, *, limit: int) -> Sequence[tuple[str, int, str]]:
        """Tasks over a timeout: identifier, version, and `queue`, `execution`, `total` or `retry`.

        `retry` are those that wait for another attempt when the time for retries is over.
        """

    async def expire(self, task_id: str, decide: DecideTask, actor: Actor) -> Task | None:
        """As `Tasks.change`, while the lease is over by the database's clock; None otherwise."""

    async def announce_logs(self, actor: Actor, *, limit: int) -> int:
        """Make the `task.log` events that were held back and whose second is over; their number."""

    async def silent_agents(self, timeout_seconds: float, *, limit: int) -> Sequence[str]:
        """Agents that count as online and were not heard of for so long."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event as the change feed gives it, not yet in the log.

    `token` is where to go on behind it. `owner` is who may see a private event, besides admins;
    `call_id` names the audit record of the call that caused it.
    """

    id: str
    type: str
    subject: str
    time: datetime
    version: int
    data: Mapping[str, Any]
    actor: str | None
    request_id: str | None
    token: Mapping[str, Any] | None
    owner: str | None = None
    call_id: str | None = None


class ChangeStream(Protocol):
    """The changes of all resources in the order in which they were committed."""

    @property
    def token(self) -> Mapping[str, Any] | None:
        """Everything up to here has been given."""

    async def next_batch(self) -> Sequence[Recorded]:
        """The next events; empty after a while without any. Raises HistoryLost, Unavailable."""


class ChangeFeed(Protocol):
    """Where change streams come from."""

    def open(self, token: Mapping[str, Any] | None) -> AbstractAsyncContextManager[ChangeStream]:
        """A stream behind the token, or from now.

        Entering raises HistoryLost when the token is too old.
        """

    def unrecorded(self, at: Mapping[str, Any]) -> AsyncIterator[Sequence[Recorded]]:
        """The last event of every resource whose version is newer than its last one in the log.

        They come in batches, and behind them the notices that are not in the log.

        The resources are read as they were at the token of a stream that has just been opened, so
        that nothing is told twice, skipped or told after what followed it.
        """


@dataclass(frozen=True, slots=True)
class LogTail:
    """The end of the log. `token` is that of the newest event, if it has one."""

    seq: int
    token: Mapping[str, Any] | None


class Outbox(Protocol):
    """Events of changes in SQL, written in the transactions of the changes."""

    async def read(self, *, limit: int) -> Sequence[Recorded]:
        """The first events of it, in the order of their commits per subject; `version` is 0."""

    async def delete(self, event_ids: Sequence[str]) -> None:
        """Take events off. Idempotent."""


class Notices(Protocol):
    """Events that the change stream shows although none of its resources changed."""

    async def put(self, entry: Recorded) -> None:
        """Have the event shown once; `version` grows from notice to notice.

        Idempotent per event identifier, as long as the notice is there.
        """

    async def clear(self, *, limit: int) -> bool:
        """Take old notices away whose events are in the log; False when none is left."""


class LogWriter(Protocol):
    """The end of the event log that the recorder writes."""

    async def read_tail(self) -> LogTail:
        """The end of the log as a majority has it."""

    async def append(self, after: int, entries: Sequence[Recorded]) -> Sequence[Event]:
        """Append in order, with `seq` from `after` + 1; what was appended.

        Entries that are in the log already are passed over. Raises SeqTaken when another one has
        written there.
        """

    async def trim(self, older_than_days: float, *, at_most: int) -> int:
        """Take the oldest events away, never the newest one, and never leaving a hole; how many."""


class HistoryLost(Exception):
    """The change feed no longer holds what follows the token."""


class SeqTaken(Exception):
    """Another recorder wrote this `seq`."""


class Leadership(Protocol):
    """Leases of duties that one node at a time carries out.

    A term is a fence: it grows with each holder.
    """

    async def acquire(self, duty: str, node_id: str, seconds: float) -> int | None:
        """The new term, or None while another node holds the duty."""

    async def renew(self, duty: str, node_id: str, term: int, seconds: float) -> bool:
        """Extend the lease; False when it is lost."""

    async def release(self, duty: str, node_id: str, term: int) -> None:
        """Give the duty up. Idempotent."""

    async def load_checkpoint(self, duty: str) -> Mapping[str, Any] | None:
        """What the last holder saved."""

    async def save_checkpoint(
        self, duty: str, node_id: str, term: int, checkpoint: Mapping[str, Any]
    ) -> bool:
        """Save under the term; False when it is lost."""
