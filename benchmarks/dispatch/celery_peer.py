"""Celery: its application with a task that does nothing, and its submitter. Lives in .venv-bench.

At least once (`acks_late`): a task is acknowledged when it has run, and its result, if there is
one, is stored. Otherwise as shipped: the prefork pool, four tasks fetched ahead.
"""

from __future__ import annotations

import asyncio
import os
import time

from celery import Celery
from redis import Redis

from benchmarks.dispatch.figures import Plan
from benchmarks.dispatch.marks import Marker
from benchmarks.dispatch.peers import RESULTS, SOCKET
from benchmarks.dispatch.submitting import main

QUEUE = "celery"
UNACKNOWLEDGED = "unacked"
PING_SECONDS = 0.5

url = f"redis+socket://{os.environ[SOCKET]}"
keeps_results = os.environ[RESULTS] == "1"
app = Celery("bench", broker=url, backend=url if keeps_results else None)
app.conf.update(
    task_acks_late=True,
    task_ignore_result=not keeps_results,
    broker_connection_retry_on_startup=True,
)
marker = Marker()


def run(sent: int) -> None:
    """Do nothing but say so."""
    marker.mark(sent)


noop = app.task(name="noop")(run)


class CelerySubmitter:
    """Calls `delay`: from threads, because it waits for Redis."""

    def __init__(self) -> None:
        self._redis = Redis(unix_socket_path=os.environ[SOCKET])

    async def count_workers(self) -> int:
        """Those that answer."""
        return len(app.control.ping(timeout=PING_SECONDS))

    async def submit(self) -> None:
        """One task."""
        noop.delay(time.monotonic_ns())

    async def submit_all(self, plan: Plan) -> None:
        """From as many threads as there are submissions at once."""
        left = iter(range(plan.tasks))

        def go_on() -> None:
            for _ in left:
                noop.delay(time.monotonic_ns())

        await asyncio.gather(*(asyncio.to_thread(go_on) for _ in range(plan.at_once)))

    async def is_done(self) -> bool:
        """Nothing waits, and nothing is in the hands of a worker."""
        return not self._redis.llen(QUEUE) and not self._redis.hlen(UNACKNOWLEDGED)


if __name__ == "__main__":
    main(CelerySubmitter(), "celery", "kombu", "redis")
