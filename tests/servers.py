"""Real servers for tests: started as a user would have them, ended by what started them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from server.embedded import EmbeddedMongo

POLL_SECONDS = 0.01


@contextlib.contextmanager
def running_mongod(directory: Path) -> Iterator[str]:
    """The URI of a mongod of its own on `directory`, for sync code of the main thread."""
    loop = asyncio.new_event_loop()
    mongo = EmbeddedMongo(directory / "mongo", directory / "mongod.log")
    try:
        yield loop.run_until_complete(mongo.start())
    finally:
        loop.run_until_complete(mongo.stop())
        loop.close()


def wait_until(condition: Callable[[], object], what: str, seconds: float = 10) -> None:
    """Return once `condition()` is true; fail and name it after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(POLL_SECONDS)


async def eventually(condition: Callable[[], object], what: str, seconds: float = 10) -> None:
    """As `wait_until`, while the event loop goes on."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(POLL_SECONDS)
