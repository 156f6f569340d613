"""A server that dies, as by a power cut, when the effects are there and the answers are not.

    python -m tests.edge.dying_server COUNT

It runs `agentzero serve` until so many requests under an `Idempotency-Key` have done what they had
to do and would keep their answers now.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from hive.idempotency import KeptAnswer
from server import cli
from storage.mongo.idempotency import MongoIdempotency


def die_instead_of_keeping(count: int) -> None:
    """Replace the keeping of answers in this process."""
    arrived: list[str] = []

    async def finish(
        self: MongoIdempotency, record_id: str, call_id: str, answer: KeptAnswer
    ) -> bool:
        del self, call_id, answer
        arrived.append(record_id)
        if len(arrived) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        never: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        return await never

    MongoIdempotency.finish = finish  # type: ignore[method-assign]


if __name__ == "__main__":
    die_instead_of_keeping(int(sys.argv[1]))
    sys.argv[1:] = ["serve"]
    cli.main()
