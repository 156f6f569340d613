"""What the load saw: every acknowledgement, in the order of one clock.

`History` is written by one event loop and read when that has ended. A tick is taken when a request
leaves and when its answer arrives; "A was acknowledged before B began" is `A.answered < B.began`.
What was asked and never answered is kept as well, as unknown: it may have happened.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
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
    """A lease that an agent was given."""

    task_id: str
    lease_id: str
    fence: int
    agent_id: str
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
    tick: Callable[[], int] = field(default_factory=lambda: itertools.count(1).__next__)


@dataclass(frozen=True, slots=True)
class Found:
    """What the server says of itself at the end."""

    tasks: list[dict[str, Any]]
    events: list[dict[str, Any]]
    logs: dict[str, list[str]] = field(default_factory=dict)
    """The messages of tasks that have any."""
