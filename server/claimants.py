"""The agents that ask this node for work, as it knows them: what they are, and their slots in use.

Agents of a busy hive ask many times a second, and little has changed in between. What this node
commits counts at once, what another one does at its event; and nothing is older than half a second.
Should another node still have given one of the slots away meanwhile, its unique index says so.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from hive.agents import Agent
from hive.duty_ports import Queue
from hive.events import Event
from hive.ports import Agents
from hive.tasks import Task

FRESH_SECONDS: Final = 0.5
MOST_KNOWN: Final = 10_000


@dataclass(slots=True)
class _Known:
    """`slots` are those in use, each with the task in it where that is known."""

    agent: Agent | None = None
    agent_read_at: float = float("-inf")
    slots: dict[int, str | None] | None = None
    slots_read_at: float = float("-inf")
    freed: set[int] = field(default_factory=set)
    """Since the last reading of the slots began."""


class Claimants:
    """Claims of one agent come one by one."""

    def __init__(self, agents: Agents, queue: Queue) -> None:
        self._agents = agents
        self._queue = queue
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def get(self, agent_id: str) -> Agent:
        """The agent. Raises AgentNotFound."""
        known = self._entry(agent_id)
        asked_at = time.monotonic()
        if known.agent is None or asked_at - known.agent_read_at > FRESH_SECONDS:
            read = await self._agents.get(agent_id)
            # A commit, or an event, may have come in between.
            if known.agent is None or read.version >= known.agent.version:
                known.agent = read
            known.agent_read_at = asked_at
        return known.agent

    async def slots_in_use(self, agent_id: str) -> set[int]:
        """The slots that the agent's leases take."""
        known = self._entry(agent_id)
        asked_at = time.monotonic()
        if known.slots is None or asked_at - known.slots_read_at > FRESH_SECONDS:
            tasks, known.freed = known.slots or {}, set()
            read = await self._queue.slots_in_use(agent_id)
            known.slots = {slot: tasks.get(slot) for slot in read - known.freed}
            known.slots_read_at = asked_at
        return set(known.slots)

    def forget_slots(self, agent_id: str) -> None:
        """Something about them was not so."""
        self._entry(agent_id).slots = None

    def agent_committed(self, agent: Agent, event_type: str) -> None:
        """Called at each commit of an agent on this node."""
        if event_type == "agent.unregistered":
            self._known.pop(agent.agent_id, None)
            return
        known = self._known.get(agent.agent_id)
        if known is not None and (known.agent is None or agent.version > known.agent.version):
            known.agent, known.agent_read_at = agent, time.monotonic()

    def task_committed(self, task: Task, _event_type: str) -> None:
        """Called at each commit of a task on this node."""
        known = None if task.agent_id is None else self._known.get(task.agent_id)
        if known is None or known.slots is None:
            return
        if task.lease is not None:
            known.slots[task.lease.slot] = task.task_id
            return
        slot = next((slot for slot, held in known.slots.items() if held == task.task_id), None)
        if slot is not None:
            del known.slots[slot]
            known.freed.add(slot)
        elif None in known.slots.values():
            # It may have been in one of those.
            known.slots = None

    def heard(self, events: Sequence[Event]) -> None:
        """Take events of the hub: other nodes change agents, too."""
        for event in events:
            known = self._known.get(event.subject) if event.type.startswith("agent.") else None
            if known is None or known.agent is None:
                continue
            if int(event.data.get("version", 0)) > known.agent.version:
                known.agent_read_at = float("-inf")

    def _entry(self, agent_id: str) -> _Known:
        known = self._known.get(agent_id)
        if known is None:
            known = self._known[agent_id] = _Known()
            if len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        self._known.move_to_end(agent_id)
        return known
