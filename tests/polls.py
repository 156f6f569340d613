"""What a node learns by asking, however busy the machine is."""

from __future__ import annotations

import asyncio
from unittest.mock import patch

from server.revocations import POLL_SECONDS, Revocations

PROMISED_SECONDS = 1.0
"""After which every node acts by a change."""
assert 2 * POLL_SECONDS <= PROMISED_SECONDS


async def next_poll(revocations: Revocations) -> None:
    """Wait for the end of a poll that begins from now on: the second at the latest, of two."""
    poll, ended = revocations.poll, asyncio.Event()

    async def watched() -> None:
        await poll()
        ended.set()

    with patch.object(revocations, "poll", watched):
        async with asyncio.timeout(30):
            await ended.wait()
