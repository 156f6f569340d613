"""The ring of keys that sign access tokens: a kid is bound to exactly one algorithm and one key."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from server.key_material import public_jwk, require_strong
from server.keys import SigningKey


@dataclass(frozen=True, slots=True)
class RingEntry:
    """A key, and from and until when it counts, in monotonic seconds of this process."""

    key: SigningKey
    signs_from: float = -math.inf
    verifies_until: float = math.inf


class TokenRing:
    """Immutable; a change of keys makes another ring. Entries are given oldest first.

    Raises ValueError at once for a ring that is empty or ambiguous, or that holds an algorithm or a
    key that is too weak (HS256 under 32 bytes, RSA under 2048 bits).
    """

    def __init__(self, entries: Sequence[RingEntry]) -> None:
        if not entries:
            raise ValueError("the ring of signing keys is empty")
        self._entries = {entry.key.kid: entry for entry in entries}
        if len(self._entries) != len(entries):
            raise ValueError("two signing keys have one kid")
        for entry in entries:
            require_strong(entry.key)

    @classmethod
    def of(cls, keys: Sequence[SigningKey]) -> TokenRing:
        """A ring that does not change with time: the first key signs, all of them verify."""
        return cls([RingEntry(key) for key in reversed(keys)])

    def signer(self) -> SigningKey:
        """The newest key whose time to sign has come."""
        now = time.monotonic()
        oldest, *others = self._entries.values()
        begun = [entry for entry in others if entry.signs_from <= now]
        return begun[-1].key if begun else oldest.key

    def find(self, kid: object) -> SigningKey | None:
        """The key of this name, while it verifies."""
        entry = self._entries.get(kid) if isinstance(kid, str) else None
        if entry is None or entry.verifies_until <= time.monotonic():
            return None
        return entry.key

    def known(self) -> dict[str, SigningKey]:
        """Every key, by its kid."""
        return {kid: entry.key for kid, entry in self._entries.items()}

    def public_keys(self) -> list[dict[str, str]]:
        """The keys that others can verify with, those that don't sign yet included (RFC 7517)."""
        found = [self.find(kid) for kid in self._entries]
        published = [public_jwk(key) for key in found if key is not None]
        return [jwk for jwk in published if jwk is not None]
