"""Users, sessions and API keys in SQL: the port `hive.identity_ports.IdentityStore`."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session as SqlSession
from typeid import TypeID

from hive.identity import (
    SESSION_LIFETIME,
    ApiKey,
    PrincipalKind,
    Session,
    User,
    UsernameTaken,
    refresh_expiry,
    username_key,
)
from hive.identity_ports import Changes, Exchanged
from hive.permissions import Role
from storage.sql import refresh, revocations
from storage.sql.database import Database
from storage.sql.models import ApiKeyRow, RefreshTokenRow, SessionRow, UserRow
from storage.sql.records import api_key_of, session_of, user_of


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

    async def create_user(self, username: str, password_hash: str, role: Role) -> User:
        """Add a user. Raises UsernameTaken."""

        def work(sql: SqlSession) -> User:
            now = self._database.now(sql)
            row = UserRow(
                user_id=str(TypeID(prefix="usr")),
                username=username.strip(),
                username_key=username_key(username),
                password_hash=password_hash,
                role=role.value,
                disabled=False,
                created_at=now,
                password_changed_at=now,
            )
            sql.add(row)
            sql.flush()
            return user_of(row)

        try:
            return await self._database.write(work)
        except IntegrityError as error:
            raise UsernameTaken(username=username) from error

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
        self, user_id: str, *, role: Role | None = None, disabled: bool | None = None
    ) -> User | None:
        """Change what is given and record it; disabling revokes every session."""

        def work(sql: SqlSession) -> User | None:
            row = sql.get(UserRow, user_id, with_for_update=True)
            if row is None:
                return None
            now = self._database.now(sql)
            if role is not None:
                row.role = role.value
            if disabled is not None:
                row.disabled = disabled
            if disabled:
                sql.execute(
                    update(SessionRow)
                    .where(SessionRow.user_id == user_id, SessionRow.revoked_at.is_(None))
                    .values(revoked_at=now)
                )
            revocations.record(sql, user_id, now)
            return user_of(row)

        return await self._database.write(work)

    async def open_session(
        self,
        user_id: str,
        refresh_hash: str,
        *,
        verified_hash: str,
        replacement_hash: str | None = None,
        device: str | None = None,
        address: str | None = None,
    ) -> Session | None:
        """Open a session unless the user was disabled or the password changed meanwhile."""

        def work(sql: SqlSession) -> Session | None:
            user = sql.get(UserRow, user_id, with_for_update=True)
            if user is None or user.disabled or user.password_hash != verified_hash:
                return None
            if replacement_hash is not None:
                user.password_hash = replacement_hash
            now = self._database.now(sql)
            ended = (SessionRow.user_id == user_id, SessionRow.expires_at <= now)
            sql.execute(delete(SessionRow).where(*ended))
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

    async def revoke_session(self, session_id: str) -> bool:
        """Revoke a session; False when it was not live."""
        return await self._database.write(
            lambda sql: revocations.end_session(sql, session_id, self._database.now(sql))
        )

    async def create_api_key(
        self,
        *,
        name: str,
        prefix: str,
        key_hash: str,
        kind: PrincipalKind,
        role: Role,
        scopes: frozenset[str] = frozenset(),
        owner_id: str | None = None,
        agent_id: str | None = None,
        expires_at: datetime | None = None,
    ) -> ApiKey:
        """Add an API key."""

        def work(sql: SqlSession) -> ApiKey:
            row = ApiKeyRow(
                key_id=str(TypeID(prefix="key")),
                name=name,
                prefix=prefix,
                key_hash=key_hash,
                kind=kind.value,
                owner_id=owner_id,
                agent_id=agent_id,
                role=role.value,
                scopes=sorted(scopes),
                created_at=self._database.now(sql),
                expires_at=expires_at,
            )
            sql.add(row)
            sql.flush()
            return api_key_of(row)

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

    async def revoke_api_keys(
        self,
        *,
        key_id: str | None = None,
        agent_id: str | None = None,
        owner_id: str | None = None,
        name: str | None = None,
    ) -> tuple[str, ...]:
        """Revoke the live keys that match all that is given, which must be something."""
        given = {"key_id": key_id, "agent_id": agent_id, "owner_id": owner_id, "name": name}
        wanted = [getattr(ApiKeyRow, n) == value for n, value in given.items() if value is not None]
        if not wanted:
            raise ValueError("say which API keys are to be revoked")

        def work(sql: SqlSession) -> tuple[str, ...]:
            now = self._database.now(sql)
            revoked = sql.scalars(
                update(ApiKeyRow)
                .where(*wanted, ApiKeyRow.revoked_at.is_(None))
                .values(revoked_at=now)
                .returning(ApiKeyRow.key_id)
                .execution_options(synchronize_session=False)
            ).all()
            for revoked_id in revoked:
                revocations.record(sql, revoked_id, now)
            return tuple(revoked)

        return await self._database.write(work)

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
