"""Throttling, token keys, signing keys, system settings, tickets, the outbox, audit checkpoints."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from storage.sql.models import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what identities, access and audit need besides users, sessions and keys."""
    op.add_column("users", sa.Column("version", sa.Integer(), nullable=False, server_default="1"))
    op.add_column(
        "api_keys",
        sa.Column("allowed_addresses", sa.JSON(), nullable=False, server_default="[]"),
    )
    op.add_column("api_keys", sa.Column("successor_id", sa.String(255), nullable=True))
    op.add_column("api_keys", sa.Column("expiry_announced_at", UtcDateTime(), nullable=True))
    op.create_index("ix_api_keys_expires_at", "api_keys", ["expires_at"])
    op.create_index("ix_api_keys_successor_id", "api_keys", ["successor_id"])
    op.create_table(
        "login_failures",
        sa.Column("failure_id", sa.Integer(), nullable=False),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("network", sa.String(64), nullable=False),
        sa.Column("known", sa.Boolean(), nullable=False),
        sa.Column("failed_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("failure_id", name="pk_login_failures"),
    )
    op.create_index("ix_login_failures_account", "login_failures", ["account"])
    op.create_index("ix_login_failures_network", "login_failures", ["network"])
    op.create_index("ix_login_failures_failed_at", "login_failures", ["failed_at"])
    op.create_table(
        "login_streaks",
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("account", name="pk_login_streaks"),
    )
    op.create_index("ix_login_streaks_changed_at", "login_streaks", ["changed_at"])
    op.create_table(
        "login_places",
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("network", sa.String(64), nullable=False),
        sa.Column("known_until", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("account", "network", name="pk_login_places"),
    )
    op.create_index("ix_login_places_known_until", "login_places", ["known_until"])
    op.create_table(
        "token_keys",
        sa.Column("kid", sa.String(64), nullable=False),
        sa.Column("algorithm", sa.String(16), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("signs_from", UtcDateTime(), nullable=False),
        sa.Column("verifies_until", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("kid", name="pk_token_keys"),
    )
    op.create_table(
        "signing_keys",
        sa.Column("signing_key_id", sa.String(255), nullable=False),
        sa.Column("owner_id", sa.String(255), nullable=False),
        sa.Column("key_id", sa.String(255), nullable=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("algorithm", sa.String(16), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("revoked_at", UtcDateTime(), nullable=True),
        sa.Column("last_used_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("signing_key_id", name="pk_signing_keys"),
    )
    op.create_index("ix_signing_keys_owner_id", "signing_keys", ["owner_id"])
    op.create_index("ix_signing_keys_key_id", "signing_keys", ["key_id"])
    op.create_table(
        "signature_nonces",
        sa.Column("nonce_hash", sa.String(64), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("nonce_hash", name="pk_signature_nonces"),
    )
    op.create_index("ix_signature_nonces_expires_at", "signature_nonces", ["expires_at"])
    op.create_table(
        "system_settings",
        sa.Column("settings_id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("updated_by", sa.String(255), nullable=True),
        sa.PrimaryKeyConstraint("settings_id", name="pk_system_settings"),
    )
    op.create_table(
        "ws_tickets",
        sa.Column("ticket_hash", sa.String(64), nullable=False),
        sa.Column("session_id", sa.String(255), nullable=True),
        sa.Column("key_id", sa.String(255), nullable=True),
        sa.Column("credential_expires_at", UtcDateTime(), nullable=True),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("ticket_hash", name="pk_ws_tickets"),
    )
    op.create_index("ix_ws_tickets_expires_at", "ws_tickets", ["expires_at"])
    op.create_table(
        "outbox",
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("event_id", sa.String(255), nullable=False),
        sa.Column("event_type", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("owner", sa.String(255), nullable=True),
        sa.Column("actor", sa.String(255), nullable=False),
        sa.Column("request_id", sa.String(255), nullable=True),
        sa.Column("call_id", sa.String(255), nullable=True),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("happened_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_outbox"),
        sa.UniqueConstraint("event_id", name="uq_outbox_event_id"),
    )
    op.create_table(
        "audit_checkpoints",
        sa.Column("boot", sa.String(255), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("record_hash", sa.String(64), nullable=False),
        sa.Column("signature", sa.String(64), nullable=False),
        sa.Column("signed_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("boot", "number", name="pk_audit_checkpoints"),
    )


def downgrade() -> None:
    """Drop what was added."""
    for table in (
        "audit_checkpoints",
        "outbox",
        "ws_tickets",
        "system_settings",
        "signature_nonces",
        "signing_keys",
        "token_keys",
        "login_places",
        "login_streaks",
        "login_failures",
    ):
        op.drop_table(table)
    op.drop_index("ix_api_keys_expires_at", "api_keys")
    op.drop_index("ix_api_keys_successor_id", "api_keys")
    for column in ("expiry_announced_at", "successor_id", "allowed_addresses"):
        op.drop_column("api_keys", column)
    op.drop_column("users", "version")
