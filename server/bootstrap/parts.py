"""Background parts of a node: started in order, stopped in the opposite one."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Protocol


class Part(Protocol):
    """A duty of the node that starts at once and ends with it."""

    def start(self) -> None:
        """Begin; the event loop runs."""

    async def stop(self) -> None:
        """End. Idempotent."""


def start(stack: AsyncExitStack, *parts: Part) -> None:
    """Start each, and have the stack stop it."""
    for part in parts:
        part.start()
        stack.push_async_callback(part.stop)
