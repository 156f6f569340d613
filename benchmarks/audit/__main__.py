"""What an audit record costs a GET: `python -m benchmarks.audit`.

One node, one process, one connection. Blocks of requests alternate between the audit log and none,
so that whatever else the machine does hits both. What is compared is the time that the processors
work for a request: in the node (its event loop and the threads that hash, without the client, which
has a thread of its own) and, beside it, in mongod. The batches that are written behind the requests
are part of it. The fastest block of each kind counts: what else the machine does makes them slower.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import queue
import statistics
import tempfile
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog
import uvloop

from server.embedded import EmbeddedMongo
from server.pipeline import Audits, Call
from tests.api.running import RunningNode, running_node

PAIRS = 100
REQUESTS = 200
WARM_UP = 300
OK = 200
MOST_PERCENT = 10.0
RESULT = Path(__file__).with_name("result.md")
PATHS = {
    "get_me (authentication only)": "/api/v1/auth/me",
    "get_task (one read of MongoDB)": "/api/v1/tasks/{task_id}",
}


Row = tuple["Cost", "Cost"]


class Unaudited:
    """Keeps no records."""

    async def admit(self, call: Call) -> None:
        """Let it through."""

    async def record(self, call: Call, status: int, code: str | None) -> None:
        """Keep nothing."""

    def note(self, call: Call, status: int, code: str | None) -> None:
        """Keep nothing."""


async def main() -> None:
    """Measure each path, print a table and keep it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as place:
        mongo = EmbeddedMongo(Path(place) / "mongo", Path(place) / "mongod.log")
        uri = await mongo.start()
        try:
            async with running_node(Path(place) / "node", uri) as node:
                admin = await node.log_in("admin")
                task_ids = [await admin.submit() for _ in range(3)]
                rows: dict[str, Row] = {}
                assert mongo.pid is not None
                for name, path in PATHS.items():
                    url = node.url + path.format(task_id=task_ids[0])
                    rows[name] = await measure(node, url, str(admin.credential), mongo.pid)
        finally:
            await mongo.stop()
    report(rows)


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds a request."""

    node: float
    mongod: float
    wall: float


class Client(threading.Thread):
    """Sends one request after the other, a block whenever it is told to."""

    def __init__(self, url: str, credential: str) -> None:
        super().__init__(daemon=True)
        parts = urlsplit(url)
        self._connection = HTTPConnection(str(parts.hostname), parts.port or 80)
        self._path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        self._headers = {"Authorization": f"Bearer {credential}"}
        self._blocks: queue.SimpleQueue[tuple[int, Future[float]]] = queue.SimpleQueue()
        self.start()

    async def block(self, requests: int) -> float:
        """Send so many; the seconds that this thread worked."""
        done: Future[float] = Future()
        self._blocks.put((requests, done))
        return await asyncio.wrap_future(done)

    def run(self) -> None:
        """Work until the process ends."""
        while True:
            requests, done = self._blocks.get()
            began = time.thread_time()
            try:
                for _ in range(requests):
                    self._connection.request("GET", self._path, headers=self._headers)
                    answer = self._connection.getresponse()
                    answer.read()
                    assert answer.status == OK
                done.set_result(time.thread_time() - began)
            except Exception as error:  # noqa: BLE001 - whoever waits has it
                done.set_exception(error)


async def measure(node: RunningNode, url: str, credential: str, mongod: int) -> Row:
    """Without the audit log, and with it."""
    client = Client(url, credential)
    pipeline = node.node.app.pipeline
    audited: Audits = pipeline.audit
    blocks: dict[bool, list[Cost]] = {False: [], True: []}
    await client.block(WARM_UP)
    for number in range(PAIRS):
        for is_audited in (False, True) if number % 2 else (True, False):
            pipeline.audit = audited if is_audited else Unaudited()
            wall, worked, stored = time.perf_counter(), time.process_time(), cpu_of(mongod)
            asked = await client.block(REQUESTS)
            if is_audited:
                # What is written behind the requests belongs to them.
                await flushed(audited)
            blocks[is_audited].append(
                Cost(
                    (time.process_time() - worked - asked) / REQUESTS * 1000,
                    (cpu_of(mongod) - stored) / REQUESTS * 1000,
                    (time.perf_counter() - wall) / REQUESTS * 1000,
                )
            )
    pipeline.audit = audited
    return fastest(blocks[False]), fastest(blocks[True])


def fastest(costs: list[Cost]) -> Cost:
    """The lowest of each kind: what it takes when nothing else is in the way.

    mongod's is the median: the unit of its time is too coarse for one block.
    """
    return Cost(
        min(each.node for each in costs),
        statistics.median(each.mongod for each in costs),
        min(each.wall for each in costs),
    )


def cpu_of(pid: int) -> float:
    """The seconds that a process has worked (proc(5)); its unit is 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def flushed(audit: Any) -> None:
    """Return when everything that waits has been written."""
    writer = audit._writer  # noqa: SLF001 - a look inside
    writer._wake.set()  # noqa: SLF001
    while writer._pending or writer._batch:  # noqa: SLF001, ASYNC110
        await asyncio.sleep(0.001)


def report(rows: dict[str, Row]) -> None:
    """Print the table and keep it beside this program."""
    intro = (
        f"Measured {datetime.now(UTC):%Y-%m-%d} by `python -m benchmarks.audit`: "
        f"Python {platform.python_version()}, {os.cpu_count()} cores, MongoDB on the same machine, "
        f"{PAIRS} pairs of blocks of {REQUESTS} requests, alternating, on one connection. "
        "The fastest block of each kind, in milliseconds a request, with the write of its records."
    )
    head = (
        "| GET | node without | with | audit costs | mongod without | with | clock without | with |"
    )
    lines = ["# The cost of the audit log on a GET", "", intro, "", head, "|---|" + "---|" * 7]
    worst = 0.0
    for name, (without, audited) in rows.items():
        percent = 100 * (audited.node / without.node - 1)
        worst = max(worst, percent)
        lines.append(
            f"| {name} | {without.node:.3f} | {audited.node:.3f} | {percent:.1f} % "
            f"| {without.mongod:.3f} | {audited.mongod:.3f} "
            f"| {without.wall:.3f} | {audited.wall:.3f} |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    RESULT.write_text(text, encoding="utf-8")
    assert worst < MOST_PERCENT, f"the audit log costs {worst:.1f} % of a GET"


if __name__ == "__main__":
    uvloop.run(main())
