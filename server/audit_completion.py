"""Completes the audit log after a kill: an event tells of a call that has no record.

The record of a mutation is durable before the answer, but after the change: a kill in between
leaves a change without a record. The event of the change names the call, so whoever reads the event
log can write the record, with the outcome `recovered`. `record_id` is unique, so nobody makes two.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import structlog

from hive.audit import time_ms_of
from hive.audit_ports import Acted, AuditLog
from server.audit_records import CallIdentifiers, describe_recovered
from server.audit_writer import AuditWriter

OTHERS_SECONDS = 120.0
"""No request runs for longer than a minute: after two, nobody will write the record any more."""
BATCH = 1000
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Lacking:
    acted: Acted
    seen_at: float

    @property
    def age_seconds(self) -> float:
        return self.acted.age_seconds + time.monotonic() - self.seen_at


class Completion:
    """Follows the event log from `position`; `turn` looks at what is new and what is still lacking.

    Calls of this node's earlier starts are completed at once, those of others when they are old.
    """

    def __init__(
        self,
        store: AuditLog,
        writer: AuditWriter,
        identifiers: CallIdentifiers,
        *,
        began_ms: int,
        position: int = 0,
    ) -> None:
        self._store = store
        self._writer = writer
        self._identifiers = identifiers
        self._began_ms = began_ms
        self._read = position
        self._lacking: dict[str, _Lacking] = {}
        self._noted: set[str] = set()

    @property
    def position(self) -> int:
        """All calls of events up to here have their record."""
        first = min((one.acted.seq for one in self._lacking.values()), default=self._read + 1)
        return first - 1

    async def turn(self) -> None:
        """Look at the events since the last turn. Raises Unavailable."""
        while True:
            events = await self._store.acted(self._read, BATCH)
            now = time.monotonic()
            for one in events:
                if one.call_id is not None and one.call_id not in self._lacking:
                    self._lacking[one.call_id] = _Lacking(one, now)
            if self._lacking:
                await self._complete()
            if events:
                self._read = events[-1].seq
            if len(events) < BATCH:
                return

    async def _complete(self) -> None:
        missing = await self._store.missing(list(self._lacking))
        self._lacking = {call: one for call, one in self._lacking.items() if call in missing}
        self._noted &= missing
        for call_id, one in self._lacking.items():
            # Noted ones are lacking until they are durable; the position waits for that.
            if call_id not in self._noted and self._is_lost(one):
                log.warning("audit.completed", call=call_id, event_type=one.acted.event)
                self._writer.note(describe_recovered(one.acted))
                self._noted.add(call_id)

    def _is_lost(self, one: _Lacking) -> bool:
        call_id = one.acted.call_id or ""
        if self._identifiers.are_ours(call_id) and time_ms_of(call_id) < self._began_ms:
            return True
        return one.age_seconds > OTHERS_SECONDS
