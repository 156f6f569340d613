"""The reports of one link that run now: bounded in number and bytes, in order within a lease."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

MAX_REPORTS: Final = 256
MAX_BYTES: Final = 8 * 1024 * 1024

Report = asyncio.Task[None]


class ReportsInFlight:
    """Reports of different leases run beside each other; those of a lease follow one another."""

    def __init__(self) -> None:
        self._bytes: dict[Report, int] = {}
        self._last: dict[str, Report] = {}

    async def make_room(self) -> None:
        """Wait until one more report may start. One caller at a time: the socket's reader."""
        while self._bytes and (
            len(self._bytes) >= MAX_REPORTS or sum(self._bytes.values()) > MAX_BYTES
        ):
            await asyncio.wait(self._bytes, return_when=asyncio.FIRST_COMPLETED)

    def add(self, lease_id: str, size: int, start: Callable[[Report | None], Report]) -> None:
        """Start a report of `size` bytes; `start` gets the earlier one that it has to wait for."""
        report = start(self._last.get(lease_id))
        self._bytes[report] = size
        self._last[lease_id] = report
        report.add_done_callback(lambda done: self._forget(done, lease_id))

    def _forget(self, report: Report, lease_id: str) -> None:
        self._bytes.pop(report, None)
        if self._last.get(lease_id) is report:
            del self._last[lease_id]
