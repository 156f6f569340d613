"""What the load saw: every acknowledgement, in the order of one clock.

A `History` is written by one event loop and read when that has ended. A tick is taken when a
request leaves and when its answer arrives, from the machine's monotonic clock, which all processes
share; "A was acknowledged before B began" is `A.answered < B.began`. What was asked and never
answered is kept as well, as unknown: it may have happened.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """How a request ended for the one who asked."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Verb(StrEnum):
    """What an agent does with a lease."""

    PROGRESS = "progress"
    LOGS = "logs"
    COMPLETE = "complete"
    FAIL = "fail"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class Submission:
    """A task that was asked for; `task_id` is the receipt's, None when no receipt came."""

    name: str
    task_id: str | None


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease that an agent was given; `began` is when it asked."""

    task_id: str
    lease_id: str
    fence: int
    agent_id: str
    began: int
    answered: int


@dataclass(frozen=True, slots=True)
class Report:
    """What an agent said of its lease, repeated until an answer came.

    `is_certain` is false when an earlier try of the same report had no answer.
    """

    grant: Grant
    verb: Verb
    outcome: Outcome
    began: int
    is_certain: bool = True
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """The version of a task as somebody read it."""

    task_id: str
    version: int
    began: int
    answered: int


@dataclass(slots=True)
class History:
    """All that the clients of one run know."""

    submissions: list[Submission] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    watched: dict[int, str] = field(default_factory=dict)
    """Events as a watcher got them during the run: `seq` to identifier."""
    surprises: list[str] = field(default_factory=list)
    """Answers that the contract does not allow in their place."""
    answers: Counter[str] = field(default_factory=Counter)
    lease_seconds: float = 0.0
    """How long nobody takes a lease back that was granted or renewed."""
    tick: Callable[[], int] = time.monotonic_ns

    def note_grants(self, grants: Sequence[Grant]) -> None:
        """Leases that an agent was given together."""
        self.grants += grants

    def note_report(self, report: Report) -> None:
        """What an agent said, once it knows what became of it or gave up."""
        self.reports.append(report)

    def note_surprise(self, text: str) -> None:
        """An answer that the contract does not allow in its place."""
        self.surprises.append(text)


@dataclass(frozen=True, slots=True)
class Found:
    """What the server says of itself at the end."""

    tasks: list[dict[str, Any]]
    events: list[dict[str, Any]]
    logs: dict[str, list[str]] = field(default_factory=dict)
    """The messages of tasks that have any."""
