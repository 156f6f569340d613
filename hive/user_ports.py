"""What the hive asks of users and sessions: services for handlers, and the stores behind them.

Whoever loses rights by a change is told about in the transaction of the change. A method of a store
that says so gives the subjects (`ses_`, `key_`, `usr_`) that its service announces after the
commit, so that this node acts at once; other nodes follow within 500 ms. Everything raises
Unavailable when SQL does not answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hive.changes import Actor
from hive.identity import Session
from hive.permissions import Principal, Role
from hive.preconditions import ExpectedVersions
from hive.users import UserChange, UserDetail, UserFilter


@dataclass(frozen=True, slots=True)
class UserChanged:
    """A user after a change, and whose rights the change took."""

    detail: UserDetail
    revoked: tuple[str, ...] = ()


class Users(Protocol):
    """The users. Changes act within 1 s on every node and close the sockets concerned."""

    async def create(
        self,
        username: str,
        password: str,
        role: Role,
        actor: Actor,
        *,
        user_id: str | None = None,
    ) -> UserDetail:
        """Add a user, under this identifier when one is given; one that is there is not made twice.

        Raises UsernameTaken (case does not matter), Invalid for the password, UndoneMeanwhile for
        the identifier of a user that was deleted.
        """
        ...

    async def get(self, user_id: str) -> UserDetail:
        """Raise UserNotFound when there is none."""
        ...

    async def list(
        self, wanted: UserFilter, *, after: str | None, limit: int
    ) -> Sequence[UserDetail]:
        """Oldest first, behind the identifier `after`."""
        ...

    async def update(
        self,
        user_id: str,
        change: UserChange,
        actor: Actor,
        *,
        expected: ExpectedVersions | None = None,
    ) -> UserDetail:
        """Change role or whether the user is disabled, which ends every session.

        What changes nothing makes no event. Raises UserNotFound, LastAdmin, and PreconditionFailed
        when `expected` names other versions than the one that is changed.
        """
        ...

    async def delete(
        self, user_id: str, actor: Actor, *, expected: ExpectedVersions | None = None
    ) -> None:
        """Delete with sessions and signing keys; revoke the API keys.

        Raises UserNotFound, LastAdmin, and PreconditionFailed as `update`.
        """
        ...

    async def reset_password(self, user_id: str, password: str | None, actor: Actor) -> str | None:
        """Set another password and end every session; the random one that None asked for.

        Raises UserNotFound, Invalid for the password.
        """
        ...

    async def change_password(
        self, caller: Principal, current: str, new: str, actor: Actor, *, address: str
    ) -> None:
        """Change the caller's own password and end its other sessions.

        Guesses of the current one are throttled like logins. Raises SessionRequired for an API
        key, WrongPassword, Invalid for the new one, TooManyRequests.
        """
        ...


class Sessions(Protocol):
    """The live sessions of users. Whoever is revoked is refused within 1 s on every node."""

    async def list(self, user_id: str, *, after: str | None, limit: int) -> Sequence[Session]:
        """Newest first, behind the identifier `after`; none of whoever is no user."""
        ...

    async def revoke(self, user_id: str, session_id: str, actor: Actor) -> None:
        """End one session. Raises SessionNotFound, also for another user's."""
        ...

    async def revoke_all(self, user_id: str, actor: Actor, *, but: str | None = None) -> int:
        """End every session of the user but one; how many."""
        ...


class UserStore(Protocol):
    """Users in SQL: each method is one transaction, with its events."""

    async def insert(
        self,
        username: str,
        password_hash: str,
        role: Role,
        actor: Actor,
        *,
        user_id: str | None = None,
    ) -> UserDetail:
        """As `Users.create`. Raises UsernameTaken, UndoneMeanwhile."""
        ...

    async def get(self, user_id: str) -> UserDetail:
        """Raise UserNotFound."""
        ...

    async def list(
        self, wanted: UserFilter, *, after: str | None, limit: int
    ) -> Sequence[UserDetail]:
        """As `Users.list`."""
        ...

    async def update(
        self,
        user_id: str,
        change: UserChange,
        actor: Actor,
        *,
        expected: ExpectedVersions | None = None,
    ) -> UserChanged:
        """As `Users.update`: of any calls at once, on any nodes, one admin is left."""
        ...

    async def delete(
        self, user_id: str, actor: Actor, *, expected: ExpectedVersions | None = None
    ) -> UserChanged:
        """As `Users.delete`; the user as it was."""
        ...

    async def password_hash(self, user_id: str) -> str:
        """The hash that is stored. Raises UserNotFound."""
        ...

    async def set_password(self, user_id: str, password_hash: str, actor: Actor) -> UserChanged:
        """Store the hash and end every session. Raises UserNotFound."""
        ...

    async def replace_password(
        self, session_id: str, verified_hash: str, password_hash: str, actor: Actor
    ) -> UserChanged:
        """Store the hash for the user of a session that stays; every other one ends.

        Raises InvalidToken when the session is over, WriteConflict when `verified_hash` is not what
        is stored any more.
        """
        ...


class SessionStore(Protocol):
    """Sessions in SQL: each method is one transaction, with its events."""

    async def list(self, user_id: str, *, after: str | None, limit: int) -> Sequence[Session]:
        """As `Sessions.list`."""
        ...

    async def end(self, user_id: str, session_id: str, actor: Actor) -> None:
        """As `Sessions.revoke`."""
        ...

    async def end_all(self, user_id: str, actor: Actor, *, but: str | None) -> tuple[str, ...]:
        """Give the sessions that ended."""
        ...

    async def sweep(self, limit: int) -> int:
        """Delete at most so many of the oldest sessions that are past their end; how many."""
        ...
