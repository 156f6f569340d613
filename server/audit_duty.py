"""What is done for the audit log beside the calls: completion, ends of chains, retention.

Each node looks after its own earlier starts when it has started. The duty `auditor` looks after
everybody's: one node at a time has it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from hive.audit import ChainCheck, PointKind, kind_of, sign_point
from hive.audit_ports import AuditChains, Boot, Checkpoints
from hive.duty_ports import Leadership
from hive.errors import Unavailable
from server.audit_completion import Completion
from server.audit_retention import AuditRetention
from server.cancelling import cancel_and_wait

DUTY = "auditor"
TURN_SECONDS = 0.5
OWN_SECONDS = 20.0
SAVE_SECONDS = 5.0
RETENTION_SECONDS = 600.0
log = structlog.get_logger(__name__)


class Auditor:
    """`start` and `stop` are for the node's own; `work` is the duty."""

    def __init__(
        self,
        leadership: Leadership,
        completion: Callable[[int], Completion],
        retention: AuditRetention,
        ends: ChainEnds,
        *,
        node_id: str,
    ) -> None:
        self._leadership = leadership
        self._completion = completion
        self._retention = retention
        self._ends = ends
        self._node_id = node_id
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look after this node's earlier starts, for a while."""
        self._task = asyncio.create_task(self._complete_own(), name="audit-own")

    async def stop(self) -> None:
        """Stop to."""
        await cancel_and_wait(self._task)

    async def work(self, term: int) -> None:
        """Complete everybody's records and take old ones away, until cancelled."""
        saved = await self._load_position()
        completion = self._completion(saved)
        saved_at = trimmed_at = float("-inf")
        while True:
            await completion.turn()
            now = time.monotonic()
            if now - saved_at >= SAVE_SECONDS and completion.position != saved:
                saved, saved_at = completion.position, now
                if not await self._leadership.save_checkpoint(
                    DUTY, self._node_id, term, {"seq": saved}
                ):
                    return
            if now - trimmed_at >= RETENTION_SECONDS:
                trimmed_at = now
                await self._retention.turn()
            await asyncio.sleep(TURN_SECONDS)

    async def _complete_own(self) -> None:
        began = time.monotonic()
        completion: Completion | None = None
        while time.monotonic() - began < OWN_SECONDS:
            try:
                if completion is None:
                    completion = self._completion(await self._load_position())
                await completion.turn()
            except Unavailable as error:
                log.warning("audit.completion_waits", cause=str(error))
            await asyncio.sleep(TURN_SECONDS)
        # A write of the killed process that was still on its way has arrived by now.
        try:
            await self._ends.sign()
        except Unavailable as error:
            log.warning("audit.ends_not_signed", cause=str(error))

    async def _load_position(self) -> int:
        checkpoint = await self._leadership.load_checkpoint(DUTY)
        return int(checkpoint["seq"]) if checkpoint else 0


class ChainEnds:
    """Signs the ends of chains that a kill of this node left open."""

    def __init__(
        self, chains: AuditChains, checkpoints: Checkpoints, key: bytes, *, node_id: str, boot: str
    ) -> None:
        self._chains = chains
        self._checkpoints = checkpoints
        self._key = key
        self._node_id = node_id
        self._boot = boot

    async def sign(self) -> None:
        """Sign those that follow from their last point. Raises Unavailable."""
        for boot in await self._chains.boots():
            if boot.node_id == self._node_id and boot.boot != self._boot:
                await self._sign(boot)

    async def _sign(self, boot: Boot) -> None:
        point = await self._checkpoints.last(boot.boot)
        if point is not None and kind_of(self._key, point) is not PointKind.CHECKPOINT:
            return
        check = ChainCheck(self._key, boot.boot, boot.start)
        broken = check.begin()
        if point is not None and point.n > check.n:
            check.n, check.hash = point.n, point.hash
        async for record in self._chains.records(boot.boot, after=check.n):
            broken = broken or check.take(record)
        if broken is not None:
            log.error("audit.chain_broken", boot=broken.boot, n=broken.n, problem=broken.problem)
        elif check.n:
            await self._checkpoints.add(
                sign_point(self._key, PointKind.END, boot.boot, check.n, check.hash)
            )
