"""Writes a node's chain of audit records: one batch at a time, in order, none twice.

What comes while a batch is on its way goes into the next one (group commit). A batch of which the
outcome is unknown is written again under the same places until it is known. While that lasts the
store counts as down: mutations are refused before they act, and whoever waits for a record is told
at once that it is not durable yet; the record itself is kept and written later. What waits is
bounded: without room nothing is taken any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from hive.audit import chain, genesis
from hive.audit_ports import AuditLog, RecordExists
from hive.errors import Unavailable
from server.audit_checkpoints import CheckpointSigner
from server.audit_records import AuditRecords, Entry, describe_bare

FLUSH_SECONDS = 0.6
RETRY_SECONDS = 0.25
CONFIRMED_SECONDS = 1.0
BATCH = 500
IN_THREAD = 50
MAX_WAITING = 20_000
log = structlog.get_logger(__name__)


class AuditUnavailable(Unavailable):
    """The audit log can't be written now; without a record nothing is done."""

    default_detail = "The audit log can't be written now. Try again."


class AuditWriter:
    """One chain, from `start` to `stop`."""

    def __init__(
        self,
        store: AuditLog,
        records: AuditRecords,
        signer: CheckpointSigner,
        *,
        boot: str,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.boot = boot
        self._store = store
        self._records = records
        self._signer = signer
        self._max_waiting = max_waiting
        self._n = 0
        self._hash = genesis(boot)
        self._pending: list[Entry | Mapping[str, Any]] = []
        self._batch: list[dict[str, Any]] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._stopping = False
        self._confirmed_at = float("-inf")
        self._is_down = False
        self._turned_away = 0

    @property
    def is_down(self) -> bool:
        """Whether the last attempt to write failed."""
        return self._is_down

    @property
    def has_room(self) -> bool:
        """Whether another record can be taken."""
        return len(self._pending) + len(self._batch) < self._max_waiting

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name="audit-writer")

    async def stop(self) -> None:
        """Write what waits, as far as the store is there, and sign the end of the chain."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait({self._task})
        if self._pending or self._batch:
            log.error("audit.records_lost", count=len(self._pending) + len(self._batch))
        else:
            await self._signer.end(self._n, self._hash)

    def note(self, entry: Entry | Mapping[str, Any]) -> None:
        """Take a record; it is durable within a second of the store being there.

        A mapping is a record's fields as they are. Raises AuditUnavailable when there is no room.
        """
        if len(self._pending) + len(self._batch) >= self._max_waiting:
            self._turned_away += 1
            raise AuditUnavailable(reason="too many audit records wait for the store")
        self._pending.append(entry)

    async def commit(self, entry: Entry) -> None:
        """Take a record and return when it is durable.

        Raises AuditUnavailable when it is not; then it is written as soon as that is possible.
        """
        if self._is_down:
            self.note(entry)
            raise AuditUnavailable(reason="the audit store is down")
        entry.done = asyncio.get_running_loop().create_future()
        self.note(entry)
        self._wake.set()
        await entry.done

    async def confirm(self) -> None:
        """Raise AuditUnavailable unless the store took a write a second ago, or takes one now."""
        if self._is_down:
            raise AuditUnavailable(reason="the audit store is down")
        if time.monotonic() - self._confirmed_at < CONFIRMED_SECONDS:
            return
        if self._probing is None:
            self._probing = asyncio.create_task(self._probe(), name="audit-probe")
            self._probing.add_done_callback(self._probed)
        await asyncio.shield(self._probing)
        if self._is_down:
            raise AuditUnavailable(reason="the audit store is down")

    async def _probe(self) -> None:
        began = time.monotonic()
        try:
            await self._store.touch_boot(self.boot)
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing can be written
            self._failed(error)
        else:
            self._confirmed_at = max(self._confirmed_at, began)
            # A batch that could not be written still stands in the way.
            if not self._batch:
                self._recovered()

    def _probed(self, _done: asyncio.Task[None]) -> None:
        self._probing = None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._stopping:
                timer = loop.call_later(
                    RETRY_SECONDS if self._is_down else FLUSH_SECONDS, self._wake.set
                )
                await self._wake.wait()
                timer.cancel()
                self._wake.clear()
            is_last = self._stopping
            try:
                await self._flush()
            except Exception:
                log.exception("audit.writer_failed")
                self._is_down = True
            self._signer.look(self._n, self._hash)
            if is_last:
                return

    async def _flush(self) -> None:
        if self._is_down and not self._batch and not self._pending:
            await self._probe()
        while self._batch or self._pending:
            if not self._batch:
                await self._take()
            began = time.monotonic()
            try:
                await self._write()
            except Exception as error:  # noqa: BLE001 - it is tried again until it is written
                self._failed(error)
                return
            self._confirmed_at = began
            self._recovered()
            for done in self._waiting:
                if not done.done():
                    done.set_result(None)
            self._waiting = []
            self._signer.look(self._n, self._hash)

    async def _take(self) -> None:
        taken, self._pending = self._pending[:BATCH], self._pending[BATCH:]
        self._waiting = [
            one.done for one in taken if isinstance(one, Entry) and one.done is not None
        ]
        if len(taken) > IN_THREAD:
            # In flight of the thread they are nowhere else; nobody cancels this task.
            self._batch = await asyncio.to_thread(self._chain, taken)
        else:
            self._batch = self._chain(taken)

    def _chain(self, taken: Sequence[Entry | Mapping[str, Any]]) -> list[dict[str, Any]]:
        described = [self._described(one) if isinstance(one, Entry) else dict(one) for one in taken]
        return chain(described, boot=self.boot, n=self._n, last_hash=self._hash)

    def _described(self, entry: Entry) -> dict[str, Any]:
        try:
            return self._records.describe(entry)
        except Exception:
            # A record that says little is better than none, and than the loss of its whole batch.
            log.exception("audit.not_described", call=entry.call.call_id)
            return describe_bare(entry)

    async def _write(self) -> None:
        while self._batch:
            try:
                await self._store.append(self._batch)
            except RecordExists as error:
                kept, again = self._batch[: error.index], self._batch[error.index + 1 :]
                log.warning("audit.recorded_elsewhere", call=self._batch[error.index]["record_id"])
                self._advance(kept)
                self._batch = chain(again, boot=self.boot, n=self._n, last_hash=self._hash)
            else:
                self._advance(self._batch)
                self._batch = []

    def _advance(self, written: Sequence[Mapping[str, Any]]) -> None:
        if written:
            self._n, self._hash = written[-1]["n"], written[-1]["hash"]

    def _failed(self, error: Exception) -> None:
        if not self._is_down:
            log.error("audit.store_down", cause=str(error)[:500])
        self._is_down = True
        self._confirmed_at = float("-inf")
        late = [
            *self._waiting,
            *(e.done for e in self._pending if isinstance(e, Entry) and e.done is not None),
        ]
        for done in late:
            if not done.done():
                done.set_exception(AuditUnavailable(reason="the audit store is down"))
        self._waiting = []

    def _recovered(self) -> None:
        if self._is_down:
            log.warning("audit.store_up", turned_away=self._turned_away)
            self._is_down = False
            self._turned_away = 0
