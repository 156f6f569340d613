"""Verifies all chains of the audit log, from the stores, without keeping more than a page of them.

Records and checkpoints may be added and trimmed meanwhile: a chain that looks broken because its
beginning moved is looked at again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from hive.audit import Break, ChainCheck, ChainPoint
from hive.audit_ports import AuditChains, Checkpoints

PAGE = 500
AGAIN = 3


@dataclass(slots=True)
class Verdict:
    """What was found: `breaks` has the first one of each chain that is broken."""

    chains: int = 0
    records: int = 0
    checkpoints: int = 0
    breaks: list[Break] = field(default_factory=list)


class AuditVerification:
    """Reads the stores; changes nothing."""

    def __init__(self, chains: AuditChains, checkpoints: Checkpoints, key: bytes) -> None:
        self._chains = chains
        self._checkpoints = checkpoints
        self._key = key

    async def run(self) -> Verdict:
        """Verify every chain that has a record, a checkpoint or a note. Raises Unavailable."""
        verdict = Verdict()
        # First the signed points, then the records: what is signed is there by then.
        signed = await self._checkpoints.boots()
        known = [boot.boot for boot in await self._chains.boots()]
        stray = await self._chains.stray()
        if stray is not None:
            verdict.breaks.append(Break("none", 0, f"{stray} belongs to no chain"))
        for boot in sorted({*signed, *known}):
            broken = await self._verify(boot, verdict)
            verdict.chains += 1
            if broken is not None:
                verdict.breaks.append(broken)
        return verdict

    async def _verify(self, boot: str, verdict: Verdict) -> Break | None:
        broken: Break | None = None
        for _ in range(AGAIN):
            start = await self._start(boot)
            broken = await self._walk(boot, start, verdict)
            if broken is None or await self._start(boot) == start:
                break
        return broken

    async def _start(self, boot: str) -> ChainPoint | None:
        noted = await self._chains.find_boot(boot)
        return noted.start if noted else None

    async def _walk(self, boot: str, start: ChainPoint | None, verdict: Verdict) -> Break | None:
        check = ChainCheck(self._key, boot, start)
        if (broken := check.begin()) is not None:
            return broken
        last = await self._checkpoints.last(boot)
        reach = last.n if last else 0
        points = self._points(boot, reach)
        point = await anext(points, None)
        async for record in self._chains.records(boot):
            if (broken := check.take(record)) is not None:
                return broken
            verdict.records += 1
            while point is not None and point.n <= check.n:
                if (broken := check.confirm(point)) is not None:
                    return broken
                verdict.checkpoints += 1
                point = await anext(points, None)
        while point is not None and point.n <= check.n:
            if (broken := check.confirm(point)) is not None:
                return broken
            point = await anext(points, None)
        return check.finish(reach)

    async def _points(self, boot: str, reach: int) -> AsyncIterator[ChainPoint]:
        after = 0
        while page := await self._checkpoints.page(boot, after=after, limit=PAGE):
            for point in page:
                if point.n > reach:
                    return
                yield point
            after = page[-1].n
