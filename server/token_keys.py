"""The keys of access tokens on a node: the port `hive.token_keys.TokenKeys`.

Life cycle: `start()` loads the ring and makes a key when the settings ask for another algorithm;
then every change of the ring, by whichever node, is loaded within `Revocations`' 500 ms, and
keys whose tokens have all expired are taken away; `stop()` ends that. While the database holds no
key, the one that is derived from the server's secret signs.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from hive.changes import Actor
from hive.errors import Unavailable
from hive.token_keys import (
    CHANGED,
    PUBLISHED_BEFORE,
    NewTokenKey,
    StoredRing,
    TokenAlgorithm,
    TokenKey,
    TokenKeyStore,
)
from server import key_material
from server.cancelling import cancel_and_wait
from server.keys import SigningKey
from server.revocations import Revocations
from server.sealing import Seal, UnsealError
from server.settings import SettingsError
from server.token_ring import RingEntry, TokenRing
from server.tokens import LEEWAY_SECONDS, AccessTokens

RELOAD_SECONDS = 60.0
RETRY_SECONDS = 0.5
AT_START = Actor("system:start")

log = logging.getLogger(__name__)


class TokenKeysUnreadable(SettingsError):
    """Keys in the database were sealed under another secret, or their rows are damaged."""

    def __init__(self) -> None:
        problem = (
            "AGENTZERO_SECRET_KEY: the keys of access tokens were sealed under another secret. "
            "Give the earlier one, or stop all servers and forget those keys with "
            "`agentzero keys rotate`: everybody has to log in again then"
        )
        super().__init__([problem])


class SealedTokenKeys:
    """Keeps `tokens` up to date with the ring in the database, where keys are sealed."""

    def __init__(
        self,
        store: TokenKeyStore,
        tokens: AccessTokens,
        seal: Seal,
        first: SigningKey,
        revocations: Revocations,
        *,
        algorithm: str = "",
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._seal = seal
        self._first = first
        self._revocations = revocations
        self._algorithm = TokenAlgorithm(algorithm) if algorithm else None
        self._newest = TokenAlgorithm(first.algorithm)
        self._next_end = math.inf
        self._changed = asyncio.Event()
        self._loading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the ring and begin to follow it. Raises TokenKeysUnreadable, Unavailable."""
        self._revocations.on_revoked(self._heard)
        await self.load()
        if self._algorithm is not None and self._algorithm is not self._newest:
            await self._add(AT_START, self._algorithm, unless_newest_is_alike=True)
        self._task = asyncio.create_task(self._follow(), name="token-keys")

    async def stop(self) -> None:
        """End the background task. Idempotent."""
        task, self._task = self._task, None
        await cancel_and_wait(task)

    async def rotate(
        self, actor: Actor, algorithm: TokenAlgorithm | None = None
    ) -> Sequence[TokenKey]:
        """Add a key; the ring after that. Raises TooManyTokenKeys, Unavailable."""
        return (await self._add(actor, algorithm or self._algorithm or self._newest)).keys

    async def replace_unreadable(
        self, actor: Actor, algorithm: TokenAlgorithm | None = None
    ) -> Sequence[TokenKey]:
        """As `rotate`, and forget the keys that can't be read. Their tokens are refused then."""
        stored = await self._store.read()
        unreadable = [key.kid for key in stored.keys if self._find(key) is None]
        newest = stored.keys[-1].algorithm if stored.keys else self._newest
        wanted = algorithm or self._algorithm or newest
        return (await self._add(actor, wanted, discarded=unreadable)).keys

    def public_keys(self) -> Sequence[Mapping[str, str]]:
        """The keys with which others can verify, as JSON Web Keys (RFC 7517)."""
        return self._tokens.ring.public_keys()

    async def load(self) -> None:
        """Take the ring from the database. Raises TokenKeysUnreadable, Unavailable."""
        async with self._loading:
            stored = await self._store.read()
            self._take(stored, time.monotonic())
        if any(key.has_ended(stored.now) for key in stored.keys):
            await self._store.remove_ended()

    async def _add(
        self,
        actor: Actor,
        algorithm: TokenAlgorithm,
        *,
        unless_newest_is_alike: bool = False,
        discarded: Collection[str] = (),
    ) -> StoredRing:
        made = await asyncio.to_thread(key_material.generate, algorithm)
        # A node that reads the ring late also begins late to sign with the successor.
        verified_for = timedelta(seconds=self._tokens.lifetime_seconds + LEEWAY_SECONDS)
        stored = await self._store.add(
            self._sealed(made),
            first=self._sealed(self._first),
            verified_for=verified_for + PUBLISHED_BEFORE,
            actor=actor,
            unless_newest_is_alike=unless_newest_is_alike,
            discarded=discarded,
        )
        await self.load()
        self._revocations.announce(CHANGED)
        return stored

    def _take(self, stored: StoredRing, read_at: float) -> None:
        def monotonic(moment: datetime) -> float:
            return read_at + (moment - stored.now).total_seconds()

        live = [key for key in stored.keys if not key.has_ended(stored.now)]
        entries = []
        for key in live:
            found = self._find(key)
            if found is None:
                raise TokenKeysUnreadable
            end = math.inf if key.verifies_until is None else monotonic(key.verifies_until)
            entries.append(RingEntry(found, monotonic(key.signs_from), end))
        self._tokens.use(TokenRing(entries or [RingEntry(self._first)]))
        self._newest = live[-1].algorithm if live else TokenAlgorithm(self._first.algorithm)
        self._next_end = min((entry.verifies_until for entry in entries), default=math.inf)

    def _find(self, key: TokenKey) -> SigningKey | None:
        """The key of a row, or None when it can't be unsealed."""
        known = self._tokens.ring.known().get(key.kid)
        if known is not None and known.algorithm == key.algorithm:
            return known
        try:
            secret = self._seal.unseal(key.sealed, _purpose(key.kid, key.algorithm))
        except UnsealError:
            return None
        return key_material.restore(key.kid, key.algorithm, secret)

    def _sealed(self, key: SigningKey) -> NewTokenKey:
        algorithm = TokenAlgorithm(key.algorithm)
        secret = key_material.secret_part(key)
        sealed = self._seal.seal(secret, _purpose(key.kid, algorithm))
        return NewTokenKey(key.kid, algorithm, sealed)

    def _heard(self, subject_id: str) -> None:
        if subject_id == CHANGED:
            self._changed.set()

    async def _follow(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._pause()):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            try:
                await self.load()
            except (Unavailable, TokenKeysUnreadable) as error:
                # The ring goes on as it is: its times were known beforehand.
                log.warning("the ring of token keys can't be read: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                self._changed.set()

    def _pause(self) -> float:
        return min(RELOAD_SECONDS, max(0.0, self._next_end - time.monotonic()) + RETRY_SECONDS)


def _purpose(kid: str, algorithm: TokenAlgorithm) -> str:
    return f"token-key:{kid}:{algorithm}"
