"""Signing keys in SQL: the port `hive.signing_ports.SigningKeyStore`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session as SqlSession

from hive.changes import Actor
from hive.errors import NotFound
from hive.identity import PrincipalKind
from hive.signing import MOST_KEYS, SigningAlgorithm, SigningKey, TooManySigningKeys
from hive.signing_ports import NewSigningKey, change_subject
from storage.sql import outbox, revocations
from storage.sql.database import Database
from storage.sql.models import ApiKeyRow, SigningKeyRow, UserRow


class SqlSigningKeys:
    """One transaction per method, one hop to a worker thread each."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, key: NewSigningKey, actor: Actor) -> SigningKey:
        def work(sql: SqlSession) -> SigningKey:
            now = self._database.now(sql)
            # Whoever registers for the same owner at the same time waits here, and then counts.
            sql.get(UserRow, key.owner_id, with_for_update=True)
            made = sql.get(SigningKeyRow, key.signing_key_id)
            if made is not None:
                return _signing_key_of(made)
            live = select(func.count()).where(
                SigningKeyRow.owner_id == key.owner_id, SigningKeyRow.revoked_at.is_(None)
            )
            if (sql.scalar(live) or 0) >= MOST_KEYS:
                raise TooManySigningKeys(owner_id=key.owner_id)
            if key.key_id is not None:
                _require_own(sql, key.key_id, key.owner_id, now)
            row = SigningKeyRow(
                signing_key_id=key.signing_key_id,
                owner_id=key.owner_id,
                key_id=key.key_id,
                name=key.name,
                algorithm=key.algorithm.value,
                public_key=key.public_key,
                sealed=key.sealed,
                created_at=now,
            )
            sql.add(row)
            _record(sql, "signing_key.created", row, now, actor)
            return _signing_key_of(row)

        return await self._database.write(work)

    async def find(self, signing_key_id: str) -> SigningKey | None:
        def work(sql: SqlSession) -> SigningKey | None:
            row = sql.get(SigningKeyRow, signing_key_id)
            return _signing_key_of(row) if row else None

        return await self._database.read(work)

    async def list(
        self, *, owner_id: str | None, after: str | None, limit: int
    ) -> Sequence[SigningKey]:
        # Identifiers are ordered by the time at which they were made.
        wanted = select(SigningKeyRow).order_by(SigningKeyRow.signing_key_id.desc()).limit(limit)
        if owner_id is not None:
            wanted = wanted.where(SigningKeyRow.owner_id == owner_id)
        if after is not None:
            wanted = wanted.where(SigningKeyRow.signing_key_id < after)
        return await self._database.read(
            lambda sql: [_signing_key_of(row) for row in sql.scalars(wanted)]
        )

    async def revoke(self, signing_key_id: str, actor: Actor) -> None:
        def work(sql: SqlSession) -> None:
            now = self._database.now(sql)
            row = sql.scalar(
                update(SigningKeyRow)
                .where(
                    SigningKeyRow.signing_key_id == signing_key_id,
                    SigningKeyRow.revoked_at.is_(None),
                )
                .values(revoked_at=now)
                .returning(SigningKeyRow)
                .execution_options(synchronize_session=False)
            )
            if row is not None:
                _record(sql, "signing_key.revoked", row, now, actor)

        await self._database.write(work)

    async def revoke_all(self, owner_id: str, actor: Actor) -> int:
        def work(sql: SqlSession) -> int:
            now = self._database.now(sql)
            # Two of these at once would lock the keys in no certain order, and might deadlock.
            sql.get(UserRow, owner_id, with_for_update=True)
            rows = sql.scalars(
                update(SigningKeyRow)
                .where(SigningKeyRow.owner_id == owner_id, SigningKeyRow.revoked_at.is_(None))
                .values(revoked_at=now)
                .returning(SigningKeyRow)
                .execution_options(synchronize_session=False)
            ).all()
            for row in sorted(rows, key=lambda row: row.signing_key_id):
                _record(sql, "signing_key.revoked", row, now, actor)
            return len(rows)

        return await self._database.write(work)

    async def usable(self, owner_id: str, key_id: str | None) -> Sequence[SigningKey]:
        def work(sql: SqlSession) -> list[SigningKey]:
            bound = _with_predecessors(sql, key_id) if key_id is not None else []
            rows = sql.scalars(
                select(SigningKeyRow)
                .where(
                    SigningKeyRow.owner_id == owner_id,
                    SigningKeyRow.revoked_at.is_(None),
                    or_(SigningKeyRow.key_id.is_(None), SigningKeyRow.key_id.in_(bound)),
                )
                .order_by(SigningKeyRow.key_id.is_(None), SigningKeyRow.signing_key_id)
            )
            return [_signing_key_of(row) for row in rows]

        return await self._database.read(work)


def _require_own(sql: SqlSession, key_id: str, owner_id: str, now: datetime) -> None:
    found = sql.scalar(
        select(ApiKeyRow.key_id).where(
            ApiKeyRow.key_id == key_id,
            ApiKeyRow.kind == PrincipalKind.USER.value,
            ApiKeyRow.owner_id == owner_id,
            ApiKeyRow.revoked_at.is_(None),
            or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > now),
        )
    )
    if found is None:
        raise NotFound("You have no live API key of this identifier.", key_id=key_id)


def _with_predecessors(sql: SqlSession, key_id: str) -> list[str]:
    """The API key and those that it took over from: rotating it takes no signature away.

    All of them: with a bound, a key that was rotated often enough would not have to sign any more.
    """
    own = select(ApiKeyRow.key_id).where(ApiKeyRow.key_id == key_id)
    line = own.cte("line", recursive=True)
    before = select(ApiKeyRow.key_id).join(line, ApiKeyRow.successor_id == line.c.key_id)
    return list(sql.scalars(select(line.union(before).c.key_id)))


def _record(
    sql: SqlSession, event_type: str, row: SigningKeyRow, now: datetime, actor: Actor
) -> None:
    bound = {"key_id": row.key_id} if row.key_id is not None else {}
    data: dict[str, Any] = {
        "signing_key_id": row.signing_key_id,
        "name": row.name,
        "owner_id": row.owner_id,
        "algorithm": row.algorithm,
        **bound,
    }
    revocations.record(sql, change_subject(row.owner_id), now)
    outbox.record(
        sql, event_type, row.signing_key_id, now=now, actor=actor, owner=row.owner_id, data=data
    )


def _signing_key_of(row: SigningKeyRow) -> SigningKey:
    return SigningKey(
        signing_key_id=row.signing_key_id,
        owner_id=row.owner_id,
        name=row.name,
        algorithm=SigningAlgorithm(row.algorithm),
        created_at=row.created_at,
        key_id=row.key_id,
        public_key=row.public_key,
        sealed=row.sealed,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
