"""The event log followed over REST, for networks that let no WebSocket pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from agentzero_client.errors import GoneError
from agentzero_client.events import Event, EventFilter, decode_gap, matches
from agentzero_client.http import Http
from agentzero_client.resources.event_log import AsyncEvents

# 100 reads a minute are a user's share; this leaves some for the rest of the program.
POLL_SECONDS = 1.0
IDLE_POLL_SECONDS = 3.0
BATCH = 1_000
SNAPSHOT = "/api/v1/hive/status"


class EventHistory:
    """Reads what a watch wants to see. Raises what `client.events.list` does, but for GoneError."""

    def __init__(self, http: Http, patterns: tuple[str, ...], chosen: EventFilter) -> None:
        self._events = AsyncEvents(http)
        self._patterns = patterns
        self._filter = chosen
        self._type = patterns[0] if len(patterns) == 1 and patterns[0] != "*" else None

    async def newest(self) -> int:
        """The `seq` of the newest event, 0 for an empty log."""
        async for event in self._events.list(order="desc", limit=1):
            return event.seq
        return 0

    async def follow(self, cursor: int, go_on: Callable[[], bool]) -> AsyncIterator[Event]:
        """Yield what follows `cursor`, and wait for more, while `go_on`; a trimmed log is a gap."""
        wait = POLL_SECONDS
        while go_on():
            before = cursor
            try:
                async for event in self._events.list(after=cursor, type=self._type, limit=BATCH):
                    cursor = event.seq
                    if matches(self._patterns, event.type) and self._filter.selects(event):
                        yield event
            except GoneError:
                oldest = await self._oldest(cursor)
                gap = {"from": cursor, "to": oldest - 1, "reason": "trimmed", "snapshot": SNAPSHOT}
                yield decode_gap(gap)
                cursor = oldest - 1
                continue
            wait = POLL_SECONDS if cursor > before else min(wait * 1.5, IDLE_POLL_SECONDS)
            await asyncio.sleep(wait)

    async def _oldest(self, cursor: int) -> int:
        async for event in self._events.list(limit=1):
            return max(event.seq, cursor + 1)
        return cursor + 1
