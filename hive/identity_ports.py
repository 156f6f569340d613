"""What the hive asks of identities: the service that handlers use and the store behind it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from hive.identity import ApiKey, Exchange, PrincipalKind, Session, User
from hive.permissions import Principal, Role


@dataclass(frozen=True, slots=True)
class TokenPair:
    """What a login or a refresh gives. `expires_in` is the access token's life in seconds."""

    access_token: str
    refresh_token: str
    expires_in: int


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
    """Logging in and out, and the keys of agents. All raise Unavailable when SQL is down."""

    async def login(
        self, username: str, password: str, *, device: str | None = None, address: str | None = None
    ) -> TokenPair:
        """Open a session.

        Raises InvalidCredentials, alike and as slowly for an unknown user, a wrong password and a
        disabled user; Invalid for a password over 4 KiB; Unavailable when too many wait.
        """
        ...

    async def refresh(self, refresh_token: str) -> TokenPair:
        """Exchange a refresh token for its one successor.

        Within 10 s the same token gives the same successor while that is unused; after that, using
        it again revokes the session. Raises InvalidToken.
        """
        ...

    async def logout(self, principal: Principal) -> None:
        """Revoke the session of the principal: refused at once here, within 1 s on other nodes.

        Raises Conflict for a principal that came with an API key.
        """
        ...

    async def issue_agent_key(
        self, agent_id: str, name: str, *, owner_id: str | None = None
    ) -> IssuedKey:
        """Make an API key of role agent, bound to the agent. Its earlier keys stay valid."""
        ...

    async def revoke_agent_keys(self, agent_id: str) -> int:
        """Revoke every live key of the agent and tell how many. Idempotent."""
        ...


class IdentityStore(Protocol):
    """Users, sessions and keys in one relational database.

    Each method is one transaction: it happens wholly or not at all. After Unavailable the outcome
    is unknown. A change that takes rights away is recorded as a revocation in that transaction.
    """

    async def count_users(self) -> int:
        """How many users exist."""
        ...

    async def create_user(self, username: str, password_hash: str, role: Role) -> User:
        """Add a user. Raises UsernameTaken (case does not matter)."""
        ...

    async def find_user(self, user_id: str) -> User | None:
        """The user as it is now."""
        ...

    async def find_credentials(self, username: str) -> tuple[User, str] | None:
        """The user of this name and the hash of the password."""
        ...

    async def change_user(
        self, user_id: str, *, role: Role | None = None, disabled: bool | None = None
    ) -> User | None:
        """Change what is given and record the user as changed; disabling revokes every session."""
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
    ) -> Session | None:
        """Open a session with its first refresh token; store the password's newer hash.

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

    async def revoke_session(self, session_id: str) -> bool:
        """Revoke a session; False when it was not live. Idempotent."""
        ...

    async def create_api_key(
        self,
        *,
        name: str,
        prefix: str,
        key_hash: str,
        kind: PrincipalKind,
        role: Role,
        scopes: frozenset[str] = frozenset(),
        owner_id: str | None = None,
        agent_id: str | None = None,
        expires_at: datetime | None = None,
    ) -> ApiKey:
        """Add an API key."""
        ...

    async def find_api_key(self, key_hash: str) -> tuple[ApiKey, User | None] | None:
        """The key of this hash and its owner as they are now."""
        ...

    async def revoke_api_keys(
        self,
        *,
        key_id: str | None = None,
        agent_id: str | None = None,
        owner_id: str | None = None,
        name: str | None = None,
    ) -> tuple[str, ...]:
        """Revoke the live keys that match all that is given; their identifiers. Idempotent."""
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
