"""What the audit log needs of its stores, as guarantees.

All methods raise `Unavailable` when the store does not answer in time; a write that raised it may
or may not have happened, and repeating it is safe.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from hive.audit import AuditOutcome, ChainPoint, Record


class RecordExists(Exception):
    """Another chain has a record of the call at `index` of the batch; those before it are kept."""

    def __init__(self, index: int) -> None:
        self.index = index
        super().__init__(f"record {index} of the batch")


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which records a list shows; None is any. `since` is inclusive, `until` is not."""

    actor: str | None = None
    operation: str | None = None
    outcome: AuditOutcome | None = None
    resource: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Boot:
    """A start of a node, and where its chain begins by now (None: at record 1)."""

    boot: str
    node_id: str | None
    start: ChainPoint | None


@dataclass(frozen=True, slots=True)
class Acted:
    """An event, and the call that caused it (None: no call did)."""

    seq: int
    call_id: str | None
    event: str
    subject: str
    actor: str | None
    request_id: str | None
    age_seconds: float


class AuditReader(Protocol):
    """The records as clients see them."""

    async def get(self, record_id: str) -> Record:
        """Raise AuditRecordNotFound when there is none."""

    async def list(
        self, wanted: AuditFilter, *, before: str | None, limit: int
    ) -> Sequence[Record]:
        """Newest first, below the identifier `before`."""

    async def export(
        self, wanted: AuditFilter, *, after: tuple[str, int] | None, limit: int
    ) -> Sequence[Record]:
        """Chain by chain, oldest chain first, behind (boot, n)."""


class AuditLog(Protocol):
    """The end of the chains that nodes write."""

    async def open_boot(self, boot: str, node_id: str) -> None:
        """Note that a node starts a chain. Idempotent."""

    async def touch_boot(self, boot: str) -> None:
        """Write something, as durably as a record: returning proves that records can be kept."""

    async def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Keep records of one chain, majority-committed on return. Idempotent, in order.

        Raises RecordExists when a call has its record in another place.
        """

    async def missing(self, record_ids: Sequence[str]) -> set[str]:
        """Those of the calls that have no record."""

    async def acted(self, after: int, limit: int) -> Sequence[Acted]:
        """The events behind `seq`, ascending. Age is by the database's clock."""


class AuditChains(Protocol):
    """The chains as a whole, for verification and retention."""

    async def boots(self) -> Sequence[Boot]:
        """All chains that have a record or are noted, oldest first."""

    async def find_boot(self, boot: str) -> Boot | None:
        """One that is noted."""

    async def stray(self) -> str | None:
        """The place of something that is in no chain, as text; None when there is none."""

    def records(self, boot: str, *, after: int = 0) -> AsyncIterator[Record]:
        """The records of a chain behind number `after`, in order, read as they are asked for."""

    async def block(self, boot: str, after: int, limit: int) -> Sequence[Record]:
        """As `records`, at most `limit`."""

    async def last(self, boot: str) -> Record | None:
        """The last record of a chain."""

    async def trim(self, start: ChainPoint) -> None:
        """Set the starting point, then take away the records up to it. Idempotent."""

    async def forget_boot(self, boot: str) -> None:
        """Forget a chain of which nothing is left. Idempotent."""


class Checkpoints(Protocol):
    """Signed points of chains, in another database than the records."""

    async def add(self, point: ChainPoint) -> None:
        """Keep a point; a later one of the same number replaces it."""

    async def boots(self) -> Sequence[str]:
        """The chains that have points."""

    async def page(self, boot: str, *, after: int, limit: int) -> Sequence[ChainPoint]:
        """The points of a chain with greater numbers, in order."""

    async def last(self, boot: str) -> ChainPoint | None:
        """The point with the greatest number."""

    async def delete(self, boot: str, *, below: int | None = None) -> None:
        """Forget the points with smaller numbers (None: all)."""
