"""The ring of keys that sign access tokens: the port `hive.token_keys.TokenKeyStore`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session as SqlSession

from hive.changes import Actor
from hive.token_keys import CHANGED, NewTokenKey, StoredRing, TokenAlgorithm, TokenKey, add_key
from storage.sql import outbox, revocations
from storage.sql.database import Database
from storage.sql.models import TokenKeyRow


class SqlTokenKeys:
    """One transaction per method."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self) -> StoredRing:
        return await self._database.read(
            lambda sql: StoredRing(self._database.now(sql), _ring(sql))
        )

    async def add(
        self,
        new: NewTokenKey,
        *,
        first: NewTokenKey,
        verified_for: timedelta,
        actor: Actor,
        unless_newest_is_alike: bool = False,
        discarded: Collection[str] = (),
    ) -> StoredRing:
        def work(sql: SqlSession) -> StoredRing:
            # Numbering the change locks the counter: of two rotations one sees the other's key.
            revocations.record(sql, CHANGED, self._database.now(sql))
            now = self._database.now(sql)
            sql.execute(delete(TokenKeyRow).where(TokenKeyRow.kid.in_(discarded)))
            before = _ring(sql)
            newest = before[-1] if before else first
            if unless_newest_is_alike and newest.algorithm is new.algorithm:
                return StoredRing(now, before)
            after = add_key(before, new, first=first, now=now, verified_for=verified_for)
            _save(sql, before, after)
            _announce(sql, after[-1], now, actor)
            return StoredRing(now, after)

        return await self._database.write(work)

    async def remove_ended(self) -> None:
        await self._database.write(
            lambda sql: sql.execute(
                delete(TokenKeyRow).where(TokenKeyRow.verifies_until <= self._database.now(sql))
            )
        )


def _ring(sql: SqlSession) -> tuple[TokenKey, ...]:
    rows = sql.scalars(select(TokenKeyRow).order_by(TokenKeyRow.signs_from, TokenKeyRow.kid))
    return tuple(
        TokenKey(
            kid=row.kid,
            algorithm=TokenAlgorithm(row.algorithm),
            sealed=row.sealed,
            created_at=row.created_at,
            signs_from=row.signs_from,
            verifies_until=row.verifies_until,
        )
        for row in rows
    )


def _save(sql: SqlSession, before: Sequence[TokenKey], after: Sequence[TokenKey]) -> None:
    gone = {key.kid for key in before} - {key.kid for key in after}
    sql.execute(delete(TokenKeyRow).where(TokenKeyRow.kid.in_(gone)))
    for key in after:
        sql.merge(
            TokenKeyRow(
                kid=key.kid,
                algorithm=key.algorithm.value,
                sealed=key.sealed,
                created_at=key.created_at,
                signs_from=key.signs_from,
                verifies_until=key.verifies_until,
            )
        )


def _announce(sql: SqlSession, key: TokenKey, now: datetime, actor: Actor) -> None:
    outbox.record(
        sql,
        "system.token_keys_rotated",
        "system",
        now=now,
        actor=actor,
        owner=None,
        data={
            "kid": key.kid,
            "algorithm": key.algorithm.value,
            "signs_from": key.signs_from.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        },
    )
