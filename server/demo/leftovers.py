"""What a demo that was killed left in the hive: the next one at its place clears it away.

Its tasks would keep the agents busy, and its leases their slots until they expire.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from agentzero_client import AsyncClient, ConflictError, NotFoundError
from agentzero_client.models import TaskStatus

# Merges are blocked: cancelling a profile first would start them.
_UNFINISHED: tuple[TaskStatus, ...] = ("blocked", "queued", "running")


async def clear_leftovers(
    client: AsyncClient, names: Sequence[str], capability: str, agent_ids: Sequence[str]
) -> None:
    """Cancel the tasks of these names that require `capability`, and release the agents' leases.

    Only for whoever has the crew to itself. `client` is an admin's.
    """
    for status in _UNFINISHED:
        for name in names:
            found = [task async for task in client.tasks.list(status=status, name=name)]
            for task in found:
                if capability in task.required_capabilities:
                    with suppress(ConflictError):  # It ended meanwhile.
                        await client.tasks.cancel(task.task_id)
    for agent_id in agent_ids:
        for lease in (await client.agents.get(agent_id)).leases:
            with suppress(ConflictError, NotFoundError):  # It expired meanwhile.
                await client.leases.release(lease.lease_id, lease.fence)
