"""The recorder: reads the changes of all resources and writes the event log, `seq` by `seq`.

Life cycle, under the duty lease `recorder`:

1. Read the end of the log and the checkpoint; the later of their tokens is where the last recorder
stopped.
2. Open the change stream there. In a new database there is no token, and an outage may have
outlived the oplog: then
   open it now, append `log.reset` (not in a new database), and record the last event of every
   resource that, when the stream began, had a newer version than its last one in the log.
3. Append each batch behind the last `seq`, then publish it. The write is majority-committed before
anybody hears of it.
4. Now and then save the stream's own token as a checkpoint: quiet times must not outlive the oplog.

Two recorders can't both write: `_id` is `seq`. Whoever collides, or doesn't know the outcome of a
write, begins again with 1.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog

from hive.duty_ports import (
    ChangeFeed,
    ChangeStream,
    HistoryLost,
    Leadership,
    LogWriter,
    Recorded,
)
from hive.events import Event, check_type

DUTY = "recorder"
CHECKPOINT_SECONDS = 5.0
MOMENT_SECONDS = 0.005
"""Between two batches: the first event of a quiet time is recorded at once."""
TRIM_SECONDS = 600.0
TRIM_EVENTS = 5000
log = structlog.get_logger(__name__)
Token = Mapping[str, Any]


class Recorder:
    """Writes the log and hands what it has written to `publish`, in order."""

    def __init__(
        self,
        feed: ChangeFeed,
        writer: LogWriter,
        leadership: Leadership,
        publish: Callable[[Sequence[Event]], None],
        *,
        node_id: str,
        retention_days: float,
    ) -> None:
        self._feed = feed
        self._writer = writer
        self._leadership = leadership
        self._publish = publish
        self._node_id = node_id
        self._retention_days = retention_days
        self._seq = 0
        self.last_turn: float | None = None
        """When the stream last answered, on the monotonic clock."""

    async def work(self, term: int) -> None:
        """Record until cancelled.

        Raises Unavailable, and SeqTaken when another recorder is at work.
        """
        checkpoint = await self._leadership.load_checkpoint(DUTY)
        tail = await self._writer.read_tail()
        self._seq = tail.seq
        token = later(tail.token, checkpoint["token"] if checkpoint else None)
        try:
            if token is not None:
                async with self._feed.open(token) as stream:
                    await self._follow(stream, term)
                return
        except HistoryLost:
            log.exception("recorder.history_lost", seq=self._seq)
        async with self._feed.open(None) as stream:
            await self._reconcile(stream, lost=token)
            await self._save(stream, term)
            await self._follow(stream, term)

    async def _follow(self, stream: ChangeStream, term: int) -> None:
        saved_at = time.monotonic()
        trimmed_at = float("-inf")
        while True:
            batch = await stream.next_batch()
            self.last_turn = now = time.monotonic()
            if batch:
                await self._append(batch)
                # What happens until then costs no more than one event.
                await asyncio.sleep(MOMENT_SECONDS)
            if now - saved_at >= CHECKPOINT_SECONDS:
                saved_at = now
                if not await self._save(stream, term):
                    return
            if now - trimmed_at >= TRIM_SECONDS:
                # In small steps, so that nobody waits for an event because old ones go.
                trimmed = await self._writer.trim(self._retention_days, at_most=TRIM_EVENTS)
                if trimmed < TRIM_EVENTS:
                    trimmed_at = now

    async def _append(self, batch: Sequence[Recorded]) -> None:
        events = await self._writer.append(self._seq, batch)
        if events:
            self._seq = events[-1].seq
            self._publish(events)

    async def _save(self, stream: ChangeStream, term: int) -> bool:
        if stream.token is None:
            return True
        return await self._leadership.save_checkpoint(
            DUTY, self._node_id, term, {"token": stream.token}
        )

    async def _reconcile(self, stream: ChangeStream, *, lost: Token | None) -> None:
        if stream.token is None:
            raise AssertionError("a stream without a position")
        # These entries keep the lost token: a kill before the next checkpoint begins here again.
        if lost is not None:
            await self._append([_reset_entry(self._seq + 1, lost)])
        async for batch in self._feed.unrecorded(stream.token):
            await self._append([replace(entry, token=lost) for entry in batch])


def later(one: Token | None, other: Token | None) -> Token | None:
    """The later of two resume tokens.

    Their `_data` is a hexadecimal key that sorts by cluster time.
    """
    if one is None or other is None:
        return one or other
    return max(one, other, key=lambda token: str(token["_data"]))


def _reset_entry(seq: int, token: Token | None) -> Recorded:
    return Recorded(
        id=f"log:{seq}",
        type=check_type("log.reset"),
        subject="log",
        time=datetime.now(UTC),
        version=seq,
        data={"reason": "history-lost"},
        actor="system:recorder",
        request_id=None,
        token=token,
    )
