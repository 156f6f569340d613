"""Sessions of users: the port `hive.user_ports.Sessions`, and the end of those that expired."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from hive.changes import Actor
from hive.errors import Unavailable
from hive.identity import Session
from hive.user_ports import SessionStore
from server.cancelling import cancel_and_wait

SWEEP_SECONDS = 600.0
SWEEP_BATCH = 500

log = logging.getLogger(__name__)


class StoredSessions:
    """Brings together the store and whoever follows revocations (`announce`)."""

    def __init__(self, store: SessionStore, *, announce: Callable[[str], None]) -> None:
        self._store = store
        self._announce = announce

    async def list(self, user_id: str, *, after: str | None, limit: int) -> Sequence[Session]:
        """The live ones, newest first."""
        return await self._store.list(user_id, after=after, limit=limit)

    async def revoke(self, user_id: str, session_id: str, actor: Actor) -> None:
        """End one. Raises SessionNotFound."""
        await self._store.end(user_id, session_id, actor)
        self._announce(session_id)

    async def revoke_all(self, user_id: str, actor: Actor, *, but: str | None = None) -> int:
        """End all but one."""
        ended = await self._store.end_all(user_id, actor, but=but)
        for session_id in ended:
            self._announce(session_id)
        return len(ended)


class SessionSweep:
    """Deletes sessions past their end, with their refresh tokens, in small transactions.

    Every node does, without a leader: what is deleted twice is deleted once.
    """

    def __init__(self, store: SessionStore, *, seconds: float = SWEEP_SECONDS) -> None:
        self._store = store
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, with the first sweep after one period."""
        self._task = asyncio.create_task(self._run(), name="session-sweep")

    async def stop(self) -> None:
        """End the background task. Idempotent."""
        task, self._task = self._task, None
        await cancel_and_wait(task)

    async def sweep(self) -> int:
        """Sweep once; how many sessions went. Raises Unavailable."""
        gone = 0
        while (batch := await self._store.sweep(SWEEP_BATCH)) > 0:
            gone += batch
        return gone

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self.sweep()
            except Unavailable as error:
                log.warning("expired sessions were not swept: %s", error)
            except Exception:
                # This duty must outlive anything that a single round can meet.
                log.exception("expired sessions were not swept")
