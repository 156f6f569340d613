"""Waits for messages: a reader registers first, then looks, then waits, and looks again every 5 s.

A reader is woken at the commit of a message on this node, and by its event when another node sent
it. Waiting costs no query.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from hive.events import Event
from hive.messages import Message, Messages

LOOK_AGAIN_SECONDS: Final = 5.0


class NodeMailboxes:
    """The port `hive.messages.Mailboxes` for the readers that ask this node."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._readers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._stopped = False

    def start(self) -> None:
        """Nothing runs beside the readers."""

    async def stop(self) -> None:
        """Answer all readers with what there is; from now on nobody waits. Idempotent."""
        self._stopped = True
        for agent_id in list(self._readers):
            self._wake(agent_id)

    async def wait(
        self, agent_id: str, *, after: str | None, limit: int, wait_seconds: float
    ) -> Sequence[Message]:
        """As the port says."""
        ends_at = time.monotonic() + wait_seconds
        news = asyncio.Event()
        self._readers[agent_id].add(news)
        try:
            while True:
                news.clear()
                found = await self._messages.waiting(agent_id, after=after, limit=limit)
                left = ends_at - time.monotonic()
                if found or left <= 0 or self._stopped:
                    return found
                with suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), min(left, LOOK_AGAIN_SECONDS))
        finally:
            self._readers[agent_id].discard(news)
            if not self._readers[agent_id]:
                del self._readers[agent_id]

    def committed(self, message: Message, _event_type: str) -> None:
        """Called at each message that this node sends."""
        self._wake(message.agent_id)

    def heard(self, events: Sequence[Event]) -> None:
        """Take events of the hub; a listener of `Hub.subscribe`."""
        for event in events:
            if event.type == "message.sent":
                self._wake(event.data["agent_id"])

    def _wake(self, agent_id: str) -> None:
        for news in self._readers.get(agent_id, ()):
            news.set()
