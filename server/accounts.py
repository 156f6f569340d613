"""Logging in and out: the port `hive.identity_ports.Accounts`."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from hive.changes import Actor
from hive.errors import Conflict, InvalidCredentials, InvalidToken
from hive.identity import Exchange, Session, User, permissions_of, refresh_expiry
from hive.identity_ports import IdentityStore, TokenPair
from hive.permissions import Principal
from hive.secrets import REFRESH_TOKEN, fingerprint
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
        self,
        username: str,
        password: str,
        *,
        device: str | None = None,
        address: str | None = None,
        request_id: str | None = None,
        call_id: str | None = None,
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
                request_id=request_id,
                call_id=call_id,
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

    async def logout(self, principal: Principal, actor: Actor | None = None) -> None:
        """Revoke the session of the principal. Raises Conflict for an API key."""
        if principal.session_id is None:
            raise Conflict("An API key has no session to end; revoke the key instead.")
        actor = actor or Actor(principal.principal_id)
        await self._store.revoke_session(principal.session_id, actor)
        self._revocations.announce(principal.session_id)

    def _pair(self, user: User, session: Session, refresh_token: str) -> TokenPair:
        access = self._tokens.issue(user.user_id, session.session_id, user.role)
        principal = Principal(
            user.user_id,
            user.username,
            user.role,
            permissions_of(user.role),
            session_id=session.session_id,
        )
        now = datetime.now(UTC)
        unused = refresh_expiry(now, session.expires_at) - now
        return TokenPair(
            access.encoded,
            refresh_token,
            access.lifetime_seconds,
            principal,
            refresh_expires_in=int(unused.total_seconds()),
        )
