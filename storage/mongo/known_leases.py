"""The leased tasks as this node last saw them, so that a report costs one write and no read.

What is known may be old: it is only good for a write that holds for the version that was seen.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from hive.leases import LeaseProof
from hive.tasks import Task

MOST_KNOWN: Final = 4_096
MOST_BYTES: Final = 8 * 1024
"""Of parameters: with more of them a task is not kept."""


class KnownLeases:
    """Told of each commit on this node."""

    def __init__(self) -> None:
        self._by_lease: OrderedDict[str, Task] = OrderedDict()
        self._lease_of: dict[str, str] = {}

    def committed(self, task: Task, _event_type: str) -> None:
        """Take the task as it is now."""
        lease_id = self._lease_of.pop(task.task_id, None)
        if lease_id is not None:
            del self._by_lease[lease_id]
        parameters = task.spec.parameters
        if task.lease is None or (parameters and len(parameters.encoded) > MOST_BYTES):
            return
        self._by_lease[task.lease.lease_id] = task
        self._lease_of[task.task_id] = task.lease.lease_id
        if len(self._by_lease) > MOST_KNOWN:
            _, oldest = self._by_lease.popitem(last=False)
            del self._lease_of[oldest.task_id]

    def find(self, proof: LeaseProof, agent_id: str | None) -> Task | None:
        """The task that the lease is of, as far as is known, and held by the agent if one is given.

        A lease with another fence is nobody's.
        """
        task = self._by_lease.get(proof.lease_id)
        if task is None or task.lease is None or task.lease.fence != proof.fence:
            return None
        return task if agent_id in (None, task.lease.agent_id) else None
