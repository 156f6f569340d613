"""One agent, the shipped runtime: `python -m benchmarks.dispatch.hive_agent NAME --slots N`.

Where it registers stands in the environment, as for every agent. With `--polling` it takes leases
by long poll, as it does where WebSockets are blocked.
"""

from __future__ import annotations

import argparse
from typing import Any

from agentzero_client import Agent, TaskContext
from agentzero_client.frame_socket import FrameSocket, HandshakeFailedError
from benchmarks.dispatch.marks import Marker

CAPABILITY = "bench.noop"


async def refuse(*_: Any, **__: Any) -> FrameSocket:
    """What a network that blocks WebSockets does."""
    raise HandshakeFailedError("blocked")


def main() -> None:
    """Work until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dispatch.hive_agent")
    parser.add_argument("name")
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--polling", action="store_true")
    given = parser.parse_args()
    if given.polling:
        FrameSocket.open = refuse  # type: ignore[method-assign]
    agent = Agent(given.name, slots=given.slots, trust_env=False)
    marker = Marker()

    @agent.task(CAPABILITY)
    async def noop(_: TaskContext, *, sent: int) -> None:
        marker.mark(sent)

    agent.run()


if __name__ == "__main__":
    main()
