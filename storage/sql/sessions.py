"""Sessions in SQL: the port `hive.user_ports.SessionStore`, and how a session ends."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.orm import Session as SqlSession

from hive.changes import Actor
from hive.identity import Session
from hive.sessions import MOST_SESSIONS, SessionEnd, SessionNotFound
from storage.sql import outbox, revocations
from storage.sql.database import Database
from storage.sql.models import RefreshTokenRow, SessionRow
from storage.sql.records import session_of


class SqlSessions:
    """One transaction per method, one hop to a worker thread each."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, user_id: str, *, after: str | None, limit: int) -> Sequence[Session]:
        """The live ones, newest first: identifiers are ordered by time."""

        def work(sql: SqlSession) -> Sequence[Session]:
            now = self._database.now(sql)
            wanted = select(SessionRow).where(
                SessionRow.user_id == user_id,
                SessionRow.revoked_at.is_(None),
                SessionRow.expires_at > now,
            )
            if after is not None:
                wanted = wanted.where(SessionRow.session_id < after)
            rows = sql.scalars(wanted.order_by(SessionRow.session_id.desc()).limit(limit))
            return [session_of(row) for row in rows]

        return await self._database.read(work)

    async def end(self, user_id: str, session_id: str, actor: Actor) -> None:
        """Revoke one. Raises SessionNotFound."""

        def work(sql: SqlSession) -> None:
            now = self._database.now(sql)
            one = (
                SessionRow.user_id == user_id,
                SessionRow.session_id == session_id,
                SessionRow.expires_at > now,
            )
            if not end_sessions(sql, *one, now=now, actor=actor, reason=SessionEnd.REVOKED):
                raise SessionNotFound(user_id=user_id, session_id=session_id)

        await self._database.write(work)

    async def end_all(self, user_id: str, actor: Actor, *, but: str | None) -> tuple[str, ...]:
        """Revoke all but one."""

        def work(sql: SqlSession) -> tuple[str, ...]:
            now = self._database.now(sql)
            return end_sessions(
                sql,
                *others(user_id, but),
                SessionRow.expires_at > now,
                now=now,
                actor=actor,
                reason=SessionEnd.REVOKED,
            )

        return await self._database.write(work)

    async def sweep(self, limit: int) -> int:
        """Delete what has expired among the oldest: no index on the expiry is needed for that."""

        def work(sql: SqlSession) -> int:
            now = self._database.now(sql)
            oldest = (
                select(SessionRow.session_id, SessionRow.expires_at)
                .order_by(SessionRow.session_id)
                .limit(limit)
                .subquery()
            )
            expired = sql.scalars(select(oldest.c.session_id).where(oldest.c.expires_at <= now))
            return delete_sessions(sql, expired.all())

        return await self._database.write(work)


def others(user_id: str, but: str | None) -> tuple[ColumnElement[bool], ...]:
    """The condition for the sessions of a user but one."""
    of_user = (SessionRow.user_id == user_id,)
    return of_user if but is None else (*of_user, SessionRow.session_id != but)


def end_sessions(
    sql: SqlSession,
    *wanted: ColumnElement[bool],
    now: datetime,
    actor: Actor,
    reason: SessionEnd,
) -> tuple[str, ...]:
    """Revoke the live sessions that match, with the events and the record; their identifiers."""
    rows = sql.execute(
        update(SessionRow)
        .where(*wanted, SessionRow.revoked_at.is_(None))
        .values(revoked_at=now)
        .returning(SessionRow.session_id, SessionRow.user_id, SessionRow.device, SessionRow.address)
        .execution_options(synchronize_session=False)
    ).all()
    for session_id, user_id, device, address in rows:
        outbox.record(
            sql,
            "session.revoked",
            session_id,
            now=now,
            actor=actor,
            owner=user_id,
            data=summary(session_id, user_id, device, address, reason=reason.value),
        )
    ended = tuple(row[0] for row in rows)
    revocations.record_all(sql, ended, now)
    return ended


def make_room(sql: SqlSession, user_id: str, *, now: datetime, actor: Actor) -> None:
    """End the live sessions that were used least recently, so that another one may be opened."""
    surplus = sql.scalars(
        select(SessionRow.session_id)
        .where(
            SessionRow.user_id == user_id,
            SessionRow.revoked_at.is_(None),
            SessionRow.expires_at > now,
        )
        .order_by(SessionRow.last_seen_at.desc(), SessionRow.session_id.desc())
        .offset(MOST_SESSIONS - 1)
        .limit(MOST_SESSIONS)
    ).all()
    if surplus:
        chosen = SessionRow.session_id.in_(surplus)
        end_sessions(sql, chosen, now=now, actor=actor, reason=SessionEnd.TOO_MANY)


def delete_sessions(sql: SqlSession, session_ids: Sequence[str]) -> int:
    """Delete sessions with their refresh tokens.

    The tokens go first, as an exchange locks its token before it locks the session: the other order
    would be a deadlock on PostgreSQL.
    """
    if not session_ids:
        return 0
    tokens = RefreshTokenRow.session_id.in_(session_ids)
    sql.execute(delete(RefreshTokenRow).where(tokens))
    sql.execute(delete(SessionRow).where(SessionRow.session_id.in_(session_ids)))
    return len(session_ids)


def delete_tokens(sql: SqlSession, user_id: str) -> None:
    """Delete the refresh tokens of a user before its sessions are locked; see `delete_sessions`."""
    of_user = select(SessionRow.session_id).where(SessionRow.user_id == user_id)
    sql.execute(
        delete(RefreshTokenRow)
        .where(RefreshTokenRow.session_id.in_(of_user))
        .execution_options(synchronize_session=False)
    )


def summary(
    session_id: str,
    user_id: str,
    device: str | None,
    address: str | None,
    *,
    reason: str | None = None,
) -> dict[str, Any]:
    """What events tell of a session."""
    told = {
        "session_id": session_id,
        "user_id": user_id,
        "device": device,
        "address": address,
        "reason": reason,
    }
    return {name: value for name, value in told.items() if value is not None}
