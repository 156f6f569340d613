"""How much load a run has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """`pause_seconds` is the longest time between two submissions of a submitter.

    With `tasks` the submitters end when there are so many of them, and they wait while more than
    `open_tasks` have not ended. Some tasks stand under one of the `keys`, of which each lets two
    run at a time. `chatter` is how much of what a short run does agents do beside claiming and
    ending, and readers. `batch` is the size of the graphs that are submitted at once, none
    without it. Agents that are `apart` are processes of their own.
    """

    submitters: int = 4
    agents: int = 4
    slots: int = 4
    pause_seconds: float = 0.1
    lease_seconds: float = 2.0
    drain_seconds: float = 60.0
    tasks: int | None = None
    open_tasks: int | None = None
    keys: int = 1
    chatter: float = 1.0
    batch: int = 0
    apart: bool = False
