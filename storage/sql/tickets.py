"""WebSocket tickets in SQL: the port `hive.tickets.TicketStore`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.orm import Session as SqlSession

from hive.permissions import Principal
from hive.tickets import TICKET_SECONDS, Redeemed
from storage.sql.database import Database
from storage.sql.models import ApiKeyRow, SessionRow, TicketRow, UserRow
from storage.sql.records import api_key_of, session_of, user_of

EXPIRED_BATCH: Final = 100
"""How many expired tickets a new one takes away: more than one, so that they grow fewer."""


class SqlTickets:
    """One transaction per method."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, ticket_hash: str, principal: Principal) -> None:
        """Keep a ticket, and take some expired ones away."""

        def work(sql: SqlSession) -> None:
            now = self._database.now(sql)
            _delete_expired(sql, now)
            ends = principal.expires_at
            sql.add(
                TicketRow(
                    ticket_hash=ticket_hash,
                    session_id=principal.session_id,
                    key_id=principal.key_id,
                    credential_expires_at=None
                    if ends is None
                    else datetime.fromtimestamp(ends, UTC),
                    expires_at=now + timedelta(seconds=TICKET_SECONDS),
                )
            )

        await self._database.write(work)

    async def redeem(self, ticket_hash: str) -> Redeemed | None:
        """Take a ticket away by one conditional DELETE."""

        def work(sql: SqlSession) -> Redeemed | None:
            taken = sql.execute(
                delete(TicketRow)
                .where(
                    TicketRow.ticket_hash == ticket_hash,
                    TicketRow.expires_at > self._database.now(sql),
                )
                .returning(TicketRow.session_id, TicketRow.key_id, TicketRow.credential_expires_at)
                .execution_options(synchronize_session=False)
            ).one_or_none()
            if taken is None:
                return None
            session_id, key_id, expires_at = taken
            if session_id is not None:
                return _of_session(sql, session_id, expires_at)
            return _of_key(sql, key_id, expires_at)

        return await self._database.write(work)


def _of_session(sql: SqlSession, session_id: str, expires_at: datetime | None) -> Redeemed:
    session = sql.get(SessionRow, session_id)
    user = sql.get(UserRow, session.user_id) if session else None
    return Redeemed(
        expires_at,
        session=session_of(session) if session else None,
        user=user_of(user) if user else None,
    )


def _of_key(sql: SqlSession, key_id: str | None, expires_at: datetime | None) -> Redeemed:
    key = sql.get(ApiKeyRow, key_id) if key_id else None
    owner = sql.get(UserRow, key.owner_id) if key and key.owner_id else None
    return Redeemed(
        expires_at,
        key=api_key_of(key) if key else None,
        user=user_of(owner) if owner else None,
    )


def _delete_expired(sql: SqlSession, now: datetime) -> None:
    # Those that another transaction is deleting are skipped: nobody waits for anybody.
    expired = (
        select(TicketRow.ticket_hash)
        .where(TicketRow.expires_at <= now)
        .limit(EXPIRED_BATCH)
        .with_for_update(skip_locked=True)
    )
    sql.execute(
        delete(TicketRow)
        .where(TicketRow.ticket_hash.in_(expired))
        .execution_options(synchronize_session=False)
    )
