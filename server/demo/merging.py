"""`report.merge`: collects what the dependencies of a task came to, and writes the report.

A task has at most 1,000 dependencies, so for more files there are merges of merges. One without
`output` writes nothing; the one above it looks through it at the profiles below.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from agentzero_client import Task, TaskContext, TaskError
from server.demo.report import merge, write_report
from server.demo.sources import path_from_text

MERGE = "report.merge"
AT_ONCE = 8
NAME = "name"


@dataclass(slots=True)
class Collected:
    """Profiles and failures by the name of the file."""

    profiles: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, task: Task) -> None:
        """Take what one profiling task came to."""
        name = task.parameters[NAME]
        if task.status == "completed":
            self.profiles[name] = task.result
        elif task.error is not None:
            self.failures[name] = task.error.message or task.error.code
        else:
            self.failures[name] = f"The task was {task.status}."


async def merge_dependencies(context: TaskContext, output: str | None) -> dict[str, Any]:
    """Merge, and write the report into the directory `output`, if there is one.

    Raises TaskError `report-not-written`.
    """
    if output is None:
        return {"dependencies": len(context.task.dependencies)}
    collected = Collected()
    await _collect(context, context.task.dependencies, collected)
    directory = path_from_text(output)
    stamp = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    report = merge(collected.profiles, collected.failures, generated_at=stamp)
    try:
        paths = await asyncio.to_thread(write_report, directory, report)
    except OSError as error:
        message = f"The report can't be written to {directory}: {error.strerror or error}."
        raise TaskError("report-not-written", message, retryable=False) from error
    return {"paths": [str(path) for path in paths], "totals": report["totals"]}


async def _collect(context: TaskContext, task_ids: Sequence[str], into: Collected) -> None:
    """Read the tasks, a few at once, and those below them where they are merges."""
    merges: list[Task] = []
    for start in range(0, len(task_ids), AT_ONCE):
        context.raise_if_cancelled()
        page = task_ids[start : start + AT_ONCE]
        for task in await asyncio.gather(*map(context.client.tasks.get, page)):
            if NAME in (task.parameters or {}):
                into.add(task)
            else:
                merges.append(task)
    for position, task in enumerate(merges, start=1):
        await _collect(context, task.dependencies, into)
        context.progress(position / len(merges), f"{len(into.profiles):,} profiles")
