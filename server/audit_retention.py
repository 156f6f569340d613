"""Takes old audit records away, from the beginning of their chains, and leaves a signed start.

First the starting point is signed and set, then the records up to it go: an interruption leaves
records too many, never too few.
"""

from __future__ import annotations

import time

import structlog

from hive.audit import PointKind, Record, first_id_at, kind_of, sign_point
from hive.audit_ports import AuditChains, Boot, Checkpoints

BLOCK = 500
MAX_BLOCKS = 200
DAY_MS = 86_400_000
log = structlog.get_logger(__name__)


class AuditRetention:
    """Keeps records for so many days; `boot` is the chain that is being written here."""

    def __init__(
        self, chains: AuditChains, checkpoints: Checkpoints, key: bytes, *, days: float, boot: str
    ) -> None:
        self._chains = chains
        self._checkpoints = checkpoints
        self._key = key
        self._days = days
        self._boot = boot

    async def turn(self) -> int:
        """Take away what is old, up to 100,000 records; how many. Raises Unavailable."""
        bound = first_id_at(round(time.time() * 1000 - self._days * DAY_MS))
        taken = 0
        for boot in await self._chains.boots():
            for _ in range(MAX_BLOCKS):
                count = await self._trim_block(boot.boot, bound)
                taken += count
                if not count or taken >= BLOCK * MAX_BLOCKS:
                    break
            if await self._is_over(boot, bound):
                await self._checkpoints.delete(boot.boot)
                await self._chains.forget_boot(boot.boot)
        if taken:
            log.info("audit.trimmed", records=taken)
        return taken

    async def _trim_block(self, boot: str, bound: str) -> int:
        noted = await self._chains.find_boot(boot)
        start = noted.start if noted else None
        if start is not None and kind_of(self._key, start) is not PointKind.START:
            # Whoever forged it is found by verification; nothing is built upon it.
            return 0
        begin = start.n if start else 0
        block = await self._chains.block(boot, begin, BLOCK)
        if not block or not all(_is_old(record, bound) for record in block):
            return 0
        if [record["n"] for record in block] != list(range(begin + 1, begin + len(block) + 1)):
            return 0
        last = block[-1]
        point = sign_point(self._key, PointKind.START, boot, last["n"], str(last["hash"]))
        await self._chains.trim(point)
        await self._checkpoints.delete(boot, below=point.n)
        return len(block)

    async def _is_over(self, boot: Boot, bound: str) -> bool:
        """Whether an old chain of another start is empty, as its start says that it should be."""
        noted = await self._chains.find_boot(boot.boot)
        if boot.boot == self._boot or noted is None or noted.start is None:
            return False
        # Identifiers of boots carry the time, too: a chain that lives may be empty for a while.
        if _suffix(boot.boot) >= _suffix(bound) or await self._chains.last(boot.boot) is not None:
            return False
        last = await self._checkpoints.last(boot.boot)
        return last is None or last.n <= noted.start.n


def _is_old(record: Record, bound: str) -> bool:
    return isinstance(record.get("n"), int) and str(record.get("record_id")) < bound


def _suffix(identifier: str) -> str:
    return identifier.rpartition("_")[2]
