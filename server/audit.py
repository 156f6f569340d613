"""The audit log: a record of every call, on the way of the call."""

from __future__ import annotations

import time

from server.audit_records import Entry
from server.audit_writer import AuditUnavailable, AuditWriter
from server.pipeline import Call


class Audit:
    """The port `server.pipeline.Audits`."""

    def __init__(self, writer: AuditWriter) -> None:
        self._writer = writer

    async def admit(self, call: Call) -> None:
        """Raise AuditUnavailable when the record of the call could not be kept."""
        operation = call.operation
        if operation is not None and not operation.audited:
            return
        if not self._writer.has_room:
            raise AuditUnavailable(reason="too many audit records wait for the store")
        if operation is not None and operation.mutates:
            await self._writer.confirm()

    async def record(self, call: Call, status: int, code: str | None) -> None:
        """Record the outcome: of a mutation durably, of everything else within a second."""
        operation = call.operation
        if operation is not None and operation.mutates and operation.audited:
            await self._writer.commit(Entry(call, status, code, time.monotonic()))
        else:
            self.note(call, status, code)

    def note(self, call: Call, status: int, code: str | None) -> None:
        """Record the outcome within a second. Raises AuditUnavailable when there is no room."""
        if call.operation is None or call.operation.audited:
            self._writer.note(Entry(call, status, code, time.monotonic()))
