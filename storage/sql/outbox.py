"""Events of changes in SQL: a row in the transaction of the change, on its way to the event log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from sqlalchemy import delete, event, select
from sqlalchemy.orm import Session as SqlSession
from typeid import TypeID

from hive.changes import Actor
from hive.duty_ports import Recorded
from hive.events import check_type
from storage.sql.database import Database
from storage.sql.models import OutboxRow

_RECORDED: Final = "outbox-recorded"


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

    Call it behind the change of the subject's row: what is pending is written first, so that the
    lock on that row makes the order of a subject's events the order of their commits.

    `owner` may see the event, besides admins; None: only admins. `data` is a summary of the
    resource as JSON, without secrets. Raises ValueError for an undeclared type.
    """
    sql.flush()
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
    sql.flush()
    sql.info[_RECORDED] = True


class SqlOutbox:
    """The port `hive.duty_ports.Outbox`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Call back, on the running event loop, when a transaction with events was committed."""
        loop = asyncio.get_running_loop()

        def committed(sql: SqlSession) -> None:
            if sql.info.pop(_RECORDED, False):
                # The worker thread may outlive the loop; the next node to start polls anyway.
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(callback)

        event.listen(self._database.sessions, "after_commit", committed)

    async def read(self, *, limit: int) -> Sequence[Recorded]:
        rows = await self._database.read(
            lambda sql: sql.scalars(
                select(OutboxRow).order_by(OutboxRow.position).limit(limit)
            ).all()
        )
        return [_recorded(row) for row in rows]

    async def delete(self, event_ids: Sequence[str]) -> None:
        await self._database.write(
            lambda sql: sql.execute(delete(OutboxRow).where(OutboxRow.event_id.in_(event_ids)))
        )


def _recorded(row: OutboxRow) -> Recorded:
    return Recorded(
        id=row.event_id,
        type=row.event_type,
        subject=row.subject,
        time=row.happened_at,
        version=0,
        data=row.data,
        actor=row.actor,
        request_id=row.request_id,
        token=None,
        owner=row.owner,
        call_id=row.call_id,
    )
