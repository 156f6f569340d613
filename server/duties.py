"""Background duties that one node of the hive carries out at a time, under leases.

    acquire -> work(term) until stopped, or until the lease is lost -> acquire again

The work is cancelled before the lease can have run out, by this node's monotonic clock: whoever
takes over finds nobody at work. Against a node that is stopped in mid-write and wakes up late,
only fences help; each duty says which it has.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from hive.duty_ports import Leadership
from hive.errors import Unavailable
from server.cancelling import cancel_and_wait

LEASE_SECONDS = 4.5
RETRY_SECONDS = 0.5
log = structlog.get_logger(__name__)


class Duty:
    """Runs `work(term)` whenever this node holds the duty."""

    def __init__(
        self,
        name: str,
        leadership: Leadership,
        node_id: str,
        work: Callable[[int], Awaitable[None]],
        *,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self.name = name
        self._leadership = leadership
        self._node_id = node_id
        self._work = work
        self._lease_seconds = lease_seconds
        self._task: asyncio.Task[None] | None = None
        self._term: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether this node carries the duty out now."""
        return self._term is not None

    def start(self) -> None:
        """Begin to compete for the duty."""
        self._task = asyncio.create_task(self._run(), name=f"duty-{self.name}")

    async def stop(self) -> None:
        """End the work and give the lease up, so that no other node has to wait for its end."""
        if self._task is None:
            return
        term = self._term
        await cancel_and_wait(self._task)
        self._task = None
        if term is not None:
            with suppress(Unavailable):
                await self._leadership.release(self.name, self._node_id, term)

    async def _run(self) -> None:
        while True:
            try:
                started = time.monotonic()
                term = await self._leadership.acquire(self.name, self._node_id, self._lease_seconds)
                if term is not None:
                    await self._hold(term, started + self._lease_seconds)
                    continue
            except Unavailable as error:
                log.warning("duty.store_unavailable", duty=self.name, cause=str(error))
            except Exception:
                log.exception("duty.failed", duty=self.name)
            finally:
                self._term = None
            await asyncio.sleep(RETRY_SECONDS)

    async def _hold(self, term: int, ends_at: float) -> None:
        self._term = term
        log.info("duty.acquired", duty=self.name, term=term)
        work = asyncio.ensure_future(self._work(term))
        renewal = asyncio.create_task(self._renew(term, ends_at))
        try:
            await asyncio.wait({work, renewal}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait(work, renewal)
        log.info("duty.ended", duty=self.name, term=term)
        for task in (work, renewal):
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _renew(self, term: int, ends_at: float) -> None:
        """Renew at each third of the lease, or a bit before; return when it is lost."""
        while True:
            # The duties of a node begin together; their writes need not come together for ever.
            early = random.uniform(0.7, 1.0)  # noqa: S311 - jitter  # nosec B311
            await asyncio.sleep(early * self._lease_seconds / 3)
            renewed_at = time.monotonic()
            try:
                # A store that hangs must not keep us at work behind the end of the lease.
                async with asyncio.timeout(ends_at - renewed_at - self._lease_seconds / 6):
                    if not await self._leadership.renew(
                        self.name, self._node_id, term, self._lease_seconds
                    ):
                        return
                ends_at = renewed_at + self._lease_seconds
            except (Unavailable, TimeoutError):
                # The store may come back in time; one more try must fit before the end.
                if time.monotonic() + self._lease_seconds / 3 >= ends_at:
                    return
