"""All connections of this node: counted, ticked, revoked and drained."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from contextlib import suppress
from typing import Final

import structlog

from hive.permissions import Principal
from server.cancelling import cancel_and_wait
from server.closing import CloseCode, Disconnect
from server.liveness import TICK_SECONDS
from server.peer import Peer

PER_PRINCIPAL: Final = 20
RECONNECT_MS: Final = (500, 5_000)
"""When drained clients are to come back: spread, so that they don't all come at once."""

log = structlog.get_logger(__name__)


class Peers:
    """The port `server.peer.Registry`, and what a node does with all of its connections."""

    def __init__(
        self, *, per_principal: int = PER_PRINCIPAL, tick_seconds: float = TICK_SECONDS
    ) -> None:
        self._per_principal = per_principal
        self._tick_seconds = tick_seconds
        self._peers: set[Peer] = set()
        self._of_principal: defaultdict[str, set[Peer]] = defaultdict(set)
        self._draining = False
        self._gone = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._peers)

    def start(self) -> None:
        """Begin to tick."""
        self._task = asyncio.create_task(self._tick(), name="peers")

    async def stop(self) -> None:
        """End everything that is left with 1001. Idempotent."""
        for peer in tuple(self._peers):
            peer.end(CloseCode.GOING_AWAY, "the server stops")
        task, self._task = self._task, None
        await cancel_and_wait(task)

    async def drain(self, seconds: float) -> None:
        """Ask everybody to come back later, and wait up to `seconds` until they are gone."""
        self._draining = True
        log.info("peers.draining", connections=len(self._peers))
        for peer in tuple(self._peers):
            peer.notify("draining", random.randint(*RECONNECT_MS))  # noqa: S311 - only spreads load  # nosec B311
            peer.end(CloseCode.RESTARTING, "the server drains")
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._peers:
                    self._gone.clear()
                    await self._gone.wait()

    def add(self, peer: Peer) -> None:
        """Count the connection from its first moment on."""
        self._peers.add(peer)

    def admit(self, peer: Peer, principal: Principal) -> None:
        """Count it for its principal. Raises Disconnect: too many, or the node drains."""
        if self._draining:
            raise Disconnect(CloseCode.RESTARTING, "the server drains")
        of_principal = self._of_principal[principal.principal_id]
        if len(of_principal) >= self._per_principal:
            raise Disconnect(
                CloseCode.RATE_LIMITED, f"at most {self._per_principal} connections a principal"
            )
        of_principal.add(peer)

    def remove(self, peer: Peer) -> None:
        """The socket is gone. Idempotent."""
        self._peers.discard(peer)
        if peer.principal is not None:
            principal_id = peer.principal.principal_id
            self._of_principal[principal_id].discard(peer)
            if not self._of_principal[principal_id]:
                del self._of_principal[principal_id]
        self._gone.set()

    def revoke(self, subject_id: str) -> None:
        """End the connections of a session, an API key or a user."""
        for peer in tuple(self._peers):
            principal = peer.principal
            if principal is not None and subject_id in {
                principal.session_id,
                principal.key_id,
                principal.principal_id,
            }:
                peer.end(CloseCode.REVOKED, "the credential was revoked")

    def has(self, key_id: str) -> bool:
        """Tell whether a connection was opened with the API key."""
        return any(peer.principal and peer.principal.key_id == key_id for peer in self._peers)

    def expire(self, key_id: str, expires_at: float) -> None:
        """End the connections of an API key at that time, in seconds of the Unix epoch."""
        for peer in tuple(self._peers):
            if peer.principal is not None and peer.principal.key_id == key_id:
                peer.expire(expires_at)

    async def _tick(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(self._tick_seconds)
            now = clock()
            for peer in tuple(self._peers):
                peer.tick(now)
