"""Who we are to the server: a fixed token or key, or a session that keeps itself open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from agentzero_client.access_models import Tokens
from agentzero_client.decoding import decode_model
from agentzero_client.errors import AuthenticationError

LOGIN = "/api/v1/auth/login"
REFRESH = "/api/v1/auth/refresh"
REFRESH_EARLY_SECONDS = 30.0

Post = Callable[[str, Mapping[str, Any]], Awaitable[Any]]
"""Sends a body to a public path and gives the decoded answer."""


class Credentials(Protocol):
    """What requests and sockets ask for their `Authorization`."""

    async def token(self, post: Post) -> str | None:
        """Give the bearer value to use now, or None to go without."""
        ...

    async def renew(self, post: Post, rejected: str | None) -> bool:
        """Replace `rejected`; False when there is nothing to replace it with."""
        ...


class FixedCredentials:
    """An API key, an access token of somebody else's making, or nothing at all."""

    def __init__(self, bearer: str | None) -> None:
        self._bearer = bearer

    async def token(self, post: Post) -> str | None:  # noqa: ARG002  # The protocol's form.
        """Give the value as it is."""
        return self._bearer

    async def renew(self, post: Post, rejected: str | None) -> bool:  # noqa: ARG002  # As above.
        """There is no other."""
        return False


class SessionCredentials:
    """A session: logs in at first use, refreshes in time, logs in again when that is refused.

    One refresh at a time, however many requests need it: a refresh token works once.
    Raises AuthenticationError when name and password are refused.
    """

    def __init__(
        self,
        username: str | None = None,
        password: str | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        self._username = username
        self._password = password
        self._tokens: Tokens | None = None
        self._expires_at = 0.0
        self._lock = asyncio.Lock()
        if tokens is not None:
            self._keep(tokens)

    async def token(self, post: Post) -> str | None:
        """Give an access token that stays good for some seconds."""
        async with self._lock:
            if self._tokens is None or time.monotonic() >= self._expires_at:
                await self._open(post)
            return self._tokens.access_token if self._tokens else None

    async def renew(self, post: Post, rejected: str | None) -> bool:
        """Get another token, unless somebody else just did."""
        async with self._lock:
            if self._tokens is not None and self._tokens.access_token != rejected:
                return True
            return await self._open(post)

    async def refresh(self, post: Post) -> Tokens:
        """Exchange the refresh token now. Raise AuthenticationError when there is none."""
        async with self._lock:
            if self._tokens is None or not await self._open(post):
                raise AuthenticationError(401, "no-session", "There is no session to refresh.")
            return self._tokens

    def replace_password(self, password: str) -> None:
        """Log in with this one from now on, where a name is known."""
        if self._username is not None:
            self._password = password

    def forget(self) -> None:
        """Drop the tokens; the next use logs in again, where name and password are known."""
        self._tokens = None

    async def _open(self, post: Post) -> bool:
        if self._tokens is not None:
            try:
                answer = await post(REFRESH, {"refresh_token": self._tokens.refresh_token})
            except AuthenticationError:
                self._tokens = None
                if self._username is None:
                    raise
            else:
                self._keep(decode_model(Tokens, answer))
                return True
        if self._username is None or self._password is None:
            return False
        answer = await post(LOGIN, {"username": self._username, "password": self._password})
        self._keep(decode_model(Tokens, answer))
        return True

    def _keep(self, tokens: Tokens) -> None:
        self._tokens = tokens
        # A token that lives shorter than the margin is used for half of its life.
        lifetime = max(tokens.expires_in - REFRESH_EARLY_SECONDS, tokens.expires_in / 2)
        self._expires_at = time.monotonic() + lifetime
