"""What the event log hears of API keys: a summary, never a secret."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session as SqlSession

from hive.api_keys import speaks_for
from hive.changes import Actor
from hive.identity import ApiKey
from storage.sql import outbox


def tell(sql: SqlSession, event_type: str, key: ApiKey, actor: Actor, now: datetime) -> None:
    """Write an event of the key; whom the key speaks for sees it, besides admins."""
    outbox.record(
        sql,
        event_type,
        key.key_id,
        now=now,
        actor=actor,
        owner=speaks_for(key),
        data=_summary(key),
    )


def _summary(key: ApiKey) -> dict[str, Any]:
    summary = {
        "key_id": key.key_id,
        "name": key.name,
        "owner_id": key.owner_id,
        "agent_id": key.agent_id,
        "role": key.role.value,
        "scopes": sorted(key.scopes),
        "expires_at": _text(key.expires_at) if key.expires_at else None,
        "successor_id": key.successor_id,
    }
    return {name: value for name, value in summary.items() if value is not None}


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
