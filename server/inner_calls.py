"""Calls within a call: charged and recorded as if each had come alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from hive.inner_calls import InnerCall
from server.pipeline import Audits, Call, Charges


class CallsWithin:
    """The port `hive.inner_calls.InnerCalls` for one call."""

    def __init__(
        self, call: Call, limits: Charges, audit: Audits, new_call_id: Callable[[], str]
    ) -> None:
        self._call = call
        self._limits = limits
        self._audit = audit
        self._new_call_id = new_call_id

    async def charge(self, count: int) -> None:
        """As the port says."""
        if count > 0:
            await self._limits.charge_more(self._call, count)

    def record(self, operation_id: str, calls: Sequence[InnerCall]) -> None:
        """As the port says."""
        for one in calls:
            # They stand before the record of the call itself, which is awaited.
            inner = replace(
                self._call,
                call_id=self._new_call_id(),
                operation=None,
                action=operation_id,
                resource=one.resource,
            )
            self._audit.note(inner, one.status, one.code)
