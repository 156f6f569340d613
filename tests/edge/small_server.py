"""The small server as a process: `python -m tests.edge.small_server`; it prints where it is."""

from __future__ import annotations

import asyncio
import logging
import sys

import structlog

from server.connection_counts import room_for_connections
from tests.contract.running import serve_small


async def main() -> None:
    """Serve until the input ends."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    room_for_connections(6_000)
    async with serve_small() as (_, base):
        print(base, flush=True)  # noqa: T201 - whoever started it reads this
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
