"""Takes the recorder's events to the hubs of the other nodes, without waiting for their silence.

Nothing depends on it: a hub that hears nothing for a second reads the log (`server/hub.py`).

1. The recorder calls `ring`. What it rings while the last ring is on its way goes with the next.
2. Every node listens. What it hears, its hub spreads, or takes as the word that the log has grown.
3. Whenever the node can hear again after it could not, the hub reads the log at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from hive.errors import Unavailable
from hive.events import Event
from hive.nodes import Doorbell
from server.cancelling import cancel_and_wait
from server.hub import Hub

MAX_EVENTS: Final = 500
"""More are not told one by one: reading them is as fast."""
AGAIN_SECONDS: Final = 0.25

log = structlog.get_logger(__name__)


class HubDoorbell:
    """A part of each node that has Redis."""

    def __init__(self, doorbell: Doorbell, hub: Hub) -> None:
        self._doorbell = doorbell
        self._hub = hub
        self._untold: list[Event] = []
        self._wake = asyncio.Event()
        self._is_away = False
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    def start(self) -> None:
        """Begin to ring and to listen; the hub has been started."""
        self._tasks = (
            asyncio.create_task(self._tell(), name="doorbell-rings"),
            asyncio.create_task(self._listen(), name="doorbell-hears"),
        )

    async def stop(self) -> None:
        """End. Idempotent."""
        tasks, self._tasks = self._tasks, ()
        await cancel_and_wait(*tasks)

    def ring(self, events: Sequence[Event]) -> None:
        """Tell the other nodes soon. Never raises, never waits."""
        self._untold += events
        # The newest are enough: whoever misses one reads.
        del self._untold[:-MAX_EVENTS]
        self._wake.set()

    async def _tell(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            events, self._untold = self._untold, []
            try:
                await self._doorbell.ring(events)
            except Unavailable:
                # Whoever is not told hears of it by the next ring, or looks by itself.
                continue
            except Exception:
                log.exception("doorbell.failed")

    async def _listen(self) -> None:
        while True:
            try:
                await self._doorbell.listen(self._hears_again, self._hear)
            except Unavailable as error:
                if not self._is_away:
                    log.warning("doorbell.away", cause=str(error))
                self._is_away = True
            except Exception:
                log.exception("doorbell.failed")
            await asyncio.sleep(AGAIN_SECONDS)

    def _hears_again(self) -> None:
        if self._is_away:
            log.info("doorbell.back")
        self._is_away = False
        self._hub.look()

    def _hear(self, tail: int, events: Sequence[Event]) -> None:
        self._hub.publish(events)
        self._hub.told(tail)
