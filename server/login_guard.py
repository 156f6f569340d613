"""Stands before every login: the bounds on guessing, and an eye on sprays.

    async with guard.attempt(username, password, address):
        ...  # verify; raise InvalidCredentials when it is wrong

Whatever else is raised takes the attempt back, for no password was found wrong.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from hive.errors import InvalidCredentials, Unavailable
from hive.identity import username_key
from hive.login_attempts import LoginAttempts, TooManyAttempts, network_of
from server.login_sprays import LoginSprays

# Logins under way on this node: those whose hash is computed, and those that wait.
MAX_UNDER_WAY = 64
# A rush of right passwords for one account must not look like as many guesses.
MAX_OF_ONE_PLACE = 4
MIN_PLACE_KNOWN = timedelta(days=30)

log = structlog.stdlib.get_logger("server.login_guard")


@dataclass(slots=True)
class _Turns:
    """Lets the attempts of one place in; forgotten when nobody is there."""

    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_OF_ONE_PLACE))
    present: int = 0


class LoginGuard:
    """Decides by the record of failures. `key` hides the names tried from whoever reads that.

    A place stays known for as long as a session that was opened there can live, 30 days at least.
    """

    def __init__(
        self,
        attempts: LoginAttempts,
        key: bytes,
        *,
        session_lifetime: timedelta = MIN_PLACE_KNOWN,
        sprays: LoginSprays | None = None,
    ) -> None:
        self._attempts = attempts
        self._key = key
        self._known_for = max(session_lifetime, MIN_PLACE_KNOWN)
        self._sprays = sprays or LoginSprays()
        self._under_way = 0
        self._turns: dict[tuple[str, str], _Turns] = {}

    @asynccontextmanager
    async def attempt(
        self, username: str, password: str, address: str | None
    ) -> AsyncIterator[None]:
        """Verify inside. Raises TooManyAttempts, Unavailable before that."""
        account, network = self._account(username), network_of(address)
        async with self._turn(account, network):
            try:
                attempt = await self._attempts.reserve(account, network)
            except TooManyAttempts:
                self._sprays.note(account, network, password)
                raise
            try:
                yield
            except InvalidCredentials:
                self._sprays.note(account, network, password)
                raise
            except Exception:
                with suppress(Unavailable):
                    await self._attempts.withdraw(attempt)
                raise
            try:
                await self._attempts.succeed(attempt, self._known_for)
            except Unavailable as error:
                # The session is open. One failure too many stays on record until it is too old.
                log.warning("login.success_not_recorded", reason=str(error))

    async def forgive(self, username: str) -> None:
        """Forget what failed for this user, whom an admin gave another password."""
        await self._attempts.forgive(self._account(username))

    def _account(self, username: str) -> str:
        name = username_key(username).encode(errors="surrogatepass")
        return hmac.new(self._key, name, "sha256").hexdigest()

    @asynccontextmanager
    async def _turn(self, account: str, network: str) -> AsyncIterator[None]:
        if self._under_way >= MAX_UNDER_WAY:
            raise Unavailable("Too many logins are waiting. Try again.", retry_after_seconds=5)
        place = (account, network)
        turns = self._turns.setdefault(place, _Turns())
        turns.present += 1
        self._under_way += 1
        try:
            async with turns.room:
                yield
        finally:
            self._under_way -= 1
            turns.present -= 1
            if not turns.present:
                del self._turns[place]
