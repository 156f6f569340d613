"""Recording what lost its rights, numbered so that nodes can follow by polling."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session as SqlSession

from hive.identity_ports import Changes
from storage.sql.models import RevocationCounterRow, RevocationRow, SessionRow

KEPT = 100_000
BATCH = 10_000


def record(sql: SqlSession, subject_id: str, now: datetime) -> None:
    """Number a change. The counter's row stays locked until commit: no position is ever late."""
    position = sql.scalar(
        update(RevocationCounterRow)
        .values(position=RevocationCounterRow.position + 1)
        .returning(RevocationCounterRow.position)
        .execution_options(synchronize_session=False)
    )
    if position is None:
        raise RuntimeError("the revocation counter has no row; the migrations did not run")
    sql.add(RevocationRow(position=position, subject_id=subject_id, changed_at=now))
    sql.execute(delete(RevocationRow).where(RevocationRow.position <= position - KEPT))


def end_session(sql: SqlSession, session_id: str, now: datetime) -> bool:
    """Revoke a session and record it; False when it was revoked already or never existed."""
    ended = sql.execute(
        update(SessionRow)
        .where(SessionRow.session_id == session_id, SessionRow.revoked_at.is_(None))
        .values(revoked_at=now)
        .returning(SessionRow.session_id)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if ended is None:
        return False
    record(sql, session_id, now)
    return True


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
