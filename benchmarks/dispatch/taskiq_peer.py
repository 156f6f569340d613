"""taskiq: its broker with a task that does nothing, and its submitter. Lives in .venv-bench.

At least once: the broker of taskiq-redis that acknowledges (a stream), when the result, if there is
one, is stored. Otherwise as shipped.
"""

from __future__ import annotations

import os
import time

from redis.asyncio import Redis, ResponseError
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.dispatch.figures import Plan
from benchmarks.dispatch.marks import Marker
from benchmarks.dispatch.pace import at_once
from benchmarks.dispatch.peers import RESULTS, SOCKET
from benchmarks.dispatch.submitting import main

QUEUE = "taskiq"

url = f"unix://{os.environ[SOCKET]}"
broker = RedisStreamBroker(url)
if os.environ[RESULTS] == "1":
    broker = broker.with_result_backend(RedisAsyncResultBackend(url))
marker = Marker()


async def run(sent: int) -> None:
    """Do nothing but say so."""
    marker.mark(sent)


noop = broker.task(task_name="noop")(run)


class TaskiqSubmitter:
    """Calls `kiq`."""

    def __init__(self) -> None:
        self._redis = Redis(unix_socket_path=os.environ[SOCKET])

    async def count_workers(self) -> int:
        """Those that read the stream. The first of them makes it."""
        try:
            [group] = await self._redis.xinfo_groups(QUEUE)
        except ResponseError:
            return 0
        return int(group["consumers"])

    async def submit(self) -> None:
        """One task."""
        await noop.kiq(time.monotonic_ns())

    async def submit_all(self, plan: Plan) -> None:
        """Some at once."""
        await at_once(plan, self.submit)

    async def is_done(self) -> bool:
        """Nothing waits, and nothing is in the hands of a worker."""
        [group] = await self._redis.xinfo_groups(QUEUE)
        return not group["lag"] and not group["pending"]


if __name__ == "__main__":
    main(TaskiqSubmitter(), "taskiq", "taskiq-redis", "redis")
