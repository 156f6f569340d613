"""How fast several nodes hear of each other: `python -m benchmarks.nodes`.

Real servers on one MongoDB. Delivery: a task is submitted at the node that records, and a watcher
at another node sees its event; from before the request to the event, with Redis and without.
Failover: the node that records is killed; from then to the event of a task that was submitted at
another node a moment later.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from agentzero_client import AsyncClient
from tests.cluster.nodes import Cluster, ClusterNode, running_cluster
from tests.servers import running_mongod, running_redis


@asynccontextmanager
async def watching(node: ClusterNode) -> AsyncIterator[asyncio.Queue[tuple[str, float]]]:
    """The tasks whose events reach a watcher of the node, and when."""
    seen: asyncio.Queue[tuple[str, float]] = asyncio.Queue()

    async def follow(client: AsyncClient, attached: asyncio.Event) -> None:
        async with client.watch(["task.created"]) as watch:
            await watch.started()
            attached.set()
            async for event in watch:
                seen.put_nowait((str(event.subject), time.perf_counter()))

    async with AsyncClient(node.url, token=_key(node)) as client:
        attached = asyncio.Event()
        following = asyncio.create_task(follow(client, attached))
        await attached.wait()
        try:
            yield seen
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def deliver(cluster: Cluster, count: int) -> list[float]:
    """Milliseconds from a request at the recorder's node to the event at another one."""
    recorder = cluster.holder("recorder")
    other = cluster.others(recorder)[0]
    took: list[float] = []
    async with (
        watching(other) as seen,
        AsyncClient(recorder.url, token=_key(recorder)) as client,
    ):
        for _ in range(count):
            took.append(await _submit_and_see(client, seen) * 1_000)
            # Not in step with a hub that looks every second.
            await asyncio.sleep(0.037)
    return took


async def fail_over(cluster: Cluster, count: int) -> list[float]:
    """Milliseconds from a kill of the recorder's node to an event that another one recorded."""
    took: list[float] = []
    for _ in range(count):
        recorder = cluster.holder("recorder")
        one, two = cluster.others(recorder)
        async with watching(one) as seen, AsyncClient(two.url, token=_key(two)) as client:
            killed_at = time.perf_counter()
            recorder.kill()
            await _submit_and_see(client, seen)
            took.append((time.perf_counter() - killed_at) * 1_000)
        cluster.start()
        await cluster.ready()
    return took


async def _submit_and_see(client: AsyncClient, seen: asyncio.Queue[tuple[str, float]]) -> float:
    began = time.perf_counter()
    handle = await client.tasks.submit("delivery", required_capabilities=["nobody-has-this"])
    while True:
        subject, at = await seen.get()
        if subject == handle.task_id:
            return at - began


def _key(node: ClusterNode) -> str:
    key = node.data.find_operator_key()
    if key is None:
        raise AssertionError(f"{node.url} has no operator key")
    return key


def report(name: str, took: Sequence[float]) -> None:
    """One line of the table."""
    ordered = sorted(took)
    worst = ordered[-1]
    at_99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    line = f"| {name} | {len(ordered)} | {statistics.median(ordered):.1f} | {at_99:.1f} |"
    sys.stdout.write(f"{line} {worst:.1f} |\n")


async def measure(cluster: Cluster, name: str, *, count: int, kills: int) -> None:
    """Both, on three nodes that have just started."""
    await cluster.ready()
    report(f"delivery, {name}", await deliver(cluster, count))
    if kills:
        report(f"failover, {name}", await fail_over(cluster, kills))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--kills", type=int, default=20)
    given = parser.parse_args()
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mongodb_uri = stack.enter_context(running_mongod(place / "mongod"))
        redis = stack.enter_context(running_redis(place / "redis"))
        sys.stdout.write("| what | n | p50 ms | p99 ms | most ms |\n|---|---|---|---|---|\n")
        for name, url in (("with Redis", redis.url), ("without Redis", "")):
            directory = place / name.replace(" ", "-")
            directory.mkdir()
            sql_url = f"sqlite:///{directory / 'identities.sqlite3'}"
            with running_cluster(
                directory, mongodb_uri=mongodb_uri, redis_url=url, sql_url=sql_url
            ) as cluster:
                kills = given.kills if url else 0
                asyncio.run(measure(cluster, name, count=given.count, kills=kills))


if __name__ == "__main__":
    main()
