"""What lost its rights: known here at once, and by polling SQL what other nodes did.

Life cycle: `start()` notes where the record stands, then a background task asks every 500 ms what
was added; `stop()` ends it. Subjects are `ses_`, `key_` and `usr_` identifiers; a `usr_` means that
the user's role changed or that the user was disabled.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from hive.errors import Unavailable
from hive.identity_ports import IdentityStore
from server.cancelling import cancel_and_wait

POLL_SECONDS = 0.5
# Longer than anything read before a change may still be believed.
REMEMBERED_SECONDS = 60.0

log = logging.getLogger(__name__)


class Revocations:
    """Tells subscribers about each subject that changed, at least once."""

    def __init__(self, store: IdentityStore, *, poll_seconds: float = POLL_SECONDS) -> None:
        self._store = store
        self._poll_seconds = poll_seconds
        self._position = 0
        self._changed_at: dict[str, float] = {}
        self._callbacks: list[Callable[[str], None]] = []
        self._task: asyncio.Task[None] | None = None
        self._heard_at = time.monotonic()

    async def start(self) -> None:
        """Begin to follow. Raises Unavailable when SQL does not answer."""
        self._position = await self._store.change_position()
        self._heard_at = time.monotonic()
        self._task = asyncio.create_task(self._follow(), name="revocations")

    async def stop(self) -> None:
        """End the background task. Idempotent."""
        task, self._task = self._task, None
        await cancel_and_wait(task)

    def on_revoked(self, callback: Callable[[str], None]) -> None:
        """Call back with each subject, on the event loop; callbacks must not block.

        A connection is concerned when the subject is its principal's `session_id`, `key_id` or
        `principal_id`.
        """
        self._callbacks.append(callback)

    def announce(self, subject_id: str) -> None:
        """Make a committed change known on this node at once."""
        now = time.monotonic()
        self._changed_at.pop(subject_id, None)
        self._changed_at[subject_id] = now
        self._forget(now - REMEMBERED_SECONDS)
        for callback in self._callbacks:
            try:
                callback(subject_id)
            except Exception:
                # One connection's trouble must not keep the others open.
                log.exception("a subscriber to revocations failed on %s", subject_id)

    def changed_since(self, read_at: float, *subject_ids: str) -> bool:
        """Tell whether what was read at that monotonic time about the subjects is out of date."""
        return any(self._changed_at.get(subject_id, -1.0) >= read_at for subject_id in subject_ids)

    @property
    def silent_seconds(self) -> float:
        """How long ago SQL last said what changed; readiness turns red above 2."""
        return time.monotonic() - self._heard_at

    async def poll(self) -> None:
        """Ask once and announce what is new. Raises Unavailable."""
        asked_at = time.monotonic()
        while True:
            changes = await self._store.changes_after(self._position)
            for subject_id in changes.subjects:
                self.announce(subject_id)
            self._position = changes.position
            if not changes.subjects:
                break
        self._heard_at = asked_at

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self.poll()
            except Unavailable as error:
                log.warning("revocations can't be followed: %s", error)
            except Exception:
                # This duty must outlive anything that a single round can meet.
                log.exception("revocations can't be followed")

    def _forget(self, before: float) -> None:
        # Insertion order is time order, so the old ones stand first.
        while self._changed_at:
            subject_id, changed_at = next(iter(self._changed_at.items()))
            if changed_at >= before:
                break
            del self._changed_at[subject_id]
