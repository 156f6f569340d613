"""What the hive asks of API keys: the service that handlers use and the store behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from hive.api_keys import KeyGrant, KeyStatus, KeyWish
from hive.changes import Actor
from hive.idempotency import Seed
from hive.identity import ApiKey
from hive.identity_ports import IssuedKey
from hive.permissions import Principal


@dataclass(frozen=True, slots=True)
class SeenKey:
    """A key as it is at the time of the answer; the role is the owner's when that is lesser."""

    key: ApiKey
    status: KeyStatus


@dataclass(frozen=True, slots=True)
class ApiKeyFilter:
    """Which keys a list shows; None is any. `owner` is the user or the agent they speak for."""

    owner: str | None = None
    status: KeyStatus | None = None


@dataclass(frozen=True, slots=True)
class KeptSecret:
    """What is kept of a key's secret: its visible beginning and its SHA-256.

    `key_id` is the identifier of the key when that was chosen before; a key that is there under it
    is not made twice.
    """

    prefix: str
    key_hash: str
    key_id: str | None = None


class ApiKeys(Protocol):
    """The API keys. Who asks sees its own, an admin any. All raise Unavailable when SQL is down."""

    async def list(
        self, caller: Principal, wanted: ApiKeyFilter, *, after: str | None, limit: int
    ) -> Sequence[SeenKey]:
        """Newest first, behind the identifier `after`."""
        ...

    async def get(self, caller: Principal, key_id: str) -> SeenKey:
        """One key. Raises ApiKeyNotFound, also for the keys of others."""
        ...

    async def create(
        self, caller: Principal, wish: KeyWish, actor: Actor, seed: Seed | None = None
    ) -> IssuedKey:
        """Make a key for the caller, within what the caller's credential may do.

        The same seed makes the same key, once; so it does in `rotate` and `issue_agent_key`.
        Raises UnknownScope, InvalidNetwork, KeyExceedsMaker.
        """
        ...

    async def revoke(self, caller: Principal, key_id: str, actor: Actor) -> SeenKey:
        """End a key: at once here, within 1 s on other nodes, its sockets too. Idempotent.

        Raises ApiKeyNotFound.
        """
        ...

    async def rotate(
        self,
        caller: Principal,
        key_id: str,
        actor: Actor,
        seed: Seed | None = None,
        *,
        overlap: timedelta,
    ) -> IssuedKey:
        """Make the successor of a key, which ends after the overlap: one transaction.

        Raises ApiKeyNotFound, ApiKeyRotated, ApiKeyEnded, KeyExceedsMaker.
        """
        ...

    async def issue_agent_key(
        self,
        agent_id: str,
        name: str,
        actor: Actor,
        seed: Seed | None = None,
        *,
        owner_id: str | None = None,
    ) -> IssuedKey:
        """Make an API key of role agent, bound to the agent. Its earlier keys stay valid.

        One that the seed made before may have been revoked since.
        """
        ...

    async def revoke_agent_keys(self, agent_id: str, actor: Actor) -> int:
        """Revoke every live key of the agent and tell how many. Idempotent."""
        ...


class ApiKeyStore(Protocol):
    """API keys in one relational database; each method is one transaction.

    A change writes its event, and is recorded as a revocation when it takes rights away. After
    Unavailable the outcome is unknown.
    """

    async def list(
        self, caller: Principal, wanted: ApiKeyFilter, *, after: str | None, limit: int
    ) -> Sequence[SeenKey]:
        """As `ApiKeys.list`."""
        ...

    async def get(self, caller: Principal, key_id: str) -> SeenKey:
        """As `ApiKeys.get`."""
        ...

    async def find(self, key_id: str) -> SeenKey | None:
        """The key, whoever asks."""
        ...

    async def create(
        self, caller: Principal, wish: KeyWish, secret: KeptSecret, actor: Actor
    ) -> ApiKey:
        """As `ApiKeys.create`, judged by the rights that the caller has in this transaction.

        Raises TooManyApiKeys, exactly: those who make keys of one user at once take turns.
        """
        ...

    async def insert(self, granted: KeyGrant, secret: KeptSecret, actor: Actor) -> ApiKey:
        """Add a key that nobody has to ask for: an agent's, or the operator's."""
        ...

    async def revoke(self, caller: Principal, key_id: str, actor: Actor) -> SeenKey:
        """As `ApiKeys.revoke`."""
        ...

    async def rotate(
        self,
        caller: Principal,
        key_id: str,
        secret: KeptSecret,
        actor: Actor,
        *,
        overlap: timedelta,
    ) -> ApiKey:
        """As `ApiKeys.rotate`: the successor. Of any number of callers at once one gets it."""
        ...

    async def revoke_of_agent(self, agent_id: str, actor: Actor) -> tuple[str, ...]:
        """Revoke the agent's live keys; their identifiers. Idempotent."""
        ...

    async def revoke_of_user(
        self, user_id: str, actor: Actor, *, name: str | None = None
    ) -> tuple[str, ...]:
        """Revoke the live keys that speak for the user (of this name); their identifiers."""
        ...

    async def announce_expiring(self, actor: Actor, *, within: timedelta, limit: int) -> int:
        """Write `api_key.expiring` for keys that end so soon, each once; how many they were.

        Keys that were rotated are left out: their holder knows.
        """
        ...
