"""Users, sessions, API keys and refresh tokens: what they are and when a refresh token may be used.

A session is a family of refresh tokens: one live token, and the used ones before it. An API key
belongs to an agent, or to a user whose rights it can't exceed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from hive.errors import Conflict
from hive.networks import within
from hive.permissions import ROLE_PERMISSIONS, Role

REFRESH_GRACE = timedelta(seconds=10)
REFRESH_IDLE = timedelta(days=7)
SESSION_LIFETIME = timedelta(days=30)


class PrincipalKind(StrEnum):
    """Whom an API key speaks for."""

    USER = "user"
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class User:
    """A person or a program with a name and a password. Times are aware, in UTC."""

    user_id: str
    username: str
    role: Role
    disabled: bool
    created_at: datetime
    password_changed_at: datetime
    version: int = 1


@dataclass(frozen=True, slots=True)
class Session:
    """One login of a user on one device, until it is revoked, unused for a week or a month old."""

    session_id: str
    user_id: str
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    device: str | None = None
    address: str | None = None
    revoked_at: datetime | None = None

    def is_live(self, now: datetime) -> bool:
        """Neither revoked nor past its absolute end."""
        return self.revoked_at is None and now < self.expires_at


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A long-lived credential. `prefix` is its visible beginning; the key itself is never kept.

    `owner_id` is the user who made it, if any. Empty `scopes` stand for all of the role.
    """

    key_id: str
    name: str
    prefix: str
    kind: PrincipalKind
    role: Role
    scopes: frozenset[str]
    created_at: datetime
    owner_id: str | None = None
    agent_id: str | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    allowed_addresses: tuple[str, ...] = ()
    successor_id: str | None = None

    def is_live(self, now: datetime) -> bool:
        """Neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def is_allowed_from(self, address: str | None) -> bool:
        """Within one of the networks (CIDR) that it is allowed from, if it names any."""
        if not self.allowed_addresses:
            return True
        return address is not None and within(address, self.allowed_addresses)


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """What is kept of one refresh token: hashes only."""

    token_hash: str
    session_id: str
    issued_at: datetime
    expires_at: datetime
    used_at: datetime | None = None
    successor_hash: str | None = None


class Exchange(StrEnum):
    """What to do with a refresh token that somebody presents."""

    ROTATE = "rotate"
    REPEAT = "repeat"
    REFUSE = "refuse"
    REVOKE = "revoke"


class UsernameTaken(Conflict):
    """Usernames are unique, whatever the case of their letters."""

    code = "username-taken"
    title = "Username taken"
    default_detail = "This username is taken."


def decide_exchange(
    token: RefreshToken | None,
    session: Session | None,
    user: User | None,
    successor: RefreshToken | None,
    *,
    successor_hash: str,
    now: datetime,
) -> Exchange:
    """Decide about a presented refresh token from what is stored.

    ROTATE: it is live. REPEAT: its answer may have been lost, give the same successor again.
    REVOKE: it was used before, so two parties hold it and the whole family ends. REFUSE: all else.
    """
    if token is None or session is None or user is None or not session.is_live(now):
        return Exchange.REFUSE
    if user.disabled:
        return Exchange.REFUSE
    if token.used_at is None:
        return Exchange.ROTATE if now < token.expires_at else Exchange.REFUSE
    if now - token.used_at > REFRESH_GRACE or successor is None or successor.used_at is not None:
        return Exchange.REVOKE
    # A successor made under an older server key can't be made again; nobody has done wrong.
    return Exchange.REPEAT if token.successor_hash == successor_hash else Exchange.REFUSE


def refresh_expiry(now: datetime, session_expires_at: datetime) -> datetime:
    """When a refresh token issued now ends: a week unused, or with its session."""
    return min(now + REFRESH_IDLE, session_expires_at)


def permissions_of(role: Role, scopes: frozenset[str] = frozenset()) -> frozenset[str]:
    """The permissions of a credential: those of the role, narrowed by scopes when there are any."""
    return ROLE_PERMISSIONS[role] & scopes if scopes else ROLE_PERMISSIONS[role]


def role_within(key_role: Role, owner_role: Role) -> Role:
    """The role of a user's API key: its own, unless the owner's is now the lesser one."""
    exceeds = ROLE_PERMISSIONS[key_role] - ROLE_PERMISSIONS[owner_role]
    return owner_role if exceeds else key_role


def username_key(username: str) -> str:
    """The form under which usernames are compared: one for all spellings of case."""
    return username.strip().casefold()
