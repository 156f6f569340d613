"""The events of this node's connections: one hub a node, in memory, healed from the log.

1. `start` takes the log's tail; what comes behind it is kept, up to 20,000 events.
2. The recorder calls `publish`, in process; the doorbell does, for what another node recorded
   (`server/doorbell.py`). An event that does not follow the last one, and a
   second of silence, make the hub read the log itself: nothing depends on having been told.
3. A connection that is caught up is attached and gets each entry at once. One that is behind reads:
   from the ring, or from the log when that is older.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import structlog

from hive.errors import HiveError, LogTrimmed
from hive.events import WHOLE_LOG, Event
from hive.ports import EventFilter, EventLog
from server.cancelling import cancel_and_wait
from server.ring import Entry, Ring

RING_EVENTS: Final = 20_000
LOG_BATCH: Final = 500
SILENCE_SECONDS: Final = 1.0
LOG_READERS: Final = 4
_ALL = EventFilter(audience=WHOLE_LOG)

log = structlog.get_logger(__name__)

Listener = Callable[[Sequence[Event]], None]


class Receiver(Protocol):
    """A connection that is caught up."""

    def deliver(self, entries: Sequence[Entry]) -> None:
        """Take the entries, in order and without a hole. Never raises, never waits."""


class Hub:
    """Spreads the log. `tail` is the newest `seq` that this node knows of."""

    def __init__(
        self,
        event_log: EventLog,
        *,
        ring_events: int = RING_EVENTS,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._log = event_log
        self._ring = Ring(ring_events, 0)
        self._silence_seconds = silence_seconds
        self._receivers: set[Receiver] = set()
        self._listeners: list[Listener] = []
        self._hole = asyncio.Event()
        self._healing = asyncio.Lock()
        self._readers = asyncio.Semaphore(LOG_READERS)
        self._heard_at = float("-inf")
        self._task: asyncio.Task[None] | None = None

    @property
    def tail(self) -> int:
        """The newest `seq` that was spread."""
        return self._ring.tail

    async def start(self) -> None:
        """Begin behind the log's tail. Raises Unavailable."""
        self._ring.reset(await self._log.tail())
        self._task = asyncio.create_task(self._watch(), name="hub")

    async def stop(self) -> None:
        """End the background task. Idempotent."""
        task, self._task = self._task, None
        await cancel_and_wait(task)

    def subscribe(self, listener: Listener) -> None:
        """Call back with all events, in order and without a hole. Listeners must not wait."""
        self._listeners.append(listener)

    def attach(self, receiver: Receiver) -> None:
        """Deliver to the receiver from now on. It must have seen everything up to `tail`."""
        self._receivers.add(receiver)

    def detach(self, receiver: Receiver) -> None:
        """Deliver no longer. Idempotent."""
        self._receivers.discard(receiver)

    def publish(self, events: Sequence[Event]) -> None:
        """Spread events of the log. Known ones are ignored; a hole is healed from the log."""
        fresh = [event for event in events if event.seq > self._ring.tail]
        following: list[Event] = []
        for event in fresh:
            if event.seq != self._ring.tail + 1 + len(following):
                self._hole.set()
                break
            following.append(event)
        if following:
            self._heard_at = asyncio.get_running_loop().time()
            self._spread(following)

    def told(self, seq: int) -> None:
        """Hear that the log has grown up to `seq`; what is missing is read from it."""
        if seq > self._ring.tail:
            self._hole.set()

    def look(self) -> None:
        """Read the log now: something may have been missed."""
        self._hole.set()

    def peek(self, after: int, limit: int) -> list[Entry] | None:
        """Entries behind `after` from memory, at once; None when they are only in the log."""
        return self._ring.read(after, limit)

    async def read(self, after: int, limit: int = LOG_BATCH) -> list[Entry]:
        """Entries behind `after`; none when it is the tail. Raises LogTrimmed, Unavailable.

        A first entry that does not follow `after` means that the log no longer holds what is
        between.
        """
        kept = self._ring.read(after, limit)
        if kept is not None:
            return kept
        async with self._readers:
            events = await self._log.read(_ALL, after=after, limit=min(limit, LOG_BATCH))
        # What the log has beyond the tail comes by `publish` or `heal`.
        return [Entry(event) for event in events if event.seq <= self._ring.tail]

    async def oldest(self) -> int:
        """The oldest `seq` that is kept, 0 when there is none. Raises Unavailable."""
        return await self._log.oldest()

    async def heal(self) -> None:
        """Read what the log has behind the tail and spread it. Raises Unavailable."""
        async with self._healing:
            while True:
                after = self._ring.tail
                try:
                    events = await self._log.read(_ALL, after=after, limit=LOG_BATCH)
                except LogTrimmed:
                    await self._skip()
                    continue
                if events and events[0].seq > self._ring.tail + 1 and after == self._ring.tail:
                    self._lose(events[0].seq - 1)
                self.publish(events)
                if len(events) < LOG_BATCH:
                    return

    def _spread(self, events: Sequence[Event]) -> None:
        entries = [Entry(event) for event in events]
        for entry in entries:
            self._ring.append(entry)
        for receiver in tuple(self._receivers):
            receiver.deliver(entries)
        for listener in self._listeners:
            try:
                listener(events)
            except Exception:
                # One duty's trouble must not keep events from the others.
                log.exception("hub.listener_failed", seq=events[0].seq)

    async def _skip(self) -> None:
        oldest = await self._log.oldest()
        self._lose(max(oldest - 1, await self._log.tail() if oldest == 0 else 0))

    def _lose(self, tail: int) -> None:
        # Receivers find the hole in `seq` with the next entry, and announce it.
        log.error("hub.events_lost", behind=self._ring.tail, up_to=tail)
        self._ring.reset(tail)

    async def _watch(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            quiet = self._silence_seconds - (clock() - self._heard_at)
            if quiet > 0 and not self._hole.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._hole.wait(), quiet)
                continue
            self._hole.clear()
            self._heard_at = clock()
            try:
                await self.heal()
            except HiveError as error:
                log.warning("hub.log_unavailable", cause=str(error))
                await asyncio.sleep(self._silence_seconds)
                self._hole.set()
            except Exception:
                log.exception("hub.heal_failed")
                await asyncio.sleep(self._silence_seconds)
