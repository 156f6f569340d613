"""What the hive asks of signing keys: the service that handlers use and the stores behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hive.changes import Actor
from hive.idempotency import Seed
from hive.permissions import Principal
from hive.signing import RequestSignature, SigningAlgorithm, SigningKey


@dataclass(frozen=True, slots=True)
class IssuedSigningKey:
    """A new signing key; `secret` (HMAC only) is shown once and otherwise only kept sealed."""

    key: SigningKey
    secret: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class NewSigningKey:
    """A signing key that is about to be kept. `sealed` is an HMAC key, encrypted."""

    signing_key_id: str
    owner_id: str
    name: str
    algorithm: SigningAlgorithm
    key_id: str | None = None
    public_key: bytes | None = None
    sealed: bytes | None = field(default=None, repr=False)


class SigningKeys(Protocol):
    """Keys with which requests are signed. Others' keys don't exist, except for admins."""

    async def list(
        self, principal: Principal, *, owner: str | None, after: str | None, limit: int
    ) -> Sequence[SigningKey]:
        """Newest first, the principal's own (an admin: everybody's), behind `after`."""
        ...

    async def get(self, principal: Principal, signing_key_id: str) -> SigningKey:
        """Raise SigningKeyNotFound."""
        ...

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
        """Register a key of the principal; from then on its signatures are demanded.

        The same seed makes the same key, once.

        Raises Invalid for a public key that is none, or that does not go with the algorithm;
        NotFound when `key_id` is no live API key of the principal; TooManySigningKeys.
        """
        ...

    async def revoke(self, principal: Principal, signing_key_id: str, actor: Actor) -> None:
        """Refuse its signatures from now on, on every node. Idempotent.

        Raises SigningKeyNotFound.
        """
        ...


class SigningKeyStore(Protocol):
    """The keys in SQL. Each method is one transaction; a change is recorded in it."""

    async def create(self, key: NewSigningKey, actor: Actor) -> SigningKey:
        """Keep a key, once under its identifier.

        Raises NotFound for an API key that is none, TooManySigningKeys.
        """
        ...

    async def find(self, signing_key_id: str) -> SigningKey | None:
        """The key, live or revoked."""
        ...

    async def list(
        self, *, owner_id: str | None, after: str | None, limit: int
    ) -> Sequence[SigningKey]:
        """Newest first, behind the identifier `after`; None is any owner."""
        ...

    async def revoke(self, signing_key_id: str, actor: Actor) -> None:
        """Revoke it. Idempotent."""
        ...

    async def revoke_all(self, owner_id: str, actor: Actor) -> int:
        """Revoke every live key of the owner, bound to an API key or not; how many there were."""
        ...

    async def usable(self, owner_id: str, key_id: str | None) -> Sequence[SigningKey]:
        """The live keys for requests of the owner that come with the API key, or with none.

        Keys that are bound to the API key, or to one that it has succeeded, stand before the
        owner's own ones.
        """
        ...


class Nonces(Protocol):
    """Every nonce that was used, shared by all nodes."""

    async def use(self, signature: RequestSignature) -> None:
        """Take a verified signature, once.

        Atomic: of any number of equal ones exactly one is taken. The time is the database's.
        Raises SignatureInvalid when it is not current, or its key was revoked; SignatureReplayed.
        """
        ...


def change_subject(owner_id: str) -> str:
    """Under which nodes hear of a change of somebody's signing keys, as of a revocation.

    It is not the owner's own identifier: that would close the owner's sockets.
    """
    return f"signing-keys:{owner_id}"
