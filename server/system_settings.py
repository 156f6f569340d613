"""The settings of the system as this node goes by them: the port `hive.system_settings.System`.

Life cycle: `start()` reads them once, then every recorded change reads them again; `stop()` ends
that. While SQL does not answer, the last known settings go on to count: an allowlist that can't be
read is not an open door.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Final

from hive.changes import Actor
from hive.errors import Unavailable
from hive.preconditions import ExpectedVersions, expecting
from hive.system_settings import (
    FixedByEnvironment,
    SettingsChange,
    System,
    SystemSettings,
    SystemSettingsStore,
    change_settings,
)
from server.cancelling import cancel_and_wait
from server.revocations import Revocations

SUBJECT: Final = "system_settings"
RETRY_SECONDS: Final = 0.5

log = logging.getLogger(__name__)


class LiveSettings(System):
    """Follows the record of changes. `fixed_allowlist` is the environment's, if it names any."""

    def __init__(
        self,
        store: SystemSettingsStore,
        revocations: Revocations,
        *,
        fixed_allowlist: tuple[str, ...] = (),
    ) -> None:
        self._store = store
        self._revocations = revocations
        self._fixed_allowlist = fixed_allowlist
        self._current = self._effective(SystemSettings())
        self._outdated = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def current(self) -> SystemSettings:
        """What counts on this node, at most 1 s behind the database."""
        return self._current

    async def start(self) -> None:
        """Read, and begin to follow. Raises Unavailable when SQL does not answer."""
        self._revocations.on_revoked(self._hear)
        self._take(await self._store.read())
        self._task = asyncio.create_task(self._follow(), name="system settings")

    async def stop(self) -> None:
        """End the background task. Idempotent."""
        task, self._task = self._task, None
        await cancel_and_wait(task)

    async def read(self) -> SystemSettings:
        """What is in the database now, with what the environment fixes."""
        return self._take(await self._store.read())

    async def change(
        self,
        wanted: SettingsChange,
        actor: Actor,
        *,
        address: str,
        signed: bool,
        expected: ExpectedVersions | None = None,
    ) -> SystemSettings:
        """Change them for everybody."""
        if wanted.admin_allowlist is not None and self._fixed_allowlist:
            raise FixedByEnvironment

        def decide(stored: SystemSettings) -> SystemSettings:
            decided = change_settings(
                self._effective(stored), wanted, address=address, signed=signed
            )
            kept = decided if not self._fixed_allowlist else stored
            return replace(decided, admin_allowlist=kept.admin_allowlist)

        changed = self._take(await self._store.change(expecting(expected, decide), actor))
        self._revocations.announce(SUBJECT)
        return changed

    def _effective(self, stored: SystemSettings) -> SystemSettings:
        if not self._fixed_allowlist:
            return stored
        return replace(stored, admin_allowlist=self._fixed_allowlist)

    def _take(self, stored: SystemSettings) -> SystemSettings:
        settings = self._effective(stored)
        # Answers may overtake one another.
        if settings.version >= self._current.version:
            self._current = settings
        return settings

    def _hear(self, subject_id: str) -> None:
        if subject_id == SUBJECT:
            self._outdated.set()

    async def _follow(self) -> None:
        while True:
            await self._outdated.wait()
            self._outdated.clear()
            try:
                self._take(await self._store.read())
            except Unavailable as error:
                log.warning("the settings of the system can't be read: %s", error)
                self._outdated.set()
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:
                # This duty must outlive anything that a single round can meet.
                log.exception("the settings of the system can't be followed")
                self._outdated.set()
                await asyncio.sleep(RETRY_SECONDS)
