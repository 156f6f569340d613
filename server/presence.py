"""Keeps the status of agents true: idle, busy, offline.

It is a projection of the leases and of the signs of life, worked out again soon after either
changes; many changes of an agent within a moment are one. What a kill left untrue is worked out at
the next start.
"""

from __future__ import annotations

import asyncio

import structlog

from hive import agents as machine
from hive.agents import Agent
from hive.changes import Actor
from hive.duty_ports import Queue
from hive.errors import AgentNotFound, HiveError, Unavailable
from hive.ports import AgentFilter, Agents
from hive.tasks import Task
from server.cancelling import cancel_and_wait

ACTOR = Actor("system:presence")
MOMENT_SECONDS = 0.2
PAGE = 200
LEASE_EVENTS = frozenset(
    {
        "task.started",
        "task.completed",
        "task.failed",
        "task.cancelled",
        "task.retrying",
        "task.released",
    }
)
log = structlog.get_logger(__name__)


class NodePresence:
    """The port `hive.ports.Presence`."""

    def __init__(self, agents: Agents, queue: Queue) -> None:
        self._agents = agents
        self._queue = queue
        self._stale: set[str] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow the leases."""
        self._task = asyncio.create_task(self._run(), name="presence")

    async def stop(self) -> None:
        """End. What is stale then is worked out at the next start."""
        await cancel_and_wait(self._task)

    def committed(self, task: Task, event_type: str) -> None:
        """Called at each commit of a task on this node."""
        if event_type in LEASE_EVENTS and task.agent_id is not None:
            self._stale.add(task.agent_id)
            self._wake.set()

    async def refresh(self, agent_id: str, *, online: bool | None = None) -> Agent:
        """As the port says. Raises AgentNotFound."""
        running = len(await self._queue.slots_in_use(agent_id))
        return await self._agents.change(
            agent_id,
            lambda agent: machine.observe(
                agent, online=agent.online if online is None else online, running=running
            ),
            ACTOR,
        )

    async def _doubt_all(self) -> None:
        """Take the status of every agent that counts as online for stale."""
        after: str | None = None
        try:
            while page := await self._agents.list(AgentFilter(), after=after, limit=PAGE):
                self._stale.update(agent.agent_id for agent in page if agent.online)
                after = page[-1].agent_id
        except HiveError as error:
            log.warning("presence.unknown", cause=str(error))
        if self._stale:
            self._wake.set()

    async def _run(self) -> None:
        await self._doubt_all()
        while True:
            await self._wake.wait()
            await asyncio.sleep(MOMENT_SECONDS)
            self._wake.clear()
            stale, self._stale = self._stale, set()
            for agent_id in stale:
                try:
                    await self.refresh(agent_id)
                except AgentNotFound:
                    continue
                except Unavailable:
                    # Nobody else would look at this agent again before its next lease.
                    self._stale.add(agent_id)
                    self._wake.set()
                except HiveError as error:
                    log.warning("presence.failed", agent_id=agent_id, cause=str(error))
                except Exception:
                    log.exception("presence.failed", agent_id=agent_id)
