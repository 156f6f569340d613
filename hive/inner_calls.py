"""Calls within a call: one request that asks for many things is charged and recorded for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hive.errors import Invalid


class MoreThanLimit(Invalid):
    """One request asks for more than its caller may have in a whole window (422)."""

    code = "more-than-limit"
    title = "More than the limit"


@dataclass(frozen=True, slots=True)
class InnerCall:
    """What became of one of them: its status, what it made, and the code of its refusal."""

    status: int
    resource: str | None = None
    code: str | None = None


class InnerCalls(Protocol):
    """Of the call that is under way."""

    async def charge(self, count: int) -> None:
        """Charge the caller for so many more calls like the one under way: all or none.

        Raises RateLimited; MoreThanLimit when waiting would not help.
        """

    def record(self, operation_id: str, calls: Sequence[InnerCall]) -> None:
        """Put each into the audit log as a call of that operation.

        They are durable when the record of the call under way is. Raises Unavailable.
        """
