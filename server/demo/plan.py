"""What the demo asks of the hive: a task for each file, and the merge that waits for all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentzero_client import AsyncClient
from server.demo.merging import MERGE, NAME
from server.demo.sources import Source, path_to_text

MOST_DEPENDENCIES = 1_000
AT_ONCE = 8
RUN_LABEL = "demo"
FILE_LABEL = "file"

_LONGEST_LABEL = 200


@dataclass(slots=True)
class Submission:
    """The tasks of one run, in the order of their submission; the last is the merge of all."""

    task_ids: list[str] = field(default_factory=list)

    @property
    def report_id(self) -> str:
        """The task that writes the report, once everything was submitted."""
        return self.task_ids[-1]


def count_tasks(files: int) -> int:
    """How many tasks so many files need."""
    tasks = files + 1
    while files > MOST_DEPENDENCIES:
        files = -(-files // MOST_DEPENDENCIES)
        tasks += files
    return tasks


async def submit(
    client: AsyncClient,
    submission: Submission,
    sources: Sequence[Source],
    *,
    output: Path,
    crew: str,
    run_id: str,
) -> None:
    """Submit a profile of each file, and merges until one depends, through others, on all.

    `crew` is the capability of the agents that see the files. What was submitted is in
    `submission`, also when this raises AgentZeroError half-way.
    """

    async def submit_one(
        capability: str, file: str, parameters: dict[str, Any], dependencies: Sequence[str] = ()
    ) -> str:
        receipt = await client.tasks.submit(
            capability,
            description=file,
            parameters=parameters,
            dependencies=dependencies,
            required_capabilities=[capability, crew],
            on_dependency_failure="run",
            labels={RUN_LABEL: run_id, FILE_LABEL: file[:_LONGEST_LABEL]},
        )
        submission.task_ids.append(receipt.task_id)
        return receipt.task_id

    async def profile(source: Source) -> str:
        parameters = {"path": path_to_text(source.path), NAME: source.name}
        return await submit_one(source.capability, source.name, parameters)

    level: list[str] = []
    for start in range(0, len(sources), AT_ONCE):
        level += await asyncio.gather(*map(profile, sources[start : start + AT_ONCE]))
    while len(level) > MOST_DEPENDENCIES:
        starts = range(0, len(level), MOST_DEPENDENCIES)
        parts = [level[start : start + MOST_DEPENDENCIES] for start in starts]
        level = [await submit_one(MERGE, f"part {n}", {}, p) for n, p in enumerate(parts, start=1)]
    await submit_one(MERGE, "report", {"output": path_to_text(output)}, level)
