"""The tables. A change here needs a migration in `migrations/versions`; a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    TypeDecorator,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC. SQLite keeps no zone, so it is put back when read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive datetimes: they would mean another instant on another machine."""
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a datetime without a zone can't be stored")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give an aware datetime back."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Table(DeclarativeBase):
    """Names every constraint, so that migrations can name them on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: UtcDateTime, str: String(255)}


class UserRow(Table):
    """`username_key` is the form that is compared; `username` the one that is shown."""

    __tablename__ = "users"

    user_id: Mapped[str] = mapped_column(primary_key=True)
    username: Mapped[str]
    username_key: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]
    role: Mapped[str] = mapped_column(String(16))
    disabled: Mapped[bool] = mapped_column(Boolean, default=False)
    created_at: Mapped[datetime]
    password_changed_at: Mapped[datetime]
    version: Mapped[int] = mapped_column(Integer, default=1)


class SessionRow(Table):
    """A family of refresh tokens. Revoking it here ends all of them and every access token."""

    __tablename__ = "sessions"

    session_id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(
        ForeignKey("users.user_id", ondelete="CASCADE"), index=True
    )
    created_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    device: Mapped[str | None]
    address: Mapped[str | None]


class RefreshTokenRow(Table):
    """One refresh token by its SHA-256; `used_at` and `successor_hash` are set by one update."""

    __tablename__ = "refresh_tokens"

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    session_id: Mapped[str] = mapped_column(
        ForeignKey("sessions.session_id", ondelete="CASCADE"), index=True
    )
    issued_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    successor_hash: Mapped[str | None] = mapped_column(String(64))


class ApiKeyRow(Table):
    """An API key by its SHA-256. The kind says whether it speaks for `owner_id` or `agent_id`."""

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint(
            "(kind = 'agent' AND agent_id IS NOT NULL) OR (kind = 'user' AND owner_id IS NOT NULL)",
            name="kind_names_its_principal",
        ),
        # The duty that warns of the end looks for these every minute.
        Index("ix_api_keys_expires_at", "expires_at"),
    )

    key_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(String(16))
    key_hash: Mapped[str] = mapped_column(String(64), unique=True)
    kind: Mapped[str] = mapped_column(String(16))
    owner_id: Mapped[str | None] = mapped_column(index=True)
    agent_id: Mapped[str | None] = mapped_column(index=True)
    role: Mapped[str] = mapped_column(String(16))
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    allowed_addresses: Mapped[list[str]] = mapped_column(JSON, default=list)
    successor_id: Mapped[str | None] = mapped_column(index=True)
    expiry_announced_at: Mapped[datetime | None]


class RevocationRow(Table):
    """A credential or a user whose rights changed, numbered in the order of commit."""

    __tablename__ = "revocations"

    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    subject_id: Mapped[str]
    changed_at: Mapped[datetime]


class RevocationCounterRow(Table):
    """One row that every recorded revocation locks, so that positions are committed in order."""

    __tablename__ = "revocation_counter"

    counter_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(Integer)


class LoginFailureRow(Table):
    """A login that failed, or is being verified, for as long as it counts.

    `account` is a keyed hash of the name tried: what people type there may be a password. `known`
    tells whether the account knew the network then.
    """

    __tablename__ = "login_failures"

    failure_id: Mapped[int] = mapped_column(Integer, primary_key=True)
    account: Mapped[str] = mapped_column(String(64), index=True)
    network: Mapped[str] = mapped_column(String(64), index=True)
    known: Mapped[bool] = mapped_column(Boolean)
    failed_at: Mapped[datetime] = mapped_column(index=True)


class LoginStreakRow(Table):
    """How many logins of an account failed one after the other."""

    __tablename__ = "login_streaks"

    account: Mapped[str] = mapped_column(String(64), primary_key=True)
    failures: Mapped[int] = mapped_column(Integer)
    changed_at: Mapped[datetime] = mapped_column(index=True)


class LoginPlaceRow(Table):
    """A network from which the password of an account was proved."""

    __tablename__ = "login_places"

    account: Mapped[str] = mapped_column(String(64), primary_key=True)
    network: Mapped[str] = mapped_column(String(64), primary_key=True)
    known_until: Mapped[datetime] = mapped_column(index=True)


class TokenKeyRow(Table):
    """A key of the ring that signs access tokens. `sealed` is the private key, encrypted."""

    __tablename__ = "token_keys"

    kid: Mapped[str] = mapped_column(String(64), primary_key=True)
    algorithm: Mapped[str] = mapped_column(String(16))
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime]
    signs_from: Mapped[datetime]
    verifies_until: Mapped[datetime | None]


class SigningKeyRow(Table):
    """A key with which a user, or one API key, signs requests (RFC 9421).

    `public_key` is raw Ed25519; an HMAC key is `sealed`, for it has to be known to verify.
    """

    __tablename__ = "signing_keys"

    signing_key_id: Mapped[str] = mapped_column(primary_key=True)
    owner_id: Mapped[str] = mapped_column(index=True)
    key_id: Mapped[str | None] = mapped_column(index=True)
    name: Mapped[str]
    algorithm: Mapped[str] = mapped_column(String(16))
    public_key: Mapped[bytes | None] = mapped_column(LargeBinary)
    sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class SignatureNonceRow(Table):
    """A nonce that was used, by its SHA-256, until a signature with it would be too old anyway."""

    __tablename__ = "signature_nonces"

    nonce_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    expires_at: Mapped[datetime] = mapped_column(index=True)


class SystemSettingsRow(Table):
    """One row: what admins decide at run time."""

    __tablename__ = "system_settings"

    settings_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    document: Mapped[dict[str, Any]] = mapped_column(JSON)
    version: Mapped[int] = mapped_column(Integer)
    updated_at: Mapped[datetime]
    updated_by: Mapped[str | None]


class TicketRow(Table):
    """A single-use ticket for one WebSocket, by its SHA-256, and the credential it stands for."""

    __tablename__ = "ws_tickets"

    ticket_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    session_id: Mapped[str | None]
    key_id: Mapped[str | None]
    credential_expires_at: Mapped[datetime | None]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class OutboxRow(Table):
    """An event of a change in this database, on its way to the event log."""

    __tablename__ = "outbox"

    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    event_id: Mapped[str] = mapped_column(unique=True)
    event_type: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str]
    owner: Mapped[str | None]
    actor: Mapped[str]
    request_id: Mapped[str | None]
    call_id: Mapped[str | None]
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    happened_at: Mapped[datetime]


class AuditCheckpointRow(Table):
    """The signed end of a chain of audit records, kept apart from them."""

    __tablename__ = "audit_checkpoints"

    boot: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    record_hash: Mapped[str] = mapped_column(String(64))
    signature: Mapped[str] = mapped_column(String(64))
    signed_at: Mapped[datetime]
