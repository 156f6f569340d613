"""Failed logins in SQL: the port `hive.login_attempts.LoginAttempts`."""

from __future__ import annotations

import hashlib
import math
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    case,
    delete,
    func,
    insert,
    inspect,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session as SqlSession

from hive.login_attempts import (
    MAX_STREAK,
    STREAK_KEPT,
    WINDOW,
    Attempt,
    History,
    Tally,
    TooManyAttempts,
    time_to_wait,
)
from storage.sql.database import Database
from storage.sql.models import LoginFailureRow, LoginPlaceRow, LoginStreakRow, Table

PRUNED_EVERY = timedelta(minutes=1)


class SqlLoginFailures:
    """One transaction per method; attempts on one account, or from one network, take turns.

    A power cut may forget the latest failures; a login is not to wait for the disk three times.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pruned_at: datetime | None = None

    async def reserve(self, account: str, network: str) -> Attempt:
        """Decide, and record the attempt as a failure. Raises TooManyAttempts."""

        def work(sql: SqlSession) -> Attempt:
            self._take_turns(sql, account, network)
            now = self._database.now(sql)
            history = _read_history(sql, account, network, now)
            wait = time_to_wait(history, now)
            if wait is not None:
                raise TooManyAttempts(retry_after_seconds=math.ceil(wait.total_seconds()))
            attempt_id = sql.execute(
                insert(LoginFailureRow)
                .values(account=account, network=network, known=history.known, failed_at=now)
                .returning(LoginFailureRow.failure_id)
            ).scalar_one()
            streak = {"failures": history.streak + 1, "changed_at": now}
            self._put(sql, LoginStreakRow, {"account": account}, streak)
            self._prune(sql, now)
            return Attempt(attempt_id, account, network)

        return await self._database.write(work, durable=False)

    async def succeed(self, attempt: Attempt, known_for: timedelta) -> None:
        """Take the failure back, end the streak, know the place."""

        def work(sql: SqlSession) -> None:
            self._take_turns(sql, attempt.account)
            now = self._database.now(sql)
            _take_back(sql, attempt)
            sql.execute(delete(LoginStreakRow).where(LoginStreakRow.account == attempt.account))
            place = {"account": attempt.account, "network": attempt.network}
            self._put(sql, LoginPlaceRow, place, {"known_until": now + known_for})

        await self._database.write(work, durable=False)

    async def withdraw(self, attempt: Attempt) -> None:
        """Take the failure back, and its part in the streak."""

        def work(sql: SqlSession) -> None:
            if _take_back(sql, attempt):
                sql.execute(
                    update(LoginStreakRow)
                    .where(LoginStreakRow.account == attempt.account, LoginStreakRow.failures > 0)
                    .values(failures=LoginStreakRow.failures - 1)
                )

        await self._database.write(work, durable=False)

    async def forgive(self, account: str) -> None:
        """Forget the failures and the streak of the account."""

        def work(sql: SqlSession) -> None:
            self._take_turns(sql, account)
            sql.execute(delete(LoginFailureRow).where(LoginFailureRow.account == account))
            sql.execute(delete(LoginStreakRow).where(LoginStreakRow.account == account))

        await self._database.write(work)

    def _take_turns(self, sql: SqlSession, *names: str) -> None:
        """Hold a lock by each name until commit; SQLite has one writer at a time anyway."""
        if self._database.is_sqlite:
            return
        # In one order everywhere, so that two never wait for each other.
        for number in sorted(map(_lock_number, names)):
            sql.execute(select(func.pg_advisory_xact_lock(number)))

    def _put(
        self, sql: SqlSession, table: type[Table], key: dict[str, str], values: dict[str, Any]
    ) -> None:
        """Insert the row, or give the one with this key these values."""
        dialect = sqlite if self._database.is_sqlite else postgresql
        row = dialect.insert(table).values(**key, **values)
        sql.execute(row.on_conflict_do_update(index_elements=list(key), set_=values))

    def _prune(self, sql: SqlSession, now: datetime) -> None:
        if self._pruned_at is not None and now - self._pruned_at < PRUNED_EVERY:
            return
        self._pruned_at = now
        _delete_free(sql, LoginFailureRow, LoginFailureRow.failed_at <= now - WINDOW)
        _delete_free(sql, LoginPlaceRow, LoginPlaceRow.known_until <= now)
        # An account at the cap stays there until somebody proves the password.
        below = LoginStreakRow.failures < MAX_STREAK
        _delete_free(sql, LoginStreakRow, LoginStreakRow.changed_at <= now - STREAK_KEPT, below)


def _read_history(sql: SqlSession, account: str, network: str, now: datetime) -> History:
    """All of it in one statement: it is in the way of every login."""
    row = LoginFailureRow
    of_account, on_network = row.account == account, row.network == network
    place = (LoginPlaceRow.account == account, LoginPlaceRow.network == network)
    known_until, streak, *tallies = sql.execute(
        select(
            select(LoginPlaceRow.known_until).where(*place).scalar_subquery(),
            select(LoginStreakRow.failures)
            .where(LoginStreakRow.account == account)
            .scalar_subquery(),
            *_tally(of_account & row.known.is_(False)),
            *_tally(of_account & on_network & row.known.is_(True)),
            *_tally(on_network),
        ).where(row.failed_at > now - WINDOW, or_(of_account, on_network))
    ).one()
    return History(
        known=known_until is not None and known_until > now,
        streak=streak or 0,
        account=Tally(*tallies[0:2]),
        place=Tally(*tallies[2:4]),
        network=Tally(*tallies[4:6]),
    )


def _tally(wanted: ColumnElement[bool]) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    counted = case((wanted, LoginFailureRow.failed_at))
    return func.count(counted), func.min(counted)


def _take_back(sql: SqlSession, attempt: Attempt) -> bool:
    found = sql.execute(
        delete(LoginFailureRow)
        .where(
            LoginFailureRow.failure_id == attempt.attempt_id,
            # SQLite gives the number of a row that is gone to another.
            LoginFailureRow.account == attempt.account,
        )
        .returning(LoginFailureRow.failure_id)
        .execution_options(synchronize_session=False)
    )
    return found.one_or_none() is not None


def _delete_free(sql: SqlSession, table: type[Table], *wanted: Any) -> None:
    """Delete what nobody else is deleting: two that wait for each other's rows would fail."""
    key = tuple_(*inspect(table).primary_key)
    free = select(*inspect(table).primary_key).where(*wanted).with_for_update(skip_locked=True)
    sql.execute(delete(table).where(key.in_(free)).execution_options(synchronize_session=False))


def _lock_number(name: str) -> int:
    digest = hashlib.sha256(f"login {name}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)
