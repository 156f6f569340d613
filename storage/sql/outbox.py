"""Events of changes in SQL: a row in the transaction of the change, on its way to the event log."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session as SqlSession
from typeid import TypeID

from hive.changes import Actor
from hive.events import check_type
from storage.sql.models import OutboxRow


def record(
    sql: SqlSession,
    event_type: str,
    subject: str,
    *,
    now: datetime,
    actor: Actor,
    owner: str | None,
    data: Mapping[str, Any],
) -> None:
    """Add the event of a change to its transaction: both happen, or neither.

    `owner` may see the event, besides admins; None: only admins. `data` is a summary of the
    resource as JSON, without secrets. Raises ValueError for an undeclared type.
    """
    sql.add(
        OutboxRow(
            event_id=f"{subject}:{TypeID(prefix='').suffix}",
            event_type=check_type(event_type),
            subject=subject,
            owner=owner,
            actor=actor.actor_id,
            request_id=actor.request_id,
            call_id=actor.call_id,
            data=dict(data),
            happened_at=now,
        )
    )
