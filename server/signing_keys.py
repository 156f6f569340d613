"""Signing keys: the port `hive.signing_ports.SigningKeys`, and which keys a principal signs with.

What SQL said about somebody's keys is believed for 500 ms, and not at all once a change is known
here; so signing is on, and a revoked key is refused, within a second on every node.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hive.changes import Actor
from hive.errors import Invalid
from hive.idempotency import Seed
from hive.permissions import Principal
from hive.ports import Identifiers
from hive.signing import (
    HMAC_BYTES,
    SigningAlgorithm,
    SigningKey,
    SigningKeyNotFound,
    read_public_key,
)
from hive.signing_ports import IssuedSigningKey, NewSigningKey, SigningKeyStore, change_subject
from server.revocations import Revocations
from server.sealing import Seal, UnsealError

FRESH_SECONDS = 0.5
REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class _Known:
    """What SQL said, and the monotonic time at which it was asked."""

    asked_at: float
    keys: Mapping[str, SigningKey]


class SealedSigningKeys:
    """Brings together the store, the seal for HMAC keys and the record of revocations."""

    def __init__(
        self,
        store: SigningKeyStore,
        seal: Seal,
        revocations: Revocations,
        identifiers: Identifiers,
    ) -> None:
        self._store = store
        self._seal = seal
        self._revocations = revocations
        self._identifiers = identifiers
        self._known: dict[tuple[str, str | None], _Known] = {}

    async def list(
        self, principal: Principal, *, owner: str | None, after: str | None, limit: int
    ) -> Sequence[SigningKey]:
        """Newest first; of another owner than oneself only an admin sees any."""
        if principal.is_admin:
            return await self._store.list(owner_id=owner, after=after, limit=limit)
        own = principal.principal_id
        if owner not in (None, own):
            return ()
        return await self._store.list(owner_id=own, after=after, limit=limit)

    async def get(self, principal: Principal, signing_key_id: str) -> SigningKey:
        """Raise SigningKeyNotFound."""
        key = await self._store.find(signing_key_id)
        if key is None or not (principal.is_admin or principal.principal_id == key.owner_id):
            raise SigningKeyNotFound
        return key

    async def create(
        self,
        principal: Principal,
        *,
        name: str,
        algorithm: SigningAlgorithm,
        public_key: str | None,
        key_id: str | None,
        actor: Actor,
        seed: Seed | None = None,
    ) -> IssuedSigningKey:
        """Register a key. Raises Invalid, NotFound, TooManySigningKeys."""
        seed = seed or Seed(self._identifiers.new("sgk"), secrets.token_bytes(HMAC_BYTES))
        signing_key_id = seed.identifier
        raw = secret = None
        if algorithm is SigningAlgorithm.ED25519:
            if public_key is None:
                raise Invalid("An Ed25519 key needs its public key.", pointer="/public_key")
            raw = read_public_key(public_key)
        else:
            if public_key is not None:
                raise Invalid("The server makes HMAC keys.", pointer="/public_key")
            secret = seed.entropy[:HMAC_BYTES]
        new = NewSigningKey(
            signing_key_id=signing_key_id,
            owner_id=principal.principal_id,
            name=name,
            algorithm=algorithm,
            key_id=key_id,
            public_key=raw,
            sealed=None if secret is None else self._seal.seal(secret, _purpose(signing_key_id)),
        )
        key = await self._store.create(new, actor)
        self._revocations.announce(change_subject(key.owner_id))
        return IssuedSigningKey(key, secret)

    async def revoke(self, principal: Principal, signing_key_id: str, actor: Actor) -> None:
        """Refuse its signatures from now on. Idempotent. Raises SigningKeyNotFound."""
        key = await self.get(principal, signing_key_id)
        await self._store.revoke(signing_key_id, actor)
        self._revocations.announce(change_subject(key.owner_id))

    async def usable_by(self, principal: Principal) -> Mapping[str, SigningKey]:
        """The live keys whose signatures this principal's requests may carry, by identifier.

        Those that are bound to its API key, or else its owner's own ones. Raises Unavailable.
        """
        name = (principal.principal_id, principal.key_id)
        subjects = (change_subject(principal.principal_id), principal.principal_id)
        known = self._known.get(name)
        if known is None or time.monotonic() - known.asked_at >= FRESH_SECONDS:
            known = await self._load(*name)
        while self._revocations.changed_since(known.asked_at, *subjects):
            known = await self._load(*name)
        return known.keys

    def secret_of(self, key: SigningKey) -> bytes | None:
        """The secret of an HMAC key; None when it was sealed under another key of the server."""
        try:
            return self._seal.unseal(key.sealed or b"", _purpose(key.signing_key_id))
        except UnsealError:
            return None

    async def _load(self, owner_id: str, key_id: str | None) -> _Known:
        asked_at = time.monotonic()
        found = await self._store.usable(owner_id, key_id)
        bound = [key for key in found if key.key_id is not None]
        known = _Known(asked_at, {key.signing_key_id: key for key in bound or found})
        self._known.pop((owner_id, key_id), None)
        self._known[owner_id, key_id] = known
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return known


def _purpose(signing_key_id: str) -> str:
    return f"signing-key:{signing_key_id}"
