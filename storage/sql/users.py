"""Users in SQL: the port `hive.user_ports.UserStore`.

Rows are locked in one order on PostgreSQL: the enabled admins, the user, its refresh tokens, its
sessions, the counter of revocations.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session as SqlSession
from typeid import TypeID

from hive.changes import Actor
from hive.errors import InvalidToken, WriteConflict
from hive.idempotency import UndoneMeanwhile
from hive.identity import PrincipalKind, User, UsernameTaken, username_key
from hive.permissions import Role
from hive.preconditions import ExpectedVersions
from hive.sessions import SessionEnd
from hive.user_ports import UserChanged
from hive.users import (
    UserChange,
    UserDetail,
    UserFilter,
    UserNotFound,
    apply_change,
    require_other_admin,
)
from storage.sql import api_key_events, outbox, revocations
from storage.sql.database import Database
from storage.sql.models import ApiKeyRow, SessionRow, SigningKeyRow, UserRow
from storage.sql.records import api_key_of, user_of
from storage.sql.sessions import delete_tokens, end_sessions, others


class SqlUsers:
    """One transaction per method, one hop to a worker thread each."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(
        self,
        username: str,
        password_hash: str,
        role: Role,
        actor: Actor,
        *,
        user_id: str | None = None,
    ) -> UserDetail:
        """Add a user. Raises UsernameTaken, UndoneMeanwhile."""

        def work(sql: SqlSession) -> UserDetail:
            if user_id is not None:
                found = _details(sql, UserRow.user_id == user_id)
                if found:
                    return found[0]
                if revocations.holds(sql, user_id):
                    raise UndoneMeanwhile(user_id=user_id)
            now = self._database.now(sql)
            row = UserRow(
                user_id=user_id or str(TypeID(prefix="usr")),
                username=username.strip(),
                username_key=username_key(username),
                password_hash=password_hash,
                role=role.value,
                disabled=False,
                created_at=now,
                password_changed_at=now,
                version=1,
            )
            sql.add(row)
            sql.flush()
            user = user_of(row)
            _tell(sql, "user.created", user, now, actor)
            return UserDetail(user)

        try:
            return await self._database.write_once(work)
        except IntegrityError as error:
            raise UsernameTaken(username=username) from error

    async def get(self, user_id: str) -> UserDetail:
        """Raise UserNotFound when there is none."""

        def work(sql: SqlSession) -> UserDetail:
            found = _details(sql, UserRow.user_id == user_id)
            if not found:
                raise UserNotFound(user_id=user_id)
            return found[0]

        return await self._database.read(work)

    async def list(
        self, wanted: UserFilter, *, after: str | None, limit: int
    ) -> Sequence[UserDetail]:
        """Oldest first: identifiers are ordered by time."""
        conditions = []
        if wanted.role is not None:
            conditions.append(UserRow.role == wanted.role.value)
        if wanted.disabled is not None:
            conditions.append(UserRow.disabled.is_(wanted.disabled))
        if after is not None:
            conditions.append(UserRow.user_id > after)
        return await self._database.read(lambda sql: _details(sql, *conditions, limit=limit))

    async def update(
        self,
        user_id: str,
        change: UserChange,
        actor: Actor,
        *,
        expected: ExpectedVersions | None = None,
    ) -> UserChanged:
        """Change what is given. Raises UserNotFound, PreconditionFailed, LastAdmin."""
        return await self._database.write(
            lambda sql: change_user(
                sql, user_id, change, self._database.now(sql), actor, expected=expected
            )
        )

    async def delete(
        self, user_id: str, actor: Actor, *, expected: ExpectedVersions | None = None
    ) -> UserChanged:
        """Delete, after all that hangs on the user has ended. Raises as `update`."""

        def work(sql: SqlSession) -> UserChanged:
            admins = _lock_admins(sql)
            row = _lock(sql, user_id, expected)
            user = user_of(row)
            require_other_admin(user, has_other_admin=bool(admins - {user_id}))
            now = self._database.now(sql)
            delete_tokens(sql, user_id)
            ended = end_sessions(
                sql, *others(user_id, None), now=now, actor=actor, reason=SessionEnd.USER_DELETED
            )
            sql.execute(delete(SessionRow).where(SessionRow.user_id == user_id))
            keys = _revoke_keys(sql, user_id, now, actor)
            sql.execute(delete(SigningKeyRow).where(SigningKeyRow.owner_id == user_id))
            sql.execute(delete(UserRow).where(UserRow.user_id == user_id))
            revocations.record_all(sql, (user_id,), now)
            _tell(sql, "user.deleted", user, now, actor)
            return UserChanged(UserDetail(user), (*ended, *keys, user_id))

        return await self._database.write(work)

    async def password_hash(self, user_id: str) -> str:
        """The hash that is stored. Raises UserNotFound."""

        def work(sql: SqlSession) -> str:
            found = sql.scalar(select(UserRow.password_hash).where(UserRow.user_id == user_id))
            if found is None:
                raise UserNotFound(user_id=user_id)
            return found

        return await self._database.read(work)

    async def set_password(self, user_id: str, password_hash: str, actor: Actor) -> UserChanged:
        """Store the hash and end every session. Raises UserNotFound."""

        def work(sql: SqlSession) -> UserChanged:
            row = _lock(sql, user_id)
            return _store_password(sql, row, password_hash, None, self._database.now(sql), actor)

        return await self._database.write(work)

    async def replace_password(
        self, session_id: str, verified_hash: str, password_hash: str, actor: Actor
    ) -> UserChanged:
        """Store the hash unless the right to do so is gone. Raises InvalidToken, WriteConflict."""

        def work(sql: SqlSession) -> UserChanged:
            user_id = sql.scalar(
                select(SessionRow.user_id).where(SessionRow.session_id == session_id)
            )
            if user_id is None:
                raise InvalidToken(reason="the session is gone", session_id=session_id)
            row = _lock(sql, user_id)
            now = self._database.now(sql)
            lives = sql.scalar(
                select(SessionRow.session_id)
                .where(
                    SessionRow.session_id == session_id,
                    SessionRow.revoked_at.is_(None),
                    SessionRow.expires_at > now,
                )
                .with_for_update()
            )
            if lives is None or row.disabled:
                raise InvalidToken(reason="the session is over", session_id=session_id)
            if row.password_hash != verified_hash:
                raise WriteConflict(user_id=user_id)
            return _store_password(sql, row, password_hash, session_id, now, actor)

        return await self._database.write(work)


def change_user(
    sql: SqlSession,
    user_id: str,
    change: UserChange,
    now: datetime,
    actor: Actor,
    *,
    expected: ExpectedVersions | None = None,
) -> UserChanged:
    """Change role or disabled with all that follows.

    Raises UserNotFound, PreconditionFailed, LastAdmin.
    """
    admins = _lock_admins(sql) if change.may_remove_admin else frozenset()
    row = _lock(sql, user_id, expected)
    before = user_of(row)
    after = apply_change(before, change, has_other_admin=bool(admins - {user_id}))
    if after == before:
        return UserChanged(_details(sql, UserRow.user_id == user_id)[0])
    row.role, row.disabled, row.version = after.role.value, after.disabled, after.version
    sql.flush()
    ended: tuple[str, ...] = ()
    if after.disabled and not before.disabled:
        ended = end_sessions(
            sql, *others(user_id, None), now=now, actor=actor, reason=SessionEnd.USER_DISABLED
        )
    revocations.record_all(sql, (user_id,), now)
    _tell(sql, "user.updated", after, now, actor)
    return UserChanged(_details(sql, UserRow.user_id == user_id)[0], (*ended, user_id))


def _lock_admins(sql: SqlSession) -> frozenset[str]:
    """The enabled admins, none of whom changes until the commit.

    PostgreSQL looks at a row again when it had to wait for it, so whoever comes second sees who is
    left. SQLite has one writer at a time.
    """
    return frozenset(
        sql.scalars(
            select(UserRow.user_id)
            .where(UserRow.role == Role.ADMIN.value, UserRow.disabled.is_(False))
            .order_by(UserRow.user_id)
            .with_for_update(key_share=True)
        )
    )


def _lock(sql: SqlSession, user_id: str, expected: ExpectedVersions | None = None) -> UserRow:
    row = sql.get(UserRow, user_id, with_for_update=True, populate_existing=True)
    if row is None:
        raise UserNotFound(user_id=user_id)
    if expected is not None:
        expected.require(row.version)
    return row


def _details(
    sql: SqlSession, *conditions: ColumnElement[bool], limit: int = 1
) -> Sequence[UserDetail]:
    signing = exists().where(
        SigningKeyRow.owner_id == UserRow.user_id,
        SigningKeyRow.key_id.is_(None),
        SigningKeyRow.revoked_at.is_(None),
    )
    rows = sql.execute(
        select(UserRow, signing).where(*conditions).order_by(UserRow.user_id).limit(limit)
    )
    return [UserDetail(user_of(row), signing=bool(has_key)) for row, has_key in rows]


def _store_password(
    sql: SqlSession,
    row: UserRow,
    password_hash: str,
    kept_session: str | None,
    now: datetime,
    actor: Actor,
) -> UserChanged:
    row.password_hash, row.password_changed_at = password_hash, now
    row.version += 1
    sql.flush()
    ended = end_sessions(
        sql,
        *others(row.user_id, kept_session),
        now=now,
        actor=actor,
        reason=SessionEnd.PASSWORD_CHANGED,
    )
    _tell(sql, "user.password_changed", user_of(row), now, actor)
    return UserChanged(_details(sql, UserRow.user_id == row.user_id)[0], ended)


def _revoke_keys(sql: SqlSession, user_id: str, now: datetime, actor: Actor) -> tuple[str, ...]:
    """Revoke the user's own keys; those of agents that the user registered stay the agents'."""
    rows = sql.scalars(
        select(ApiKeyRow)
        .where(
            ApiKeyRow.owner_id == user_id,
            ApiKeyRow.kind == PrincipalKind.USER.value,
            ApiKeyRow.revoked_at.is_(None),
        )
        .order_by(ApiKeyRow.key_id)
        .with_for_update()
    ).all()
    for row in rows:
        row.revoked_at = now
        api_key_events.tell(sql, "api_key.revoked", api_key_of(row), actor, now)
    keys = tuple(row.key_id for row in rows)
    revocations.record_all(sql, keys, now)
    return keys


def _tell(sql: SqlSession, event_type: str, user: User, now: datetime, actor: Actor) -> None:
    outbox.record(
        sql, event_type, user.user_id, now=now, actor=actor, owner=user.user_id, data=_summary(user)
    )


def _summary(user: User) -> dict[str, Any]:
    return {
        "user_id": user.user_id,
        "username": user.username,
        "role": user.role.value,
        "disabled": user.disabled,
        "version": user.version,
    }
