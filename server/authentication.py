"""Who is behind a credential: an access token of a live session, or a live API key.

What SQL said is believed for 500 ms, so a change acts within a second on every node. When SQL does
not answer, it is believed for 2 s at most; after that the operation is refused with Unavailable.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hive.errors import Forbidden, InvalidToken, Unavailable
from hive.identity import ApiKey, PrincipalKind, Session, User, permissions_of, role_within
from hive.identity_ports import IdentityStore
from hive.permissions import Principal, Role
from hive.secrets import API_KEY, fingerprint
from server.cancelling import cancel_and_wait
from server.revocations import Revocations
from server.tokens import AccessTokens

FRESH_SECONDS = 0.5
USABLE_SECONDS = 2.0
REMEMBERED = 10_000
TOUCH_AFTER = timedelta(seconds=60)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    """What SQL said about a credential, and the monotonic time at which it was asked."""

    asked_at: float
    session: Session | None = None
    key: ApiKey | None = None
    user: User | None = None

    @property
    def subjects(self) -> tuple[str, ...]:
        """Whose changes make this out of date."""
        session = (self.session.session_id,) if self.session else ()
        key = (self.key.key_id,) if self.key else ()
        return session + key + ((self.user.user_id,) if self.user else ())


class Authenticator:
    """Turns the text of a bearer credential into a principal."""

    def __init__(
        self, store: IdentityStore, tokens: AccessTokens, revocations: Revocations
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._revocations = revocations
        self._known: dict[str, _Known] = {}
        self._asking: dict[str, asyncio.Task[_Known]] = {}
        self._touching: dict[str, asyncio.Task[None]] = {}

    async def authenticate(self, bearer: str, address: str | None = None) -> Principal:
        """The principal of an access token or an API key that came from the address.

        Raises TokenExpired; InvalidToken for everything that we did not issue, have revoked, or
        whose user is disabled; Forbidden for an API key that is not allowed from the address;
        Unavailable when SQL has not answered for 2 s.
        """
        if bearer.startswith(API_KEY.prefix):
            return await self._by_api_key(bearer, address)
        return await self._by_access_token(bearer)

    async def close(self) -> None:
        """End what is under way in the background."""
        await cancel_and_wait(*self._asking.values(), *self._touching.values())

    async def _by_access_token(self, bearer: str) -> Principal:
        claims = self._tokens.verify(bearer)
        known = await self._ask(claims.session_id, self._load_session)
        session, user = known.session, known.user
        now = datetime.now(UTC)
        if session is None:
            raise InvalidToken(reason="the session is unknown", session_id=claims.session_id)
        if session.user_id != claims.user_id:
            raise InvalidToken(reason="the session is of another user")
        principal = principal_of_session(session, user, now, expires_at=claims.expires_at)
        self._touch(session.session_id, session.last_seen_at, now)
        return principal

    async def _by_api_key(self, bearer: str, address: str | None) -> Principal:
        if not API_KEY.is_well_formed(bearer):
            raise InvalidToken(reason="not an API key: the form or the checksum is wrong")
        known = await self._ask(fingerprint(bearer), self._load_key)
        key = known.key
        now = datetime.now(UTC)
        if key is None:
            raise InvalidToken(reason="the API key is unknown")
        principal = principal_of_key(key, known.user, address, now)
        self._touch(key.key_id, key.last_used_at, now)
        return principal

    async def _load_session(self, session_id: str) -> _Known:
        asked_at = time.monotonic()
        found = await self._store.find_session(session_id)
        session, user = found or (None, None)
        return _Known(asked_at, session=session, user=user)

    async def _load_key(self, key_hash: str) -> _Known:
        asked_at = time.monotonic()
        found = await self._store.find_api_key(key_hash)
        key, user = found or (None, None)
        return _Known(asked_at, key=key, user=user)

    async def _ask(self, name: str, load: Callable[[str], Awaitable[_Known]]) -> _Known:
        """What is known, asked anew when older than allowed; one question at a time for each."""
        known = self._known.get(name)
        if known and self._is_current(known, FRESH_SECONDS):
            return known
        while True:
            try:
                known = await self._ask_once(name, load)
            except Unavailable:
                if known and self._is_current(known, USABLE_SECONDS):
                    return known
                raise
            # Another request may have asked the question before the change that we know of.
            if not self._revocations.changed_since(known.asked_at, *known.subjects):
                return known

    async def _ask_once(self, name: str, load: Callable[[str], Awaitable[_Known]]) -> _Known:
        task = self._asking.get(name)
        if task is None:
            task = asyncio.create_task(self._remember(name, load))
            self._asking[name] = task
            task.add_done_callback(_retrieve)
        return await asyncio.shield(task)

    async def _remember(self, name: str, load: Callable[[str], Awaitable[_Known]]) -> _Known:
        try:
            known = await load(name)
        finally:
            del self._asking[name]
        self._known.pop(name, None)
        if known.subjects:
            self._known[name] = known
            if len(self._known) > REMEMBERED:
                del self._known[next(iter(self._known))]
        return known

    def _is_current(self, known: _Known, seconds: float) -> bool:
        if time.monotonic() - known.asked_at >= seconds:
            return False
        return not self._revocations.changed_since(known.asked_at, *known.subjects)

    def _touch(self, subject_id: str, last: datetime | None, now: datetime) -> None:
        if subject_id in self._touching or (last is not None and now - last < TOUCH_AFTER):
            return
        task = asyncio.create_task(self._note_use(subject_id))
        self._touching[subject_id] = task
        task.add_done_callback(lambda _: self._touching.pop(subject_id, None))

    async def _note_use(self, subject_id: str) -> None:
        try:
            await self._store.touch(subject_id)
        except Unavailable as error:
            log.warning("the use of %s was not noted: %s", subject_id, error)


def principal_of_session(
    session: Session, user: User | None, now: datetime, *, expires_at: float
) -> Principal:
    """Whom a session speaks for; `expires_at` is the end of its access token.

    Raises InvalidToken when the session is over, or its user gone or disabled.
    """
    if user is None or user.disabled or not session.is_live(now):
        raise InvalidToken(reason="the session is over", session_id=session.session_id)
    # The role that counts is today's; the token's is only for those who read tokens.
    return Principal(
        principal_id=user.user_id,
        name=user.username,
        role=user.role,
        permissions=permissions_of(user.role),
        session_id=session.session_id,
        expires_at=float(min(expires_at, session.expires_at.timestamp())),
    )


def principal_of_key(
    key: ApiKey, owner: User | None, address: str | None, now: datetime
) -> Principal:
    """Whom an API key speaks for that came from the address.

    Raises InvalidToken when the key is over, or its owner gone or disabled; Forbidden when it is
    not allowed from there.
    """
    if not key.is_live(now):
        raise InvalidToken(reason="the API key is revoked or expired", key_id=key.key_id)
    if not key.is_allowed_from(address):
        raise Forbidden("This API key may not be used from this address.", key_id=key.key_id)
    principal_id, name, role = _holder(key, owner)
    return Principal(
        principal_id=principal_id,
        name=name,
        role=role,
        permissions=permissions_of(role, key.scopes),
        key_id=key.key_id,
        agent_id=key.agent_id,
        expires_at=key.expires_at.timestamp() if key.expires_at else None,
    )


def _holder(key: ApiKey, owner: User | None) -> tuple[str, str, Role]:
    """Identifier, name and role of the principal that a key speaks for."""
    if key.kind is PrincipalKind.AGENT and key.agent_id is not None:
        return key.agent_id, key.name, Role.AGENT
    if owner is None or owner.disabled:
        raise InvalidToken(reason="the owner of the API key is gone or disabled")
    return owner.user_id, owner.username, role_within(key.role, owner.role)


def _retrieve(task: asyncio.Task[_Known]) -> None:
    # When every caller went away nobody else looks at the exception, and asyncio would complain.
    if not task.cancelled():
        task.exception()
