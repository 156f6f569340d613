"""Exchanging a refresh token inside one transaction.

A used token is remembered until its own end, a week after it was issued: until then using it again
ends the session, after that it is a token that never was.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session as SqlSession
from sqlalchemy.orm import aliased

from hive.changes import Actor
from hive.identity import Exchange, RefreshToken, Session, User, decide_exchange, refresh_expiry
from hive.identity_ports import Exchanged
from hive.sessions import SessionEnd
from storage.sql.models import RefreshTokenRow, SessionRow, UserRow
from storage.sql.records import refresh_token_of, session_of, user_of
from storage.sql.sessions import end_sessions

REUSE = Actor("system:refresh-reuse")
SWEPT = 100
"""Dead tokens of its session that a rotation takes away, so that they don't pile up."""


def exchange(sql: SqlSession, token_hash: str, successor_hash: str, now: datetime) -> Exchanged:
    """Decide and act. Whoever wins the conditional update rotates; the others look again."""
    while True:
        token, session, user, successor = _load(sql, token_hash)
        decision = decide_exchange(
            token, session, user, successor, successor_hash=successor_hash, now=now
        )
        if decision is Exchange.ROTATE and session is not None:
            if not _take(sql, token_hash, successor_hash, now):
                continue
            _follow(sql, session, successor_hash, now)
        elif decision is Exchange.REVOKE and session is not None:
            stolen = SessionRow.session_id == session.session_id
            end_sessions(sql, stolen, now=now, actor=REUSE, reason=SessionEnd.REFRESH_REUSED)
        return Exchanged(decision, session, user)


def _load(
    sql: SqlSession, token_hash: str
) -> tuple[RefreshToken | None, Session | None, User | None, RefreshToken | None]:
    successor = aliased(RefreshTokenRow)
    row = sql.execute(
        select(RefreshTokenRow, SessionRow, UserRow, successor)
        .join(SessionRow, SessionRow.session_id == RefreshTokenRow.session_id)
        .join(UserRow, UserRow.user_id == SessionRow.user_id)
        .join(successor, successor.token_hash == RefreshTokenRow.successor_hash, isouter=True)
        .where(RefreshTokenRow.token_hash == token_hash)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if row is None:
        return None, None, None, None
    # The types don't know that an outer join may find nothing.
    following: RefreshTokenRow | None = row[3]
    return (
        refresh_token_of(row[0]),
        session_of(row[1]),
        user_of(row[2]),
        refresh_token_of(following) if following else None,
    )


def _take(sql: SqlSession, token_hash: str, successor_hash: str, now: datetime) -> bool:
    taken = sql.execute(
        update(RefreshTokenRow)
        .where(RefreshTokenRow.token_hash == token_hash, RefreshTokenRow.used_at.is_(None))
        .values(used_at=now, successor_hash=successor_hash)
        .returning(RefreshTokenRow.token_hash)
        .execution_options(synchronize_session=False)
    )
    return taken.one_or_none() is not None


def _follow(sql: SqlSession, session: Session, successor_hash: str, now: datetime) -> None:
    sql.add(
        RefreshTokenRow(
            token_hash=successor_hash,
            session_id=session.session_id,
            issued_at=now,
            expires_at=refresh_expiry(now, session.expires_at),
        )
    )
    sql.execute(
        update(SessionRow)
        .where(SessionRow.session_id == session.session_id)
        .values(last_seen_at=now)
        .execution_options(synchronize_session=False)
    )
    dead = (
        select(RefreshTokenRow.token_hash)
        .where(RefreshTokenRow.session_id == session.session_id, RefreshTokenRow.expires_at <= now)
        .limit(SWEPT)
    )
    sql.execute(
        delete(RefreshTokenRow)
        .where(RefreshTokenRow.token_hash.in_(dead))
        .execution_options(synchronize_session=False)
    )
