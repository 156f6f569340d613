"""Signs how far a chain has come, in another database than the records."""

from __future__ import annotations

import asyncio
import time

import structlog

from hive.audit import PointKind, sign_point
from hive.audit_ports import Checkpoints
from hive.errors import Unavailable

RECORDS = 500
SECONDS = 30.0
RETRY_SECONDS = 2.0
log = structlog.get_logger(__name__)


class CheckpointSigner:
    """Signs after 500 records or 30 s, so that even one that fails leaves less than 1,000 or 60 s.

    `look` never waits: a database that is away makes checkpoints late, not calls.
    """

    def __init__(self, checkpoints: Checkpoints, key: bytes, boot: str) -> None:
        self._checkpoints = checkpoints
        self._key = key
        self._boot = boot
        self._signed = 0
        self._since: float | None = None
        self._not_before = float("-inf")
        self._task: asyncio.Task[None] | None = None

    def look(self, n: int, last_hash: str) -> None:
        """Sign record `n`, which is durable, when it is time."""
        now = time.monotonic()
        if n == self._signed or self._task is not None:
            return
        if self._since is None:
            self._since = now
        due = n - self._signed >= RECORDS or now - self._since >= SECONDS
        if due and now >= self._not_before:
            self._since = None
            self._task = asyncio.create_task(
                self._keep(PointKind.CHECKPOINT, n, last_hash), name="audit-checkpoint"
            )
            self._task.add_done_callback(self._forget)

    async def end(self, n: int, last_hash: str) -> None:
        """Sign that the chain ends here."""
        if self._task is not None:
            await asyncio.wait({self._task})
        if n:
            await self._keep(PointKind.END, n, last_hash)

    async def _keep(self, kind: PointKind, n: int, last_hash: str) -> None:
        try:
            await self._checkpoints.add(sign_point(self._key, kind, self._boot, n, last_hash))
            self._signed = n
        except Unavailable as error:
            log.warning("audit.checkpoint_late", n=n, cause=str(error))
            self._since = time.monotonic() - SECONDS
            self._not_before = time.monotonic() + RETRY_SECONDS

    def _forget(self, done: asyncio.Task[None]) -> None:
        self._task = None
        if not done.cancelled() and (error := done.exception()) is not None:
            log.error("audit.checkpoint_failed", exc_info=error)
            self._not_before = time.monotonic() + RETRY_SECONDS
