"""How long things are kept, and what takes old ones away.

`RETENTIONS` is the whole of it: docs/operations.md is made from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from hive.idempotency import KEPT_SECONDS

TOMBSTONE_DAYS: Final = 7
"""How long an unregistered agent is kept, for its last event."""
RETIRED_SECONDS: Final = 3600
"""How long an old task can be read but not be depended upon any more, before it is deleted."""
DAY_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True)
class Kept:
    """How long something is kept: as a setting says, or for a time that is fixed."""

    what: str
    setting: str | None
    time: str
    removed: str


RETENTIONS: Final[Sequence[Kept]] = (
    Kept(
        "ended tasks, with their log lines and artifacts",
        "task_retention_days",
        "days since the end; 0 keeps them for ever",
        "duty `retention`, never while a task that has not ended depends on it",
    ),
    Kept(
        "artifacts of one task",
        None,
        "as long as the task, or until they are replaced",
        "the write that replaces; duty `retention` for what a kill left behind",
    ),
    Kept(
        "log lines of one task",
        "log_lines_per_task",
        "newest lines, and up to 1 % more",
        "the write that goes beyond; `dropped` in the answer counts them",
    ),
    Kept(
        "unregistered agents, deleted schedules", None, f"{TOMBSTONE_DAYS} days", "duty `retention`"
    ),
    Kept("events", "event_retention_days", "days; the newest one stays", "the recorder"),
    Kept(
        "audit records",
        "audit_retention_days",
        "days, and the signed start of what is left",
        "duty `auditor`",
    ),
    Kept(
        "answers under an `Idempotency-Key`",
        None,
        f"{KEPT_SECONDS / 3600:.0f} hours",
        "MongoDB (TTL), SQL with the next key",
    ),
    Kept(
        "messages to agents",
        None,
        "until acknowledged, or as long as their sender says, a day at most",
        "MongoDB (TTL)",
    ),
    Kept("sessions", "refresh_token_days", "days since the login", "a sweep on every node"),
)


@dataclass(frozen=True, slots=True)
class WalkPosition:
    """Where a walk along the ended tasks has come to."""

    ended_at: datetime
    task_id: str


class OldData(Protocol):
    """What is old by the database's clock, and the ways to be rid of it.

    Nothing is taken whose last event the recorder may not have written. All methods are idempotent
    and raise Unavailable.
    """

    async def retire(
        self, days: int, *, after: WalkPosition | None, limit: int
    ) -> WalkPosition | None:
        """Retire tasks that ended so long ago, the oldest first; where to go on, None at the end.

        A retired task can be read, and a new task can't depend on it.
        """

    async def delete_retired(self, *, limit: int) -> int:
        """Delete tasks that were retired an hour ago, their lines first; how many there were."""

    async def sweep_files(self, *, limit: int) -> int:
        """Delete files that no task names and none ever will; how many were looked after.

        It reads `limit` at once, and all of them.
        """

    async def delete_tombstones(self, *, limit: int) -> int:
        """Delete agents and schedules that were removed a week ago; how many."""
