"""What a demo leaves in the hive when it is cut short: cancelled by itself, or by the next one.

Tasks of a demo that was killed would keep the agents busy, and its leases their slots until they
expire.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from agentzero_client import AsyncClient, ConflictError, NotFoundError
from agentzero_client.models import TaskStatus
from server.demo.merging import MERGE
from server.demo.sources import CSV, TEXT

# Merges are blocked: cancelling a profile first would start them.
_UNFINISHED: tuple[TaskStatus, ...] = ("blocked", "queued", "running")
_NAMES = (MERGE, TEXT, CSV)


async def cancel_tasks(client: AsyncClient, capability: str) -> None:
    """Cancel the demo's tasks that require `capability`, until none is left to be cancelled.

    Asks the hive which they are: a submission that was interrupted may have counted.
    """
    while True:
        found = [
            task
            for status in _UNFINISHED
            for name in _NAMES
            async for task in client.tasks.list(status=status, name=name)
            if capability in task.required_capabilities and not task.cancel_requested
        ]
        if not found:
            return
        for task in found:
            with suppress(ConflictError):  # It ended meanwhile.
                await client.tasks.cancel(task.task_id)


async def release_leases(client: AsyncClient, agent_ids: Iterable[str]) -> None:
    """Free the slots of agents whose processes are gone. `client` is an admin's."""
    for agent_id in agent_ids:
        for lease in (await client.agents.get(agent_id)).leases:
            if lease.lease_id is None:
                raise PermissionError("only an admin, or the agent itself, sees its leases")
            with suppress(ConflictError, NotFoundError):  # It expired meanwhile.
                await client.leases.release(lease.lease_id, lease.fence)
