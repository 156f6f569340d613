"""Watching the hive: events live over WebSocket, resumed by cursor, over REST in the worst case.

    async with client.watch(["task.*"]) as events:   # subscribed from here on
        async for event in events:
            ...

Guarantees: `seq` strictly increases; every event is delivered at most once by one watch
(repetitions after a reconnect are dropped, by `seq` and by `id`); what can't be delivered is
announced by a `Gap`. A program that restarts passes the last `cursor` it has dealt with. The watch
reads ahead at most 1,000 events; a slower consumer slows its own connection down, loses it at
worst, and goes on by cursor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from agentzero_client.errors import AgentZeroError
from agentzero_client.event_feed import EventFeed
from agentzero_client.events import Event, EventFilter, Gap
from agentzero_client.http import Http

READ_AHEAD = 1_000
REMEMBERED_IDS = 10_000


class AsyncWatch:
    """An asynchronous iterator over events. Ends when closed, or when turned away for good.

    Raises WatchClosedError (the close code says why) or ProblemError (401, 403).
    """

    def __init__(
        self, http: Http, patterns: Sequence[str], cursor: int | None, chosen: EventFilter
    ) -> None:
        self._feed = EventFeed(http, tuple(patterns), cursor, chosen, self._take)
        self._cursor = cursor
        self._ready: asyncio.Queue[Event | None] = asyncio.Queue(READ_AHEAD)
        self._seen: dict[str, None] = {}
        self._last = -1 if cursor is None else cursor
        self._reader: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._closed = False

    @property
    def cursor(self) -> int | None:
        """The `seq` of the last event that was handed out: where another watch would go on."""
        return self._cursor

    async def started(self) -> None:
        """Wait until the subscription stands: what happens from here on is seen.

        Raises what iterating would raise.
        """
        self._start()
        live = asyncio.ensure_future(self._feed.live.wait())
        reader = self._reader
        try:
            if reader is not None:
                await asyncio.wait({live, reader}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            live.cancel()
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        """Disconnect. Idempotent; whoever iterates stops."""
        self._closed = True
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait({self._reader})

    async def __aenter__(self) -> Self:
        try:
            await self.started()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        self._start()
        if self._closed:
            raise StopAsyncIteration
        event = await self._ready.get()
        if event is None:
            self._closed = True
            if self._error is not None:
                raise self._error
            raise StopAsyncIteration
        self._cursor = event.seq
        return event

    def _start(self) -> None:
        if self._reader is None and not self._closed:
            self._reader = asyncio.create_task(self._read(), name="agentzero watch")

    async def _read(self) -> None:
        try:
            await self._feed.run()
        except AgentZeroError as error:
            self._error = error
        finally:
            # Where the queue is full, its reader comes by again and needs no waking up.
            if self._ready.full():
                self._ready.get_nowait() if self._closed else await self._ready.put(None)
            else:
                self._ready.put_nowait(None)

    async def _take(self, event: Event) -> None:
        if isinstance(event, Gap):
            self._last = event.seq
        elif event.seq <= self._last or event.id in self._seen:
            return
        else:
            self._last = event.seq
            self._seen[event.id] = None
            if len(self._seen) > REMEMBERED_IDS:
                del self._seen[next(iter(self._seen))]
        await self._ready.put(event)
