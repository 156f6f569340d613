"""What the hive asks of identities: the service that handlers use and the store behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hive.changes import Actor
from hive.identity import ApiKey, Exchange, Session, User
from hive.permissions import Principal, Role

FIRST_START = Actor("system:first-start")
"""Who makes the first admin."""


@dataclass(frozen=True, slots=True)
class TokenPair:
    """What a login or a refresh gives. `expires_in` is the access token's life in seconds.

    `principal` is who has logged in; `refresh_expires_in` is the refresh token's life, unused.
    """

    access_token: str
    refresh_token: str
    expires_in: int
    principal: Principal | None = None
    refresh_expires_in: int = 0


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new API key; `secret` is shown once and kept by nobody but its holder."""

    key: ApiKey
    secret: str


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The outcome of presenting a refresh token; ROTATE and REPEAT come with session and user."""

    decision: Exchange
    session: Session | None = None
    user: User | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """Subjects (`ses_`, `key_`, `usr_`) changed up to `position`, oldest first."""

    position: int
    subjects: tuple[str, ...]


class Accounts(Protocol):
    """Logging in and out. All raise Unavailable when SQL is down."""

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

        Raises InvalidCredentials, alike and as slowly for an unknown user, a wrong password and a
        disabled user; TooManyAttempts, when it was not tried; Malformed for a password over 4 KiB;
        Unavailable when too many wait.
        """
        ...

    async def refresh(self, refresh_token: str) -> TokenPair:
        """Exchange a refresh token for its one successor.

        Within 10 s the same token gives the same successor while that is unused; after that, using
        it again revokes the session. Raises InvalidToken.
        """
        ...

    async def logout(self, principal: Principal, actor: Actor | None = None) -> None:
        """Revoke the session of the principal: refused at once here, within 1 s on other nodes.

        Raises Conflict for a principal that came with an API key.
        """
        ...


class IdentityStore(Protocol):
    """Users, sessions and keys in one relational database.

    Each method is one transaction: it happens wholly or not at all. After Unavailable the outcome
    is unknown. A change that takes rights away is recorded as a revocation in that transaction.
    """

    async def count_users(self) -> int:
        """How many users exist."""
        ...

    async def create_user(
        self, username: str, password_hash: str, role: Role, *, actor: Actor = FIRST_START
    ) -> User:
        """Add a user. Raises UsernameTaken (case does not matter)."""
        ...

    async def find_user(self, user_id: str) -> User | None:
        """The user as it is now."""
        ...

    async def find_credentials(self, username: str) -> tuple[User, str] | None:
        """The user of this name and the hash of the password."""
        ...

    async def find_admin(self) -> User | None:
        """The oldest admin that is not disabled."""
        ...

    async def open_session(
        self,
        user_id: str,
        refresh_hash: str,
        *,
        verified_hash: str,
        replacement_hash: str | None = None,
        device: str | None = None,
        address: str | None = None,
        request_id: str | None = None,
        call_id: str | None = None,
    ) -> Session | None:
        """Open a session with its first refresh token; store the password's newer hash.

        Of `MOST_SESSIONS` live ones of the user, the one that was used least recently ends for it.
        None when the user was disabled or the password changed since `verified_hash` was read.
        """
        ...

    async def exchange_refresh(self, token_hash: str, successor_hash: str) -> Exchanged:
        """Rotate by one conditional update.

        Of any number of callers at once one gets ROTATE, the others REPEAT. REVOKE has revoked the
        session already.
        """
        ...

    async def find_session(self, session_id: str) -> tuple[Session, User] | None:
        """The session and its user as they are now."""
        ...

    async def revoke_session(self, session_id: str, actor: Actor) -> bool:
        """Revoke a session whose user logs out; False when it was not live. Idempotent."""
        ...

    async def find_api_key(self, key_hash: str) -> tuple[ApiKey, User | None] | None:
        """The key of this hash and its owner as they are now."""
        ...

    async def touch(self, subject_id: str) -> None:
        """Note that a session or a key was used now."""
        ...

    async def change_position(self) -> int:
        """The position of the newest recorded change."""
        ...

    async def changes_after(self, position: int) -> Changes:
        """What changed after the position: in the order of commit, none left out."""
        ...
