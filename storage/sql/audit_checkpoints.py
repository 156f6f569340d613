"""Signed points of audit chains, in SQL: whoever cuts a chain in MongoDB can't reach them there."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session as SqlSession

from hive.audit import ChainPoint
from storage.sql.database import Database
from storage.sql.models import AuditCheckpointRow


class SqlCheckpoints:
    """The port `hive.audit_ports.Checkpoints`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, point: ChainPoint) -> None:
        row = AuditCheckpointRow(
            boot=point.boot,
            number=point.n,
            record_hash=point.hash,
            signature=point.signature,
            signed_at=point.signed_at,
        )

        def work(sql: SqlSession) -> None:
            sql.merge(row)

        await self._database.write(work)

    async def boots(self) -> Sequence[str]:
        return await self._database.read(
            lambda sql: sql.scalars(
                select(AuditCheckpointRow.boot).distinct().order_by(AuditCheckpointRow.boot)
            ).all()
        )

    async def page(self, boot: str, *, after: int, limit: int) -> Sequence[ChainPoint]:
        query = (
            select(AuditCheckpointRow)
            .where(AuditCheckpointRow.boot == boot, AuditCheckpointRow.number > after)
            .order_by(AuditCheckpointRow.number)
            .limit(limit)
        )
        return await self._database.read(
            lambda sql: [_point(row) for row in sql.scalars(query).all()]
        )

    async def last(self, boot: str) -> ChainPoint | None:
        query = (
            select(AuditCheckpointRow)
            .where(AuditCheckpointRow.boot == boot)
            .order_by(AuditCheckpointRow.number.desc())
            .limit(1)
        )

        def work(sql: SqlSession) -> ChainPoint | None:
            row = sql.scalars(query).one_or_none()
            return None if row is None else _point(row)

        return await self._database.read(work)

    async def delete(self, boot: str, *, below: int | None = None) -> None:
        query = delete(AuditCheckpointRow).where(AuditCheckpointRow.boot == boot)
        if below is not None:
            query = query.where(AuditCheckpointRow.number < below)

        def work(sql: SqlSession) -> None:
            sql.execute(query)

        await self._database.write(work)


def _point(row: AuditCheckpointRow) -> ChainPoint:
    return ChainPoint(row.boot, row.number, row.record_hash, row.signed_at, row.signature)
