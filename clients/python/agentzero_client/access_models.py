"""Who may use the hive, as the REST contract names it: credentials, users, sessions, API keys.

Times are aware datetimes; absent is None.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

ApiKeyStatus = Literal["active", "expired", "revoked"]
UserRole = Literal["admin", "user", "viewer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A session's tokens. `expires_in` is in seconds."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    token_type: str
    expires_in: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Me:
    """The principal behind a credential."""

    principal_id: str
    username: str
    role: str
    permissions: list[str]
    session_id: str | None = None
    key_id: str | None = None
    agent_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """An API key without its secret. Empty `scopes` stand for all of the role."""

    key_id: str
    name: str
    prefix: str
    owner: str
    role: str
    scopes: list[str]
    allowed_addresses: list[str]
    status: ApiKeyStatus
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    successor_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeyCreated(ApiKey):
    """A key just made, with its secret: it is shown once."""

    api_key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Somebody who may log in. With `signing`, some operations demand a signature of them."""

    user_id: str
    username: str
    role: UserRole
    disabled: bool
    signing: bool
    version: int
    created_at: datetime
    password_changed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordReset:
    """The random password, when one was made: it is shown once."""

    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Where a user is logged in; `current` is the session that asks."""

    session_id: str
    user_id: str
    current: bool
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    device: str | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedSessions:
    """How many sessions ended."""

    revoked: int
