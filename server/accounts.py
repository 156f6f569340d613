"""Logging in and out, and the keys of agents: the port `hive.identity_ports.Accounts`."""

from __future__ import annotations

import secrets

from hive.errors import Conflict, InvalidCredentials, InvalidToken
from hive.identity import Exchange, PrincipalKind, Session, User
from hive.identity_ports import IdentityStore, IssuedKey, TokenPair
from hive.permissions import Principal, Role
from hive.secrets import API_KEY, REFRESH_TOKEN, fingerprint, visible_prefix
from server.keys import Keys
from server.login_guard import LoginGuard
from server.passwords import Passwords, prepare_password
from server.revocations import Revocations
from server.tokens import AccessTokens


class SqlAccounts:
    """Brings together the store, the hashing threads, the tokens and the record of revocations."""

    def __init__(
        self,
        store: IdentityStore,
        *,
        passwords: Passwords,
        tokens: AccessTokens,
        keys: Keys,
        revocations: Revocations,
        guard: LoginGuard,
    ) -> None:
        self._store = store
        self._passwords = passwords
        self._tokens = tokens
        self._keys = keys
        self._revocations = revocations
        self._guard = guard

    async def login(
        self, username: str, password: str, *, device: str | None = None, address: str | None = None
    ) -> TokenPair:
        """Open a session.

        Raises InvalidCredentials, UnusablePassword, TooManyAttempts and Unavailable.
        """
        prepare_password(password)
        async with self._guard.attempt(username, password, address):
            found = await self._store.find_credentials(username)
            user, stored = found or (None, None)
            # A second hash would tell a disabled user from a wrong password by the time it takes.
            renew = user is not None and not user.disabled
            verdict = await self._passwords.verify(password, stored, renew=renew)
            if user is None or stored is None or user.disabled or not verdict.correct:
                raise InvalidCredentials
            refresh_token = REFRESH_TOKEN.encode(secrets.token_bytes(REFRESH_TOKEN.entropy_bytes))
            session = await self._store.open_session(
                user.user_id,
                fingerprint(refresh_token),
                verified_hash=stored,
                replacement_hash=verdict.replacement,
                device=device.replace("\0", "") if device else None,
                address=address,
            )
            if session is None:
                raise InvalidCredentials(reason="disabled or changed meanwhile")
        return self._pair(user, session, refresh_token)

    async def refresh(self, refresh_token: str) -> TokenPair:
        """Exchange a refresh token for its one successor. Raises InvalidToken."""
        if not REFRESH_TOKEN.is_well_formed(refresh_token):
            raise InvalidToken(reason="not a refresh token: the form or the checksum is wrong")
        successor = REFRESH_TOKEN.encode(self._keys.successor(refresh_token))
        done = await self._store.exchange_refresh(
            fingerprint(refresh_token), fingerprint(successor)
        )
        if done.decision is Exchange.REVOKE and done.session is not None:
            self._revocations.announce(done.session.session_id)
            raise InvalidToken(reason="used again: revoked", session_id=done.session.session_id)
        if done.decision is Exchange.REFUSE or done.session is None or done.user is None:
            raise InvalidToken(reason="the refresh token is unknown, expired or revoked")
        return self._pair(done.user, done.session, successor)

    async def logout(self, principal: Principal) -> None:
        """Revoke the session of the principal. Raises Conflict for an API key."""
        if principal.session_id is None:
            raise Conflict("An API key has no session to end; revoke the key instead.")
        await self._store.revoke_session(principal.session_id)
        self._revocations.announce(principal.session_id)

    async def issue_agent_key(
        self, agent_id: str, name: str, *, owner_id: str | None = None
    ) -> IssuedKey:
        """Make an API key of role agent, bound to the agent."""
        return await self._issue(PrincipalKind.AGENT, name, Role.AGENT, owner_id, agent_id)

    async def issue_user_key(self, owner: User, name: str) -> IssuedKey:
        """Make an API key with all that its owner may do, now and after a change of role."""
        return await self._issue(PrincipalKind.USER, name, owner.role, owner.user_id, None)

    async def revoke_agent_keys(self, agent_id: str) -> int:
        """Revoke every live key of the agent and tell how many."""
        revoked = await self._store.revoke_api_keys(agent_id=agent_id)
        for key_id in revoked:
            self._revocations.announce(key_id)
        return len(revoked)

    async def _issue(
        self,
        kind: PrincipalKind,
        name: str,
        role: Role,
        owner_id: str | None,
        agent_id: str | None,
    ) -> IssuedKey:
        secret = API_KEY.encode(secrets.token_bytes(API_KEY.entropy_bytes))
        key = await self._store.create_api_key(
            name=name,
            prefix=visible_prefix(secret),
            key_hash=fingerprint(secret),
            kind=kind,
            role=role,
            owner_id=owner_id,
            agent_id=agent_id,
        )
        return IssuedKey(key, secret)

    def _pair(self, user: User, session: Session, refresh_token: str) -> TokenPair:
        access = self._tokens.issue(user.user_id, session.session_id, user.role)
        return TokenPair(access.encoded, refresh_token, access.lifetime_seconds)
