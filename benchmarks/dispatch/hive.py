"""AgentZero API's side: one `agentzero serve` with its embedded mongod, agents, a submitter."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from agentzero_client import AsyncClient
from benchmarks.dispatch.figures import Figures, Plan, Row
from benchmarks.dispatch.hive_agent import CAPABILITY
from benchmarks.dispatch.marks import VARIABLE, Marks
from benchmarks.dispatch.pace import all_started, at_once, one_at_a_time, until
from benchmarks.dispatch.workers import running_workers
from server.embedded import find_mongod
from tests.servers import ServerProcess

BATCH = 1_000
PAGE = 200
LOOK_SECONDS = 0.05
END_SECONDS = 60.0
DURABLE = "journaled by a majority before each answer"
DONE = "the server says `completed`"
SOCKET = Row("AgentZero API, WebSocket", "POST /tasks", DURABLE, DONE)
POLL = Row("AgentZero API, long poll", "POST /tasks", DURABLE, DONE)
BATCHES = Row("AgentZero API, batches", f"POST /tasks/batch, {BATCH:,} each", DURABLE, DONE)
SINGLE = Row("AgentZero API, one by one", "POST /tasks, {at_once} at once", DURABLE, DONE)
SETTINGS = {"RATE_LIMIT_ENABLED": "false"}
NOTE = (
    "AgentZero API: one `agentzero serve` with its mongod, rate limits off"
    " (`AGENTZERO_RATE_LIMIT_ENABLED=false`), all else as shipped: load shedding, audit log, access"
    " log and event log are on. Agents are the shipped Python runtime, each in a process of its own"
    " with {slots} slots; the submitter is the shipped Python client. Each change of a task"
    " (submitted, leased and started, completed) is written with its event, journaled by a majority"
    " of one. The end of the last task is what the server says."
)

Submit = Callable[[AsyncClient, str, Plan], Awaitable[None]]


@dataclass(slots=True)
class Hive:
    """A running server, and the agents of one measurement after the other."""

    folder: Path
    server: ServerProcess
    url: str
    plan: Plan
    phase: int = field(default=0)
    runs: int = field(default=0)

    @property
    def key(self) -> str:
        """The operator's."""
        key = self.server.data.find_operator_key()
        assert key is not None, "the server has no operator key"
        return key

    @contextlib.contextmanager
    def agents(self, count: int, *, polling: bool = False) -> Iterator[Marks]:
        """So many new agents that wait for work, and the marks that they will leave."""
        self.phase += 1
        names = [f"bench-{self.phase}-{number}" for number in range(count)]
        path = self.folder / f"marks-{self.phase}"
        environment = {
            VARIABLE: str(path),
            "AGENTZERO_SERVER": self.url,
            "AGENTZERO_REGISTRATION_KEY": self.key,
            "AGENTZERO_STATE_DIRECTORY": str(self.folder / "agents"),
        }
        options = ["--slots", str(self.plan.slots), *(["--polling"] if polling else [])]
        program = [sys.executable, "-m", "benchmarks.dispatch.hive_agent"]
        marks = Marks(path)
        with running_workers(
            [[*program, name, *options] for name in names], environment, self.folder / "agents.log"
        ):
            asyncio.run(self._ready(names))
            yield marks

    async def _ready(self, names: list[str]) -> None:
        async with self.client() as client:

            async def attached() -> bool:
                idle = {agent.name async for agent in client.agents.list(status="idle")}
                return idle.issuperset(names)

            await until(attached, "the agents are attached", 60)

    def client(self) -> AsyncClient:
        """The submitter's."""
        return AsyncClient(self.url, token=self.key, trust_env=False)

    async def latencies(self, marks: Marks) -> list[float]:
        """Milliseconds from before a submission to the first line of the handler, all else idle."""
        async with self.client() as client:

            async def submit() -> None:
                sent = time.monotonic_ns()
                await client.tasks.submit(
                    "latency", parameters={"sent": sent}, required_capabilities=[CAPABILITY]
                )

            return await one_at_a_time(self.plan, marks, submit)

    async def rate(self, marks: Marks, submit: Submit) -> float:
        """Tasks a second, from before the first submission to the end of the last task."""
        async with self.client() as client:
            self.runs += 1
            await self._warm_up(client, f"warm-up-{self.runs}", marks)
            name = f"rate-{self.runs}"
            began = time.time()
            await submit(client, name, self.plan)
            ended = await self._ended(client, name, marks)
        return self.plan.tasks / (ended.timestamp() - began)

    async def _warm_up(self, client: AsyncClient, name: str, marks: Marks) -> None:
        tasks = [described(name) for _ in range(self.plan.warm_up)]
        await client.tasks.submit_batch(tasks)
        await self._completed(client, name, self.plan.warm_up)
        marks.forget()

    async def _ended(self, client: AsyncClient, name: str, marks: Marks) -> datetime:
        """When the last one did; stop when one did not, or ran twice.

        While tasks run only their marks are looked at, which costs the server nothing.
        """
        await all_started(marks, self.plan.tasks)
        ends = await self._completed(client, name, self.plan.tasks)
        marks.take(self.plan.tasks)
        return max(ends)

    async def _completed(self, client: AsyncClient, name: str, count: int) -> list[datetime]:
        """When each of the tasks of that name ended, once all of them have completed."""

        async def none_left() -> bool:
            # In the order in which tasks go: none gets past both looks.
            for status in ("queued", "running"):
                async for _ in client.tasks.list(name=name, status=status, limit=1):
                    return False
            return True

        await until(none_left, "all tasks have ended", END_SECONDS, LOOK_SECONDS)
        ends = [
            task.ended_at
            async for task in client.tasks.list(name=name, status="completed")
            if task.ended_at is not None
        ]
        assert len(ends) == count, f"{len(ends)} tasks have completed, not {count}"
        return ends


def described(name: str) -> dict[str, object]:
    """A task that does nothing, submitted now."""
    return {
        "name": name,
        "parameters": {"sent": time.monotonic_ns()},
        "required_capabilities": [CAPABILITY],
    }


async def submit_batches(client: AsyncClient, name: str, plan: Plan) -> None:
    """As few requests as there can be, one after the other."""
    for start in range(0, plan.tasks, BATCH):
        size = min(BATCH, plan.tasks - start)
        await client.tasks.submit_batch([described(name) for _ in range(size)])


async def submit_singly(client: AsyncClient, name: str, plan: Plan) -> None:
    """A request for each task, some at once."""

    async def submit() -> None:
        await client.tasks.submit(
            name,
            parameters={"sent": time.monotonic_ns()},
            required_capabilities=[CAPABILITY],
        )

    await at_once(plan, submit)


SUBMITS: tuple[tuple[Row, Submit], ...] = ((BATCHES, submit_batches), (SINGLE, submit_singly))


def measure(folder: Path, plan: Plan, figures: Figures) -> None:
    """All rows of this side, on a new server."""
    server = ServerProcess(folder / "data", **SETTINGS)
    hive = Hive(folder, server, server.start(), plan)
    try:
        for row, polling in ((SOCKET, False), (POLL, True)):
            if plan.latencies:
                with hive.agents(1, polling=polling) as marks:
                    figures.add_latencies(row, asyncio.run(hive.latencies(marks)))
        for workers in plan.workers:
            with hive.agents(workers) as marks:
                for row, submit in SUBMITS:
                    figures.add_rate(row, workers, asyncio.run(hive.rate(marks, submit)))
    finally:
        server.stop()
    figures.add_versions({"AgentZero API": version("agentzero-api"), "MongoDB": mongod_version()})


def mongod_version() -> str:
    """Of the embedded one."""
    said = subprocess.run(  # noqa: S603  # Ours.
        [find_mongod(), "--version"], stdout=subprocess.PIPE, check=True, text=True
    )
    return said.stdout.split()[2].removeprefix("v")
