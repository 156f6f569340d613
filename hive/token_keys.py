"""The keys that sign access tokens: from when each one signs, and how long it verifies.

The ring is a list, oldest first. Its newest key whose `signs_from` has come signs; every key
verifies until its `verifies_until`, which is set when it gets a successor.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from hive.changes import Actor
from hive.errors import Conflict

CHANGED = "token_keys"
"""The subject under which nodes hear of a change of the ring, as of a revocation."""
PUBLISHED_BEFORE = timedelta(seconds=2)
"""How long every node knows a key before the first token that it signs appears."""
MOST_KEYS = 32
_NEXT = timedelta(microseconds=1)


class TokenAlgorithm(StrEnum):
    """What access tokens can be signed with, by its name in JOSE (RFC 7518, RFC 8037)."""

    HS256 = "HS256"
    RS256 = "RS256"
    EDDSA = "EdDSA"


class TooManyTokenKeys(Conflict):
    """Keys were rotated faster than their tokens expire."""

    code = "too-many-token-keys"
    title = "Too many token keys"
    default_detail = f"Tokens of {MOST_KEYS} keys are still accepted. Try again in a while."


@dataclass(frozen=True, slots=True)
class NewTokenKey:
    """A key that is about to join the ring; `sealed` is its secret part, encrypted."""

    kid: str
    algorithm: TokenAlgorithm
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A key of the ring. Times are the database's; `verifies_until` is None for the newest."""

    kid: str
    algorithm: TokenAlgorithm
    sealed: bytes = field(repr=False)
    created_at: datetime
    signs_from: datetime
    verifies_until: datetime | None = None

    def has_ended(self, now: datetime) -> bool:
        """Every token that it can have signed has expired."""
        return self.verifies_until is not None and self.verifies_until <= now


@dataclass(frozen=True, slots=True)
class StoredRing:
    """The ring as the database had it at its time `now`, oldest first; it may be empty."""

    now: datetime
    keys: tuple[TokenKey, ...]


def add_key(
    ring: Sequence[TokenKey],
    new: NewTokenKey,
    *,
    first: NewTokenKey,
    now: datetime,
    verified_for: timedelta,
) -> tuple[TokenKey, ...]:
    """The ring with a new key, without those that have ended.

    `first` is the key that signed while the ring was empty. A key verifies for `verified_for` after
    its successor began to sign. Raises TooManyTokenKeys.
    """
    older = [key for key in ring if not key.has_ended(now)]
    if len(older) >= MOST_KEYS:
        raise TooManyTokenKeys
    older = older or [TokenKey(first.kid, first.algorithm, first.sealed, now, now)]
    # Strictly behind the newest, also when the database's clock was set back.
    signs_from = max(now + PUBLISHED_BEFORE, older[-1].signs_from + _NEXT)
    until = signs_from + verified_for
    return (
        *(key if key.verifies_until else replace(key, verifies_until=until) for key in older),
        TokenKey(new.kid, new.algorithm, new.sealed, now, signs_from),
    )


class TokenKeyStore(Protocol):
    """The ring in the database that all nodes share. All methods raise Unavailable."""

    async def read(self) -> StoredRing:
        """The ring as it is now, ended keys included until somebody takes them away."""
        ...

    async def add(
        self,
        new: NewTokenKey,
        *,
        first: NewTokenKey,
        verified_for: timedelta,
        actor: Actor,
        unless_newest_is_alike: bool = False,
        discarded: Collection[str] = (),
    ) -> StoredRing:
        """Add a key by `add_key`, with the event, in one transaction; nodes hear of it.

        Concurrent calls come one after the other. With `unless_newest_is_alike` nothing is added
        when the newest key (`first` of an empty ring) has the same algorithm. `discarded` keys are
        taken away first. Raises TooManyTokenKeys.
        """
        ...

    async def remove_ended(self) -> None:
        """Take away the keys whose tokens have all expired. Idempotent."""
        ...


class TokenKeys(Protocol):
    """The ring of the running server."""

    async def rotate(
        self, actor: Actor, algorithm: TokenAlgorithm | None = None
    ) -> Sequence[TokenKey]:
        """Add a key that signs from 2 s from now; the ring after that, the new key last.

        Without `algorithm` it is the one of the settings, or else the newest key's. Raises
        TooManyTokenKeys, Unavailable.
        """
        ...

    def public_keys(self) -> Sequence[Mapping[str, str]]:
        """The keys with which others can verify, as JSON Web Keys (RFC 7517); none of HS256."""
        ...
