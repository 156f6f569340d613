"""Says every 2 s that this node is there, which duties it carries out and where it listens."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import structlog

from hive.errors import Unavailable
from hive.nodes import SEEN_SECONDS, NodeRegistry, NodeSign
from server.cancelling import cancel_and_wait
from server.duties import Duty

log = structlog.get_logger(__name__)


class NodeSigns:
    """A part of every node; no other one speaks for it, so it needs no lease."""

    def __init__(
        self,
        registry: NodeRegistry,
        duties: Sequence[Duty],
        *,
        node_id: str,
        version: str,
        seconds: float = SEEN_SECONDS,
    ) -> None:
        self._registry = registry
        self._duties = duties
        self._seconds = seconds
        self._sign = NodeSign(node_id, secrets.token_hex(8), version)
        self._told = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to say that the node is there."""
        self._task = asyncio.create_task(self._run(), name="node-signs")

    async def stop(self) -> None:
        """End, and take the node off the list. Idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        await cancel_and_wait(task)
        with suppress(Unavailable):
            await self._registry.leave(self._sign.node_id, self._sign.boot)

    def listens(self, address: str) -> None:
        """Say where the node is reached, from now on."""
        self._sign = replace(self._sign, address=address)
        self._told.set()

    def drain(self) -> None:
        """Say that the node is about to end."""
        self._sign = replace(self._sign, is_draining=True)
        self._told.set()

    async def _run(self) -> None:
        while True:
            self._told.clear()
            held = tuple(sorted(duty.name for duty in self._duties if duty.is_held))
            try:
                await self._registry.sign(replace(self._sign, duties=held))
            except Unavailable as error:
                log.warning("node.not_listed", cause=str(error))
            except Exception:
                log.exception("node.not_listed")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), self._seconds)


__all__ = ["NodeSigns"]
