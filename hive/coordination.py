"""The hive as a whole: whether it grants leases, and whose leases are taken back.

A paused or draining hive grants no new lease; work that runs goes on.

    running -> paused | draining      by pause, by drain
    paused, draining -> running       by resume
    paused <-> draining               by the other one
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from hive.changes import ABSENT, Change


class HiveState(StrEnum):
    """Whether the hive grants leases: only a running one does."""

    RUNNING = "running"
    PAUSED = "paused"
    DRAINING = "draining"


class HiveAction(StrEnum):
    """What one can ask of the hive."""

    PAUSE = "pause"
    RESUME = "resume"
    DRAIN = "drain"


class TakeBack(StrEnum):
    """Why a lease is taken from an agent before it is over."""

    AGENT_OFFLINE = "agent-offline"
    DRAINED = "drained"


HIVE: Final = "hive"
"""The identifier of the one document, and the subject of its events."""
TARGETS: Final[Mapping[HiveAction, tuple[HiveState, str]]] = {
    HiveAction.PAUSE: (HiveState.PAUSED, "hive.paused"),
    HiveAction.RESUME: (HiveState.RUNNING, "hive.resumed"),
    HiveAction.DRAIN: (HiveState.DRAINING, "hive.draining"),
}
"""The state that an action leads to, from each other one, and the event that it is."""
SUMMARY_FIELDS: Final = ("state", "reason", "version", "updated_at")
"""What events tell of the hive, besides `hive_id`."""


@dataclass(frozen=True, slots=True)
class HiveControl:
    """What was last decided about the hive; version 0 when nothing ever was."""

    hive_id: str = HIVE
    state: HiveState = HiveState.RUNNING
    reason: str | None = None
    version: int = 0
    updated_at: datetime | None = None

    @property
    def grants(self) -> bool:
        """Whether new leases are granted."""
        return self.state is HiveState.RUNNING


def control(hive: HiveControl, action: HiveAction, reason: str | None) -> Change | None:
    """Pause, resume or drain; what is so already, for the same reason, changes nothing."""
    state, event = TARGETS[action]
    if (state, reason) == (hive.state, hive.reason):
        return None
    if state is hive.state is HiveState.RUNNING:
        return None
    return Change(event, {"state": state, "reason": ABSENT if reason is None else reason})
