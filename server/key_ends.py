"""Ends the connections of API keys when the keys end.

A revoked key ends its connections at once. A rotated one has another end than it had when they were
opened: they go on until then. Which of the two it is, the store is asked; when it does not answer,
the connections end, for nobody knows that they may stay.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from hive.api_key_ports import SeenKey
from hive.api_keys import KeyStatus
from hive.errors import Unavailable
from server.cancelling import cancel_and_wait
from server.peers import Peers

log = structlog.get_logger(__name__)


class FindsKeys(Protocol):
    """Knows API keys."""

    async def find(self, key_id: str) -> SeenKey | None:
        """The key as it is now. Raises Unavailable."""


class KeyEnds:
    """Takes what lost its rights to the connections that are concerned."""

    def __init__(self, store: FindsKeys, peers: Peers) -> None:
        self._store = store
        self._peers = peers
        self._asking: set[asyncio.Task[None]] = set()

    def changed(self, subject_id: str) -> None:
        """Something changed about a session, an API key or a user; does not block."""
        if not subject_id.startswith("key_"):
            self._peers.revoke(subject_id)
        elif self._peers.has(subject_id):
            task = asyncio.create_task(self._look(subject_id))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def stop(self) -> None:
        """End what is under way."""
        await cancel_and_wait(*self._asking)

    async def _look(self, key_id: str) -> None:
        try:
            seen = await self._store.find(key_id)
        except Unavailable as error:
            log.warning("key_ends.store_unavailable", key_id=key_id, cause=str(error))
            seen = None
        if seen is None or seen.status is not KeyStatus.ACTIVE:
            self._peers.revoke(key_id)
        elif seen.key.expires_at is not None:
            self._peers.expire(key_id, seen.key.expires_at.timestamp())
