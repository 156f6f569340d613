"""Where the tasks of a run stand, as told by their events; the newest version of each counts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from agentzero_client import TaskSummary


class Board:
    """Tasks by identifier. `over` is set once all that are expected have ended."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.tasks: dict[str, TaskSummary] = {}
        self.over = asyncio.Event()
        self._ended: set[str] = set()
        self._running: dict[str, float] = {}

    def take(self, task: TaskSummary) -> None:
        """Take what is known of a task, unless something newer was known already."""
        known = self.tasks.get(task.task_id)
        if known is not None and known.version > task.version:
            return
        self.tasks[task.task_id] = task
        self._running.pop(task.task_id, None)
        if task.has_ended:
            self._ended.add(task.task_id)
        elif task.progress is not None and task.status == "running":
            self._running[task.task_id] = task.progress.fraction
        if len(self._ended) == self.expected:
            self.over.set()

    @property
    def ended(self) -> int:
        """How many tasks have ended, however."""
        return len(self._ended)

    @property
    def done(self) -> float:
        """How many tasks' worth of work is done: a running one counts by its progress."""
        return len(self._ended) + sum(self._running.values())

    @property
    def unsuccessful(self) -> int:
        """How many tasks failed or were cancelled."""
        return sum(self.tasks[task_id].status != "completed" for task_id in self._ended)

    def unfinished(self, task_ids: Iterable[str]) -> list[str]:
        """Which of these have not ended, as far as is known."""
        return [task_id for task_id in task_ids if task_id not in self._ended]
