"""API keys: the port `hive.api_key_ports.ApiKeys`. Secrets are made here and never kept."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import timedelta

from hive.api_key_ports import ApiKeyFilter, ApiKeyStore, KeptSecret, SeenKey
from hive.api_keys import KeyGrant, KeyWish
from hive.changes import Actor
from hive.idempotency import Seed
from hive.identity import PrincipalKind, User
from hive.identity_ports import IssuedKey
from hive.permissions import Principal, Role
from hive.secrets import API_KEY, fingerprint, visible_prefix
from server.revocations import Revocations


class StoredApiKeys:
    """Brings together the store and the record of revocations."""

    def __init__(self, store: ApiKeyStore, revocations: Revocations) -> None:
        self._store = store
        self._revocations = revocations

    async def list(
        self, caller: Principal, wanted: ApiKeyFilter, *, after: str | None, limit: int
    ) -> Sequence[SeenKey]:
        """Newest first, behind the identifier `after`."""
        return await self._store.list(caller, wanted, after=after, limit=limit)

    async def get(self, caller: Principal, key_id: str) -> SeenKey:
        """One key. Raises ApiKeyNotFound."""
        return await self._store.get(caller, key_id)

    async def create(
        self, caller: Principal, wish: KeyWish, actor: Actor, seed: Seed | None = None
    ) -> IssuedKey:
        """Make a key for the caller. Raises UnknownScope, InvalidNetwork, KeyExceedsMaker."""
        secret, kept = _new_secret(seed)
        return IssuedKey(await self._store.create(caller, wish, kept, actor), secret)

    async def revoke(self, caller: Principal, key_id: str, actor: Actor) -> SeenKey:
        """End a key. Raises ApiKeyNotFound."""
        seen = await self._store.revoke(caller, key_id, actor)
        self._revocations.announce(key_id)
        return seen

    async def rotate(
        self,
        caller: Principal,
        key_id: str,
        actor: Actor,
        seed: Seed | None = None,
        *,
        overlap: timedelta,
    ) -> IssuedKey:
        """Make a successor. Raises ApiKeyNotFound, ApiKeyRotated, ApiKeyEnded, KeyExceedsMaker."""
        secret, kept = _new_secret(seed)
        successor = await self._store.rotate(caller, key_id, kept, actor, overlap=overlap)
        self._revocations.announce(key_id)
        return IssuedKey(successor, secret)

    async def issue_agent_key(
        self,
        agent_id: str,
        name: str,
        actor: Actor,
        seed: Seed | None = None,
        *,
        owner_id: str | None = None,
    ) -> IssuedKey:
        """Make an API key of role agent, bound to the agent."""
        return await self._issue(
            KeyGrant(name, PrincipalKind.AGENT, Role.AGENT, owner_id=owner_id, agent_id=agent_id),
            actor,
            seed,
        )

    async def revoke_agent_keys(self, agent_id: str, actor: Actor) -> int:
        """Revoke every live key of the agent and tell how many."""
        return self._announce(await self._store.revoke_of_agent(agent_id, actor))

    async def issue_user_key(self, owner: User, name: str, actor: Actor) -> IssuedKey:
        """Make an API key with all that its owner may do, now and after a change of role."""
        return await self._issue(
            KeyGrant(name, PrincipalKind.USER, owner.role, owner_id=owner.user_id), actor
        )

    async def revoke_user_keys(self, user_id: str, name: str, actor: Actor) -> int:
        """Revoke every live key of the user that has this name and tell how many."""
        return self._announce(await self._store.revoke_of_user(user_id, actor, name=name))

    async def _issue(self, granted: KeyGrant, actor: Actor, seed: Seed | None = None) -> IssuedKey:
        secret, kept = _new_secret(seed)
        return IssuedKey(await self._store.insert(granted, kept, actor), secret)

    def _announce(self, revoked: Sequence[str]) -> int:
        for key_id in revoked:
            self._revocations.announce(key_id)
        return len(revoked)


def _new_secret(seed: Seed | None) -> tuple[str, KeptSecret]:
    size = API_KEY.entropy_bytes
    secret = API_KEY.encode(secrets.token_bytes(size) if seed is None else seed.entropy[:size])
    key_id = None if seed is None else seed.identifier
    return secret, KeptSecret(visible_prefix(secret), fingerprint(secret), key_id)
