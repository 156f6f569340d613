"""Users, sessions and API keys in SQL: the port `hive.identity_ports.IdentityStore`."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session as SqlSession
from typeid import TypeID

from hive.changes import Actor
from hive.identity import (
    SESSION_LIFETIME,
    ApiKey,
    Session,
    User,
    refresh_expiry,
    username_key,
)
from hive.identity_ports import FIRST_START, Changes, Exchanged
from hive.permissions import Role
from hive.sessions import SessionEnd
from hive.users import UserChange
from storage.sql import outbox, refresh, revocations
from storage.sql.database import Database
from storage.sql.models import ApiKeyRow, RefreshTokenRow, SessionRow, UserRow
from storage.sql.records import api_key_of, session_of, user_of
from storage.sql.sessions import delete_sessions, end_sessions, make_room, summary
from storage.sql.users import SqlUsers

OPERATOR = Actor("system:operator")
SWEPT = 100
"""Ended sessions of a user that its login takes away; the sweep takes those of all users."""


class SqlIdentity:
    """One transaction per method, one hop to a worker thread each."""

    def __init__(
        self, database: Database, *, session_lifetime: timedelta = SESSION_LIFETIME
    ) -> None:
        self._database = database
        self._session_lifetime = session_lifetime

    async def count_users(self) -> int:
        """How many users exist."""
        return await self._database.read(
            lambda sql: sql.scalar(select(func.count()).select_from(UserRow)) or 0
        )

    async def create_user(
        self, username: str, password_hash: str, role: Role, *, actor: Actor = FIRST_START
    ) -> User:
        """Add a user. Raises UsernameTaken."""
        users = SqlUsers(self._database)
        return (await users.insert(username, password_hash, role, actor)).user

    async def find_user(self, user_id: str) -> User | None:
        """The user as it is now."""

        def work(sql: SqlSession) -> User | None:
            row = sql.get(UserRow, user_id)
            return user_of(row) if row else None

        return await self._database.read(work)

    async def find_admin(self) -> User | None:
        """The oldest admin that is not disabled."""

        def work(sql: SqlSession) -> User | None:
            row = sql.scalar(
                select(UserRow)
                .where(UserRow.role == Role.ADMIN.value, UserRow.disabled.is_(False))
                .order_by(UserRow.created_at, UserRow.user_id)
                .limit(1)
            )
            return user_of(row) if row else None

        return await self._database.read(work)

    async def find_credentials(self, username: str) -> tuple[User, str] | None:
        """The user of this name and the hash of the password."""

        def work(sql: SqlSession) -> tuple[User, str] | None:
            row = sql.scalar(select(UserRow).where(UserRow.username_key == username_key(username)))
            return (user_of(row), row.password_hash) if row else None

        return await self._database.read(work) if _storable(username) else None

    async def change_user(
        self,
        user_id: str,
        *,
        role: Role | None = None,
        disabled: bool | None = None,
        actor: Actor = OPERATOR,
    ) -> User:
        """Change what is given. Raises UserNotFound, LastAdmin."""
        change = UserChange(role, disabled)
        return (await SqlUsers(self._database).update(user_id, change, actor)).detail.user

    async def open_session(
        self,
        user_id: str,
        refresh_hash: str,
        *,
        verified_hash: str,
        replacement_hash: str | None = None,
        device: str | None = None,
        address: str | None = None,
        request_id: str | None = None,
        call_id: str | None = None,
    ) -> Session | None:
        """Open a session unless the user was disabled or the password changed meanwhile."""

        def work(sql: SqlSession) -> Session | None:
            user = sql.get(UserRow, user_id, with_for_update=True)
            if user is None or user.disabled or user.password_hash != verified_hash:
                return None
            if replacement_hash is not None:
                user.password_hash = replacement_hash
            now = self._database.now(sql)
            over = (SessionRow.user_id == user_id, SessionRow.expires_at <= now)
            ended = select(SessionRow.session_id).where(*over).limit(SWEPT)
            delete_sessions(sql, sql.scalars(ended).all())
            actor = Actor(user_id, request_id, call_id)
            make_room(sql, user_id, now=now, actor=actor)
            row = SessionRow(
                session_id=str(TypeID(prefix="ses")),
                user_id=user_id,
                created_at=now,
                last_seen_at=now,
                expires_at=now + self._session_lifetime,
                device=device,
                address=address,
            )
            sql.add(row)
            sql.flush()
            sql.add(
                RefreshTokenRow(
                    token_hash=refresh_hash,
                    session_id=row.session_id,
                    issued_at=now,
                    expires_at=refresh_expiry(now, row.expires_at),
                )
            )
            outbox.record(
                sql,
                "session.opened",
                row.session_id,
                now=now,
                actor=actor,
                owner=user_id,
                data=summary(row.session_id, user_id, device, address),
            )
            return session_of(row)

        return await self._database.write(work)

    async def exchange_refresh(self, token_hash: str, successor_hash: str) -> Exchanged:
        """Rotate, repeat, refuse or revoke, by one conditional update."""
        return await self._database.write(
            lambda sql: refresh.exchange(sql, token_hash, successor_hash, self._database.now(sql))
        )

    async def find_session(self, session_id: str) -> tuple[Session, User] | None:
        """The session and its user as they are now."""

        def work(sql: SqlSession) -> tuple[Session, User] | None:
            row = sql.execute(
                select(SessionRow, UserRow)
                .join(UserRow, UserRow.user_id == SessionRow.user_id)
                .where(SessionRow.session_id == session_id)
            ).one_or_none()
            return (session_of(row[0]), user_of(row[1])) if row else None

        return await self._database.read(work)

    async def revoke_session(self, session_id: str, actor: Actor = OPERATOR) -> bool:
        """Revoke a session whose user logs out; False when it was not live."""

        def work(sql: SqlSession) -> bool:
            now = self._database.now(sql)
            wanted = SessionRow.session_id == session_id
            reason = SessionEnd.LOGGED_OUT
            return bool(end_sessions(sql, wanted, now=now, actor=actor, reason=reason))

        return await self._database.write(work)

    async def find_api_key(self, key_hash: str) -> tuple[ApiKey, User | None] | None:
        """The key of this hash and its owner as they are now."""

        def work(sql: SqlSession) -> tuple[ApiKey, User | None] | None:
            row = sql.execute(
                select(ApiKeyRow, UserRow)
                .join(UserRow, UserRow.user_id == ApiKeyRow.owner_id, isouter=True)
                .where(ApiKeyRow.key_hash == key_hash)
            ).one_or_none()
            if row is None:
                return None
            # The types don't know that an outer join may find nothing.
            owner: UserRow | None = row[1]
            return api_key_of(row[0]), user_of(owner) if owner else None

        return await self._database.read(work)

    async def touch(self, subject_id: str) -> None:
        """Note that a session or a key was used now."""

        def work(sql: SqlSession) -> None:
            now = self._database.now(sql)
            if subject_id.startswith("key_"):
                sql.execute(
                    update(ApiKeyRow).where(ApiKeyRow.key_id == subject_id).values(last_used_at=now)
                )
            else:
                sql.execute(
                    update(SessionRow)
                    .where(SessionRow.session_id == subject_id)
                    .values(last_seen_at=now)
                )

        await self._database.write(work)

    async def change_position(self) -> int:
        """The position of the newest recorded change."""
        return await self._database.read(revocations.position)

    async def changes_after(self, position: int) -> Changes:
        """What changed after the position, in the order of commit."""
        return await self._database.read(lambda sql: revocations.after(sql, position))


def _storable(text: str) -> bool:
    """PostgreSQL can't hold NUL and nothing can encode a lone surrogate: no such name exists."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
