"""What is measured, and how much of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Plan:
    """How much: numbers of tasks, of workers, and of submissions at once."""

    latencies: int
    tasks: int
    workers: Sequence[int]
    slots: int
    at_once: int
    warm_up: int = 50
    pause_seconds: float = 0.05
    """Between two tasks of an idle system: what the last one left to do is over by then."""


@dataclass(frozen=True, slots=True)
class Row:
    """One way to dispatch a task: what is durable when, and when a task counts as done."""

    name: str
    how: str
    durable: str
    done: str


@dataclass(slots=True)
class Figures:
    """What was measured so far."""

    latencies: dict[Row, list[float]] = field(default_factory=dict)
    rates: dict[Row, dict[int, list[float]]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def add_latencies(self, row: Row, delays: Sequence[float]) -> None:
        """Milliseconds from the submission to the first line of the task."""
        self.latencies.setdefault(row, []).extend(delays)

    def add_rate(self, row: Row, workers: int, tasks_per_second: float) -> None:
        """What so many workers did."""
        self.rates.setdefault(row, {}).setdefault(workers, []).append(tasks_per_second)

    def add_versions(self, versions: Mapping[str, str]) -> None:
        """Of the programs that were measured."""
        self.versions.update(versions)
