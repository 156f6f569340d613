"""What the length of the queue costs a claim: `python -m benchmarks.claims`.

Two queues on one mongod, a short one and a long one, both of 50 sets of capabilities and of tasks
with and without a concurrency key. One agent that can run everything claims one task from either
in turn, so that whatever else the machine does hits both; each claim is completed, and a new task
takes the place of the old one. What is compared is the time of the claim: the dispatcher's, with
all of its reads, and that of the update alone.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
import uvloop

from hive import task_machine as machine
from hive.leases import NewLease
from hive.task_spec import Concurrency, TaskPriority, TaskSpec, capability_key
from hive.tasks import Task
from server.dispatcher import NodeDispatcher
from server.embedded import EmbeddedMongo
from storage.mongo.queue import FIRST, LANES, in_queue
from tests.storage.store import ME, Store, open_store, proof_of

SETS = tuple((f"kind-{n % 10}", f"size-{n // 10}") for n in range(50))
CAPABILITIES = tuple(sorted({name for needs in SETS for name in needs}))
PRIORITIES = tuple(TaskPriority)
KEYED_EVERY = 20
CHUNK = 500
WARM_UP = 50
MOST_TIMES = 2.0
RESULT = Path(__file__).with_name("RESULTS.md")


@dataclass(slots=True)
class Queue:
    """One of the two queues, and what its claims took, in milliseconds."""

    store: Store
    dispatcher: NodeDispatcher
    agent_id: str
    tasks: int
    claims: list[float] = field(default_factory=list)
    updates: list[float] = field(default_factory=list)
    examined: tuple[int, int] = (0, 0)

    async def claim(self) -> Task:
        """One task by the dispatcher; note the time."""
        began = time.perf_counter()
        [task] = await self.dispatcher.claim(self.agent_id, max_leases=1, wait_seconds=0)
        self.claims.append((time.perf_counter() - began) * 1_000)
        return task

    async def update(self) -> Task:
        """One task by the update alone; note the time."""
        lease = NewLease(self.store.new("lse"), self.agent_id, 1, 30.0)
        keys, change = [capability_key(needs) for needs in SETS], machine.start(lease)
        began = time.perf_counter()
        task = await self.store.tasks.queue.claim(lease, keys, change, ME)
        self.updates.append((time.perf_counter() - began) * 1_000)
        assert task is not None
        return task

    async def replace(self, task: Task, number: int) -> None:
        """Complete the task, and submit another one."""
        await self.store.complete(proof_of(task))
        await self.store.submit(spec_of(number))


def spec_of(number: int) -> TaskSpec:
    """The specification of the task of that number: every set, every priority, some with a key."""
    key = Concurrency(f"key-{number % 7}", 2) if number % KEYED_EVERY == 0 else None
    return TaskSpec(
        "work",
        required_capabilities=SETS[number % len(SETS)],
        priority=PRIORITIES[number // len(SETS) % len(PRIORITIES)],
        concurrency=key,
    )


async def make(stack: AsyncExitStack, uri: str, name: str, tasks: int) -> Queue:
    """A queue of so many tasks, and an agent for all of them."""
    store = await stack.enter_async_context(open_store(uri, name))
    for start in range(0, tasks, CHUNK):
        numbers = range(start, min(start + CHUNK, tasks))
        writes = [
            ({"_id": f"tsk_{n:09d}", "version": 0}, machine.submit(spec_of(n), "usr_1", ()))
            for n in numbers
        ]
        await store.tasks.resources.save_all(writes, ME, upsert=True)
    agent = await store.register(capabilities=CAPABILITIES, slots=1)
    dispatcher = NodeDispatcher(
        store.tasks.queue, store.tasks, store.agents, store, lease_seconds=30.0
    )
    store.tasks.on_commit(dispatcher.committed)
    return Queue(store, dispatcher, agent.agent_id, tasks)


async def examine(queue: Queue) -> tuple[int, int]:
    """How many keys of the index and how many documents the update of a claim looks at."""
    keys = [capability_key(needs) for needs in SETS]
    plan: dict[str, Any] = await queue.store.database.command(
        {
            "explain": {
                "findAndModify": "tasks",
                "query": {**in_queue(keys, queue.agent_id, ()), "lane": ""},
                "sort": dict(FIRST),
                "hint": LANES,
                "update": [{"$set": {"status": "running"}}],
            },
            "verbosity": "executionStats",
        }
    )
    assert "'stage': 'SORT'" not in str(plan["queryPlanner"]["winningPlan"])
    stats = plan["executionStats"]
    return stats["totalKeysExamined"], stats["totalDocsExamined"]


async def main(options: argparse.Namespace) -> None:
    """Measure, print a table and keep it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    async with AsyncExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mongo = EmbeddedMongo(place / "mongo", place / "mongod.log")
        uri = await mongo.start()
        stack.push_async_callback(mongo.stop)
        queues = [
            await make(stack, uri, name, tasks)
            for name, tasks in (("short", options.short), ("long", options.long))
        ]
        for number in range(options.claims + WARM_UP):
            for queue in queues if number % 2 else reversed(queues):
                task = await (queue.update() if number & 2 else queue.claim())
                await queue.replace(task, number)
        for queue in queues:
            del queue.claims[: WARM_UP // 2], queue.updates[: WARM_UP // 2]
            queue.examined = await examine(queue)
    report(queues, keep=options.keep)


def percentile(values: Sequence[float], percent: int) -> float:
    """In the units of the values."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def report(queues: Sequence[Queue], *, keep: bool) -> None:
    """Print the table, and write it down."""
    short, long = queues
    times = percentile(long.claims, 99) / percentile(short.claims, 99)
    measured = (
        f"Measured {datetime.now(UTC):%Y-%m-%d} by `python -m benchmarks.claims`: one node, one"
        f" mongod, {os.cpu_count()} processors ({platform.machine()}), Python"
        f" {platform.python_version()}, {len(SETS)} sets of capabilities,"
        f" {len(short.claims):,} claims of each kind and queue."
    )
    verdict = (
        f"p99 of a claim, long queue over short queue: **{times:.2f}** (at most {MOST_TIMES:.1f}):"
        f" {'met' if times <= MOST_TIMES else 'MISSED'}."
    )
    lines = [
        "# What the length of the queue costs a claim",
        "",
        measured,
        "",
        "| queued | what | p50 ms | p99 ms | index keys | documents |",
        "|---|---|---|---|---|---|",
    ]
    for queue in queues:
        for what, values in (("claim", queue.claims), ("the update alone", queue.updates)):
            keys, documents = queue.examined
            lines.append(
                f"| {queue.tasks:,} | {what} | {percentile(values, 50):.2f} |"
                f" {percentile(values, 99):.2f} | {keys} | {documents} |"
            )
    lines += [
        "",
        verdict,
        "",
    ]
    text = "\n".join(lines)
    print(text)
    if keep:
        RESULT.write_text(text)


def read_options() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims")
    parser.add_argument("--short", type=int, default=1_000, help="tasks in the short queue")
    parser.add_argument("--long", type=int, default=200_000, help="tasks in the long queue")
    parser.add_argument("--claims", type=int, default=4_000, help="claims from each queue")
    parser.add_argument("--keep", action="store_true", help=f"write {RESULT.name}")
    return parser.parse_args()


if __name__ == "__main__":
    uvloop.run(main(read_options()))
