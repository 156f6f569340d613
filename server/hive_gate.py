"""Whether this node grants leases: what the hive was told, wherever it was told.

What this node decides counts at its commit, what another one decided at its event. Should the event
log stand still, what is known is read again before it is half a second old: a claim asks first, and
only then leases.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from hive.coordination import HIVE, HiveControl, HiveState
from hive.coordination_ports import Hive
from hive.events import Event

FRESH_SECONDS: Final = 0.5


class HiveGate:
    """The port `hive.coordination_ports.Gate`."""

    def __init__(self, hive: Hive) -> None:
        self._hive = hive
        self._known = HiveControl()
        self._known_at = float("-inf")
        self._opened: list[Callable[[], None]] = []

    def on_open(self, callback: Callable[[], None]) -> None:
        """Call back whenever leases are granted again."""
        self._opened.append(callback)

    async def is_open(self) -> bool:
        """As the port says."""
        asked_at = time.monotonic()
        if asked_at - self._known_at > FRESH_SECONDS:
            self._learn(await self._hive.get())
            self._known_at = asked_at
        return self._known.grants

    def committed(self, hive: HiveControl, _event_type: str) -> None:
        """Called at each commit of this node."""
        self._learn(hive)

    def heard(self, events: Sequence[Event]) -> None:
        """Take events of the hub; a listener of `Hub.subscribe`."""
        for event in events:
            if event.subject == HIVE and event.type.startswith("hive."):
                data = event.data
                state, version = HiveState(data["state"]), int(data["version"])
                self._learn(HiveControl(state=state, version=version))

    def _learn(self, hive: HiveControl) -> None:
        # An event may come behind what was read, and a read may end behind an event.
        if hive.version <= self._known.version:
            return
        was_open, self._known = self._known.grants, hive
        if hive.grants and not was_open:
            for callback in self._opened:
                callback()
