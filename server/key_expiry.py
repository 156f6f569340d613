"""The duty that warns of API keys before they expire.

    every minute: announce keys that end within 7 days, each once, in batches

The mark of a key and its event are one transaction, so two nodes at once can't announce it twice:
that is the fence.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

import structlog

from hive.api_key_ports import ApiKeyStore
from hive.api_keys import EXPIRING_WITHIN
from hive.changes import Actor
from hive.errors import Unavailable

DUTY: Final = "key-expiry"
ACTOR: Final = Actor("system:key-expiry")
PERIOD_SECONDS: Final = 60.0
BATCH: Final = 100

log = structlog.get_logger(__name__)


class KeyExpiry:
    """Announces keys that expire soon."""

    def __init__(
        self,
        store: ApiKeyStore,
        *,
        within: timedelta = EXPIRING_WITHIN,
        period_seconds: float = PERIOD_SECONDS,
    ) -> None:
        self._store = store
        self._within = within
        self._period_seconds = period_seconds

    async def work(self, _term: int) -> None:
        """Announce until cancelled."""
        while True:
            try:
                await self.announce()
            except Unavailable as error:
                log.warning("key_expiry.store_unavailable", cause=str(error))
            await asyncio.sleep(self._period_seconds)

    async def announce(self) -> int:
        """Announce all that are due; how many they were. Raises Unavailable."""
        announced = 0
        while True:
            batch = await self._store.announce_expiring(ACTOR, within=self._within, limit=BATCH)
            announced += batch
            if batch < BATCH:
                return announced
