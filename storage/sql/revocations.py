"""Recording what lost its rights, numbered so that nodes can follow by polling."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session as SqlSession

from hive.identity_ports import Changes
from storage.sql.models import RevocationCounterRow, RevocationRow

KEPT = 100_000
BATCH = 10_000


def record(sql: SqlSession, subject_id: str, now: datetime) -> None:
    """Number a change. The counter's row stays locked until commit: no position is ever late."""
    record_all(sql, (subject_id,), now)


def record_all(sql: SqlSession, subject_ids: Sequence[str], now: datetime) -> None:
    """Number several changes with one update of the counter, in their order."""
    if not subject_ids:
        return
    position = sql.scalar(
        update(RevocationCounterRow)
        .values(position=RevocationCounterRow.position + len(subject_ids))
        .returning(RevocationCounterRow.position)
        .execution_options(synchronize_session=False)
    )
    if position is None:
        raise RuntimeError("the revocation counter has no row; the migrations did not run")
    first = position - len(subject_ids) + 1
    sql.add_all(
        RevocationRow(position=number, subject_id=subject_id, changed_at=now)
        for number, subject_id in enumerate(subject_ids, first)
    )
    sql.flush()
    sql.execute(delete(RevocationRow).where(RevocationRow.position <= position - KEPT))


def holds(sql: SqlSession, subject_id: str) -> bool:
    """Whether a change of the subject is among the newest `KEPT`."""
    found = select(RevocationRow.position).where(RevocationRow.subject_id == subject_id).limit(1)
    return sql.scalar(found) is not None


def position(sql: SqlSession) -> int:
    """The newest position; 0 when nothing was ever revoked."""
    return sql.scalar(select(RevocationCounterRow.position)) or 0


def after(sql: SqlSession, known: int) -> Changes:
    """At most `BATCH` changes after the position, in order."""
    rows = sql.execute(
        select(RevocationRow.position, RevocationRow.subject_id)
        .where(RevocationRow.position > known)
        .order_by(RevocationRow.position)
        .limit(BATCH)
    ).all()
    return Changes(rows[-1][0] if rows else known, tuple(row[1] for row in rows))
