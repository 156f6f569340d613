"""Every key of the server, derived from one secret: each use has its own (HKDF, RFC 5869)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MIN_SECRET_BYTES = 32
MIN_DISTINCT_BYTES = 8


class WeakSecretError(ValueError):
    """The secret could be guessed; the server must not start with it."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One entry of the ring: a key identifier is bound to exactly one algorithm and one key.

    For HS256 `private` and `public` are the same bytes; for RS256 and EdDSA they are key objects of
    `cryptography`, and `private` is None for a key that only verifies.
    """

    kid: str
    algorithm: str
    public: Any = field(repr=False)
    private: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """The keys of this server. `signing[0]` signs, all of them verify."""

    signing: tuple[SigningKey, ...]
    refresh: bytes
    cursors: bytes
    sealing: bytes
    audit: bytes
    accounts: bytes
    idempotency: bytes
    doorbell: bytes

    @classmethod
    def derive(cls, secret: bytes, *, previous: Sequence[bytes] = ()) -> Keys:
        """Derive all keys. Tokens of `previous` secrets still verify. Raises WeakSecretError."""
        for candidate in (secret, *previous):
            _refuse_weak(candidate)
        return cls(
            signing=tuple(_hs256(_derive(each, "access-token")) for each in (secret, *previous)),
            refresh=_derive(secret, "refresh-successor"),
            cursors=_derive(secret, "cursor"),
            sealing=_derive(secret, "sealing"),
            audit=_derive(secret, "audit-checkpoint"),
            accounts=_derive(secret, "login-account"),
            idempotency=_derive(secret, "idempotency"),
            doorbell=_derive(secret, "doorbell"),
        )

    def successor(self, refresh_token: str) -> bytes:
        """The entropy of a refresh token's one successor: nobody else can compute it."""
        return hmac.digest(self.refresh, refresh_token.encode(), "sha256")


def _derive(secret: bytes, purpose: str) -> bytes:
    derivation = HKDF(
        algorithm=SHA256(), length=32, salt=None, info=f"agentzero/{purpose}".encode()
    )
    return derivation.derive(secret)


def _hs256(key: bytes) -> SigningKey:
    # The identifier changes with the key and tells nothing about it.
    kid = hashlib.sha256(b"kid:" + key).hexdigest()[:16]
    return SigningKey(kid=kid, algorithm="HS256", public=key, private=key)


def _refuse_weak(secret: bytes) -> None:
    if len(secret) < MIN_SECRET_BYTES:
        raise WeakSecretError(
            f"the secret key needs {MIN_SECRET_BYTES} bytes, it has {len(secret)}"
        )
    if len(set(secret)) < MIN_DISTINCT_BYTES:
        raise WeakSecretError("the secret key repeats itself; use random bytes")
