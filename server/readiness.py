"""Whether a node can serve: every store answers, and the event log moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from hive.errors import HiveError
from hive.ports import EventLog
from server.duties import Duty
from server.recorder import Recorder
from server.revocations import Revocations

SILENCE_SECONDS = 5.0
POLL_SECONDS = 0.02


class Readiness:
    """Looks at the stores when asked; `drain()` makes the answer "draining" for good."""

    def __init__(
        self, events: EventLog, revocations: Revocations, recorder: Recorder, duty: Duty
    ) -> None:
        self._events = events
        self._revocations = revocations
        self._recorder = recorder
        self._duty = duty
        self._draining = False

    def drain(self) -> None:
        """Say from now on that the node goes away."""
        self._draining = True

    async def check(self) -> Mapping[str, Any]:
        """The schema `Readiness` of the contract. Never raises."""
        checks = {"mongodb": "ok", "sql": "ok", "event_log": "ok"}
        try:
            if await self._events.recorder() is None:
                checks["event_log"] = "failing"
        except HiveError:
            checks["mongodb"] = checks["event_log"] = "failing"
        turned = self._recorder.last_turn
        if self._duty.is_held and (turned is None or time.monotonic() - turned > SILENCE_SECONDS):
            checks["event_log"] = "failing"
        if self._revocations.silent_seconds > SILENCE_SECONDS:
            checks["sql"] = "failing"
        if self._draining:
            return {"status": "draining", "checks": checks}
        ready = all(outcome == "ok" for outcome in checks.values())
        return {"status": "ready" if ready else "not-ready", "checks": checks}

    async def wait(self, seconds: float) -> bool:
        """Wait until the node is ready, up to so long; whether it is."""
        deadline = time.monotonic() + seconds
        while (await self.check())["status"] != "ready":
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(POLL_SECONDS)
        return True
