"""Rows as the hive's own values."""

from __future__ import annotations

from hive.identity import ApiKey, PrincipalKind, RefreshToken, Session, User
from hive.permissions import Role
from storage.sql.models import ApiKeyRow, RefreshTokenRow, SessionRow, UserRow


def user_of(row: UserRow) -> User:
    """The user without the password's hash."""
    return User(
        user_id=row.user_id,
        username=row.username,
        role=Role(row.role),
        disabled=row.disabled,
        created_at=row.created_at,
        password_changed_at=row.password_changed_at,
        version=row.version,
    )


def session_of(row: SessionRow) -> Session:
    """The session."""
    return Session(
        session_id=row.session_id,
        user_id=row.user_id,
        created_at=row.created_at,
        last_seen_at=row.last_seen_at,
        expires_at=row.expires_at,
        device=row.device,
        address=row.address,
        revoked_at=row.revoked_at,
    )


def refresh_token_of(row: RefreshTokenRow) -> RefreshToken:
    """The refresh token, as hashes."""
    return RefreshToken(
        token_hash=row.token_hash,
        session_id=row.session_id,
        issued_at=row.issued_at,
        expires_at=row.expires_at,
        used_at=row.used_at,
        successor_hash=row.successor_hash,
    )


def api_key_of(row: ApiKeyRow) -> ApiKey:
    """The API key without its hash."""
    return ApiKey(
        key_id=row.key_id,
        name=row.name,
        prefix=row.prefix,
        kind=PrincipalKind(row.kind),
        role=Role(row.role),
        scopes=frozenset(row.scopes),
        created_at=row.created_at,
        owner_id=row.owner_id,
        agent_id=row.agent_id,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
        allowed_addresses=tuple(row.allowed_addresses),
        successor_id=row.successor_id,
    )
