"""The audit log: a record of every call."""

from __future__ import annotations

from server.pipeline import Call


class Audit:
    """Keeps a record of every call."""

    async def admit(self, call: Call) -> None:
        """Let every call through."""

    async def record(self, call: Call, status: int, code: str | None) -> None:
        """Keep nothing."""
