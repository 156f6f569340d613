"""Users and their sessions, for admins: `client.users`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from agentzero_client.access_models import PasswordReset, RevokedSessions, Session, User, UserRole
from agentzero_client.address import segment
from agentzero_client.decoding import decode_model
from agentzero_client.http import Http
from agentzero_client.paging import pages
from agentzero_client.retrying import Repeat

PATH = "/api/v1/users"


class AsyncUsers:
    """`client.users`. What takes rights away acts within 1 s on every node."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def create(self, username: str, password: str, *, role: UserRole = "user") -> User:
        """Make a user. Raise ConflictError `username-taken`, ProblemError `weak-password`."""
        body = {"username": username, "password": password, "role": role}
        answer = await self._http.request("POST", PATH, body=body, repeat=Repeat.KEYED)
        return decode_model(User, answer.body)

    def list(
        self,
        *,
        role: UserRole | None = None,
        disabled: bool | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[User]:
        """Iterate over users, oldest first, page by page; `limit` bounds the whole iteration."""
        filters = {"role": role, "disabled": None if disabled is None else str(disabled).lower()}
        return pages(self._http, PATH, User, filters, limit)

    async def get(self, user_id: str) -> User:
        """One user. Raise NotFoundError."""
        return decode_model(User, (await self._http.request("GET", _of(user_id))).body)

    async def update(
        self,
        user_id: str,
        *,
        role: UserRole | None = None,
        disabled: bool | None = None,
        if_match: int | None = None,
    ) -> User:
        """Change what is given, only of the version `if_match` if that is given.

        Raise NotFoundError, ConflictError `last-admin`, PreconditionFailedError.
        """
        wanted: dict[str, Any] = {"role": role, "disabled": disabled}
        body = {name: value for name, value in wanted.items() if value is not None}
        if not body:
            raise ValueError("give role or disabled")
        answer = await self._http.request("PATCH", _of(user_id), body=body, version=if_match)
        return decode_model(User, answer.body)

    async def delete(self, user_id: str, *, if_match: int | None = None) -> None:
        """Delete with sessions and keys. Raise NotFoundError, ConflictError `last-admin`.

        With `if_match` only while the user has that version: raise PreconditionFailedError.
        """
        await self._http.request("DELETE", _of(user_id), repeat=Repeat.UNSENT, version=if_match)

    async def reset_password(self, user_id: str, *, password: str | None = None) -> PasswordReset:
        """Set another password and end every session; without one a random one is shown once."""
        body = {} if password is None else {"password": password}
        answer = await self._http.request("POST", f"{_of(user_id)}/password", body=body)
        return decode_model(PasswordReset, answer.body)

    def sessions(self, user_id: str, *, limit: int | None = None) -> AsyncIterator[Session]:
        """Iterate over the live sessions of a user, newest first. Raise NotFoundError."""
        return pages(self._http, f"{_of(user_id)}/sessions", Session, {}, limit)

    async def revoke_sessions(self, user_id: str) -> int:
        """End every session of a user; how many. Raise NotFoundError."""
        answer = await self._http.request("DELETE", f"{_of(user_id)}/sessions")
        return decode_model(RevokedSessions, answer.body).revoked

    async def revoke_session(self, user_id: str, session_id: str) -> None:
        """End one session of a user. Raise NotFoundError, also when it has ended."""
        path = f"{_of(user_id)}/sessions/{segment(session_id)}"
        await self._http.request("DELETE", path, repeat=Repeat.UNSENT)


def _of(user_id: str) -> str:
    return f"{PATH}/{segment(user_id)}"
