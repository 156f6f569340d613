"""The leases that an agent works on, as its link knows them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hive.events import Event
from hive.tasks import Task

EARLY_CANCELS: Final = 256
LEASE_OVER: Final = frozenset(
    {"task.completed", "task.failed", "task.cancelled", "task.retrying", "task.released"}
)


@dataclass(slots=True)
class Held:
    """A lease that the agent works on. `version` is the task's when it was leased or resumed."""

    lease_id: str
    fence: int
    task_id: str
    version: int
    ending: bool = False
    cancel_told: bool = False


class HeldLeases:
    """At most one lease a task."""

    def __init__(self) -> None:
        self._by_lease: dict[str, Held] = {}
        self._by_task: dict[str, Held] = {}
        self._early_cancels: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._by_lease)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_lease)

    def find(self, lease_id: str) -> Held | None:
        """The lease, if the agent works on it."""
        return self._by_lease.get(lease_id)

    def find_older(self, task: Task) -> Held | None:
        """The lease of an earlier attempt at the task, of whose end nothing was heard yet."""
        older = self._by_task.get(task.task_id)
        is_other = older is not None and task.lease and older.lease_id != task.lease.lease_id
        return older if is_other else None

    def add(self, task: Task) -> Held:
        """Note the lease of a task."""
        if task.lease is None:
            raise ValueError(f"{task.task_id} is not leased")
        held = Held(task.lease.lease_id, task.lease.fence, task.task_id, task.version)
        self._by_lease[held.lease_id] = self._by_task[held.task_id] = held
        return held

    def drop(self, held: Held) -> None:
        """The lease is over. Idempotent."""
        self._by_lease.pop(held.lease_id, None)
        if self._by_task.get(held.task_id) is held:
            del self._by_task[held.task_id]

    def concerned(self, event: Event) -> Held | None:
        """The lease that a task's event is about; None when it is about none, or an earlier one.

        A cancellation of a task that is just being leased is remembered for `is_cancelled`.
        """
        held = self._by_task.get(event.subject)
        version = event.data.get("version", 0)
        if held is not None:
            # The hub may be behind the store: such an event is of an earlier lease.
            return held if version > held.version else None
        if event.type == "task.cancelling":
            self._early_cancels[event.subject] = version
            while len(self._early_cancels) > EARLY_CANCELS:
                del self._early_cancels[next(iter(self._early_cancels))]
        return None

    def is_cancelled(self, task: Task) -> bool:
        """Tell whether it is to be cancelled; the event may have been faster than the task."""
        early = self._early_cancels.pop(task.task_id, 0)
        return task.cancel_requested or early > task.version
