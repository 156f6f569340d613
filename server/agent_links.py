"""The links of the agents of this node: one an agent, told what the log says about it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Final

import structlog

from hive.agents import Agent
from hive.errors import AgentNotFound, HiveError
from hive.events import Event
from hive.messages import Messages
from hive.ports import Services
from server.agent_link import AgentLink
from server.cancelling import cancel_and_wait
from server.closing import CloseCode
from server.invocation import Invoker

CLAIM_WAIT_SECONDS: Final = 10.0
"""A claim waits so long, and so long may outlive its socket; what it gets then is given back."""

log = structlog.get_logger(__name__)


class AgentLinks:
    """Which link is an agent's, and the work that outlives a socket."""

    def __init__(
        self,
        services: Services,
        invoker: Invoker,
        *,
        messages: Messages | None = None,
        claim_wait_seconds: float = CLAIM_WAIT_SECONDS,
    ) -> None:
        self.services = services
        self.messages = messages
        self.invoker = invoker
        self.claim_wait_seconds = claim_wait_seconds
        self._links: dict[str, AgentLink] = {}
        self._presence: dict[str, asyncio.Lock] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._stopping = False

    def __contains__(self, agent_id: object) -> bool:
        return agent_id in self._links

    def heard(self, events: Sequence[Event]) -> None:
        """Take events of the hub; a listener of `Hub.subscribe`."""
        if not self._links:
            return
        for event in events:
            noun = event.type.partition(".")[0]
            if noun == "task":
                link = self._links.get(event.data.get("agent_id", ""))
                if link is not None:
                    link.heard_of_task(event)
            elif event.type == "message.sent":
                link = self._links.get(event.data["agent_id"])
                if link is not None:
                    link.heard_of_message()
            elif noun == "agent":
                link = self._links.get(event.subject)
                if link is not None:
                    link.heard_of_agent(event)

    def find(self, agent_id: str) -> AgentLink | None:
        """The agent's link, if it has one to this node."""
        return self._links.get(agent_id)

    def take_over(self, link: AgentLink) -> None:
        """Make it the agent's link; an older one ends."""
        older = self._links.get(link.agent_id)
        self._links[link.agent_id] = link
        if older is not None and older is not link:
            older.end(CloseCode.TAKEN_OVER, "a newer link of the agent took over")

    def leave(self, link: AgentLink) -> None:
        """The link has ended. Idempotent."""
        if self._links.get(link.agent_id) is link:
            del self._links[link.agent_id]
            # Agents of a node that stops come back at once; if not, their silence says so.
            if not self._stopping:
                self.spawn(self._note_presence(link.agent_id), name=f"presence of {link.agent_id}")

    async def settle_presence(self, agent_id: str) -> Agent | None:
        """Say whether the agent is here, whatever came and went; None when that can't be said."""
        lock = self._presence.setdefault(agent_id, asyncio.Lock())
        try:
            # One by one: what is written last is what is true then.
            async with lock:
                online = agent_id in self._links
                return await self.services.presence.refresh(agent_id, online=online)
        except AgentNotFound:
            return None
        except HiveError as error:
            log.warning("link.presence_unknown", agent_id=agent_id, cause=str(error))
            return None
        finally:
            if not lock.locked() and agent_id not in self._links:
                self._presence.pop(agent_id, None)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run to the end, whatever becomes of the socket."""
        task = asyncio.create_task(_guard(work, name), name=name)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    def prepare_stop(self) -> None:
        """Links that end from now on end because the node stops."""
        self._stopping = True

    async def stop(self, seconds: float = 2.0) -> None:
        """Wait for reports and claims under way. Stop the dispatcher first: it ends the claims."""
        self.prepare_stop()
        if self._work:
            _, pending = await asyncio.wait(self._work, timeout=seconds)
            await cancel_and_wait(*pending)

    async def _note_presence(self, agent_id: str) -> None:
        await self.settle_presence(agent_id)


async def _guard(work: Coroutine[Any, Any, None], name: str) -> None:
    try:
        await work
    except Exception:
        log.exception("link.work_failed", work=name)
