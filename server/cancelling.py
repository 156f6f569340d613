"""Ends background tasks for certain."""

from __future__ import annotations

import asyncio
from typing import Any

AGAIN_SECONDS = 0.5


async def cancel_and_wait(*tasks: asyncio.Future[Any] | None) -> None:
    """Cancel the tasks and wait until they have ended; what they raise is not raised here.

    A cancellation that comes while a library waits can get lost in it (pymongo's pool, Python
    3.11's `wait_for`); so it is repeated until it is heard.
    """
    known = [task for task in tasks if task is not None]
    pending = {task for task in known if not task.done()}
    interrupted: asyncio.CancelledError | None = None
    while pending:
        for task in pending:
            task.cancel()
        try:
            await asyncio.wait(pending, timeout=AGAIN_SECONDS)
        except asyncio.CancelledError as error:
            # Whoever waits here is ended, too; it leaves nothing running behind.
            interrupted = error
        pending = {task for task in pending if not task.done()}
    for task in known:
        if not task.cancelled():
            task.exception()
    if interrupted is not None:
        raise interrupted
