"""The submitter of a peer: a program that runs where the peer is installed.

    python -m benchmarks.dispatch.celery_peer latency|rate WORKERS PLAN

It waits for the workers, measures, and prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from benchmarks.dispatch.figures import Plan
from benchmarks.dispatch.marks import VARIABLE, Marks
from benchmarks.dispatch.pace import all_started, one_at_a_time, until

READY_SECONDS = 60.0
DONE_SECONDS = 60.0
DONE_TICK_SECONDS = 0.01


class Submitter(Protocol):
    """What a peer's client can do."""

    async def count_workers(self) -> int:
        """Those that wait for work."""
        ...

    async def submit(self) -> None:
        """One task, with the time right before that."""
        ...

    async def submit_all(self, plan: Plan) -> None:
        """All tasks of a throughput, as fast as this peer's client can."""
        ...

    async def is_done(self) -> bool:
        """Whether the broker has nothing left: each task was acknowledged."""
        ...


def main(submitter: Submitter, *packages: str) -> None:
    """Measure what the command line says; the versions of the packages are told, too."""
    what, workers, plan = sys.argv[1:]
    found = asyncio.run(_measure(submitter, what, int(workers), Plan(**json.loads(plan))))
    versions = {name: version(name) for name in packages}
    sys.stdout.write(json.dumps({"found": found, "versions": versions}) + "\n")


async def _measure(submitter: Submitter, what: str, workers: int, plan: Plan) -> Any:
    marks = Marks(Path(os.environ[VARIABLE]))

    async def ready() -> bool:
        return await submitter.count_workers() == workers

    await until(ready, "the workers are ready", READY_SECONDS)
    if what == "latency":
        return await one_at_a_time(plan, marks, submitter.submit)
    for _ in range(plan.warm_up):
        await submitter.submit()
    await _finished(submitter, marks, plan.warm_up)
    marks.forget()
    began = time.perf_counter()
    await submitter.submit_all(plan)
    await _finished(submitter, marks, plan.tasks)
    return plan.tasks / (time.perf_counter() - began)


async def _finished(submitter: Submitter, marks: Marks, count: int) -> None:
    """So many tasks have run, and once each."""
    await all_started(marks, count)
    await until(submitter.is_done, "all is acknowledged", DONE_SECONDS, DONE_TICK_SECONDS)
    marks.take(count)
