"""Large bodies take turns: no round of the event loop decodes more than one.

A megabyte of JSON takes about 4 ms. Two hundred that arrive together would hold the loop for a
second or more; whoever waits for a store meanwhile would take it for gone.
"""

from __future__ import annotations

import asyncio
from typing import Final

LARGE_BYTES: Final = 64 * 1024


class Turns:
    """First come, first served. Bound to the event loop that first waits."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def wait(self, size: int) -> None:
        """Return at once for a body below `LARGE_BYTES`, else when it is its turn."""
        if size < LARGE_BYTES:
            return
        async with self._turn:
            await asyncio.sleep(0)


__all__ = ["LARGE_BYTES", "Turns"]
