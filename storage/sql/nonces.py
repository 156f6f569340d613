"""Nonces of signed requests in SQL: the port `hive.signing_ports.Nonces`."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session as SqlSession

from hive.signing import (
    RequestSignature,
    SignatureInvalid,
    SignatureReplayed,
    nonce_expiry,
    require_current,
)
from storage.sql.database import Database
from storage.sql.models import SignatureNonceRow, SigningKeyRow

SWEPT = 100
NOTE_USE_AFTER = timedelta(seconds=60)


class SqlNonces:
    """One transaction takes a signature: its time, its key and its nonce are judged together."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def use(self, signature: RequestSignature) -> None:
        def work(sql: SqlSession) -> None:
            now = self._database.now(sql)
            require_current(signature, now)
            _note_use(sql, signature.keyid, now)
            sql.execute(
                insert(SignatureNonceRow).values(
                    nonce_hash=signature.nonce_hash, expires_at=nonce_expiry(signature)
                )
            )
            _sweep(sql, now)

        try:
            await self._database.write(work)
        except IntegrityError as error:
            raise SignatureReplayed(keyid=signature.keyid) from error


def _note_use(sql: SqlSession, signing_key_id: str, now: datetime) -> None:
    """Raise SignatureInvalid when the key has been revoked since it was looked up."""
    key = SigningKeyRow.signing_key_id == signing_key_id
    live = select(SigningKeyRow.signing_key_id).where(key, SigningKeyRow.revoked_at.is_(None))
    if sql.scalar(live) is None:
        raise SignatureInvalid("The signing key was revoked.", keyid=signing_key_id)
    last = SigningKeyRow.last_used_at
    sql.execute(
        update(SigningKeyRow)
        .where(key, or_(last.is_(None), last < now - NOTE_USE_AFTER))
        .values(last_used_at=now)
        .execution_options(synchronize_session=False)
    )


def _sweep(sql: SqlSession, now: datetime) -> None:
    """Forget some of those that are too old; each use adds one and takes up to `SWEPT` away."""
    old = (
        select(SignatureNonceRow.nonce_hash)
        .where(SignatureNonceRow.expires_at < now)
        .order_by(SignatureNonceRow.expires_at)
        .limit(SWEPT)
        # Two sweeps at once take different rows and never wait for each other.
        .with_for_update(skip_locked=True)
    )
    sql.execute(
        delete(SignatureNonceRow)
        .where(SignatureNonceRow.nonce_hash.in_(old.scalar_subquery()))
        .execution_options(synchronize_session=False)
    )
