"""Takes away what is old: ended tasks with their log lines and files, and tombstones of agents.

One node at a time has the duty `retention`. Every step is idempotent, so a second one does no harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from hive.errors import Unavailable
from hive.retention import OldData, WalkPosition

DUTY = "retention"
TURN_SECONDS = 60.0
PAGE = 200
PAGES_A_TURN = 100
PAUSE_SECONDS = 0.05
log = structlog.get_logger(__name__)


class Retention:
    """Keeps ended tasks for so many days; 0 keeps them for ever."""

    def __init__(self, old: OldData, *, task_days: int) -> None:
        self._old = old
        self._task_days = task_days
        self._place: WalkPosition | None = None

    async def work(self, term: int) -> None:
        """Take away until cancelled."""
        while True:
            try:
                await self.turn()
            except Unavailable as error:
                log.warning("retention.store_unavailable", term=term, cause=str(error))
            await asyncio.sleep(TURN_SECONDS)

    async def turn(self) -> None:
        """One walk along what is old, up to 20,000 of each kind; the next turn goes on there."""
        if self._task_days:
            for _ in range(PAGES_A_TURN):
                self._place = await self._old.retire(self._task_days, after=self._place, limit=PAGE)
                if self._place is None:
                    break
                await asyncio.sleep(PAUSE_SECONDS)
        # Also without retention: what was retired before is on its way.
        await self._delete("tasks", self._old.delete_retired)
        await self._old.sweep_files(limit=PAGE)
        await self._delete("agents", self._old.delete_tombstones)

    async def _delete(self, what: str, delete: Callable[..., Awaitable[int]]) -> None:
        gone = 0
        for _ in range(PAGES_A_TURN):
            found = await delete(limit=PAGE)
            gone += found
            if found < PAGE:
                break
            await asyncio.sleep(PAUSE_SECONDS)
        if gone:
            log.info("retention.deleted", what=what, number=gone)
