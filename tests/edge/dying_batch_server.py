"""A server that dies in the middle of making a batch of tasks.

    python -m tests.edge.dying_batch_server accept|first|last

It runs `agentzero serve` until a batch is about to be accepted, until the first part of its tasks
is there, or until all are and nobody has looked at what they depend on.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection, Sequence
from typing import Any

from server import cli
from server.releaser import Releaser
from storage.mongo import batches
from storage.mongo.batches import MongoBatches

PART = 5


def die(*_: Any, **__: Any) -> None:
    """As by a power cut."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(place: str) -> None:
    """Replace what comes next in this process by death."""
    batches.CHUNK = PART  # type: ignore[misc]
    if place == "accept":
        MongoBatches.accept = die  # type: ignore[method-assign, assignment]
    elif place == "first":
        make = MongoBatches._make

        async def make_and_die(self: MongoBatches, tasks: Sequence[Any], actor: Any) -> None:
            await make(self, tasks, actor)
            die()

        MongoBatches._make = make_and_die  # type: ignore[method-assign]
    else:

        async def settle_all(
            self: Releaser, task_ids: Sequence[str], waiting_on: Collection[str]
        ) -> None:
            del self, task_ids, waiting_on
            die()

        Releaser.settle_all = settle_all  # type: ignore[method-assign]


if __name__ == "__main__":
    die_at(sys.argv[1])
    sys.argv[1:] = ["serve"]
    cli.main()
