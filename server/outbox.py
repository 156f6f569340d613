"""Brings the events of what SQL changed into the event log, under the duty lease `outbox`.

A change in SQL and its row in the outbox are one transaction. One turn, oldest row first:

1. Read rows of the outbox.
2. Put each into MongoDB as a notice under the event's identifier; the change stream shows it to
   the recorder. What is there already is left as it is.
3. Delete those rows, by the event's identifier: SQLite gives positions out again.
4. Take notices away whose events are in the log.

A kill between any two steps repeats them: a notice is put once for its identifier, and an event is
in the log once for its identifier, also when a holder of the duty that was stopped in mid-turn
wakes up late.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Final

from hive.duty_ports import Notices, Outbox

DUTY: Final = "outbox"
BATCH: Final = 100
POLL_SECONDS: Final = 0.5
TERM_BITS: Final = 32
"""A term puts fewer notices than this; the place of a notice is its term, then its number."""


class OutboxRelay:
    """Moves events from SQL's outbox towards the log, in order."""

    def __init__(
        self, outbox: Outbox, notices: Notices, *, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._outbox = outbox
        self._notices = notices
        self._poll_seconds = poll_seconds
        self._woken = asyncio.Event()
        self._place = 0
        self._to_clear = True

    def wake(self) -> None:
        """Look at the outbox now: something was committed on this node."""
        self._woken.set()

    async def work(self, term: int) -> None:
        """Move events until cancelled. Raises Unavailable when one of the databases is down."""
        self._place = term << TERM_BITS
        self._to_clear = True
        while True:
            self._woken.clear()
            if await self._turn() == BATCH:
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._woken.wait()

    async def _turn(self) -> int:
        """Move one batch; how many there were."""
        entries = await self._outbox.read(limit=BATCH)
        for entry in entries:
            self._place += 1
            await self._notices.put(replace(entry, version=self._place))
        if entries:
            await self._outbox.delete([entry.id for entry in entries])
        if entries or self._to_clear:
            self._to_clear = await self._notices.clear(limit=BATCH) or bool(entries)
        return len(entries)
