"""API keys in SQL: the port `hive.api_key_ports.ApiKeyStore`.

Rows are locked in one order on PostgreSQL: users, the session of who asks, API keys by identifier,
the counter of revocations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session as SqlSession
from typeid import TypeID

from hive.api_key_ports import ApiKeyFilter, KeptSecret, SeenKey
from hive.api_keys import (
    MOST_KEYS,
    ApiKeyNotFound,
    KeyGrant,
    KeyStatus,
    KeyWish,
    Maker,
    TooManyApiKeys,
    effective_role,
    grant,
    is_visible,
    rotate,
    status_of,
)
from hive.changes import Actor
from hive.errors import InvalidToken
from hive.idempotency import UndoneMeanwhile
from hive.identity import ApiKey, PrincipalKind, Session
from hive.permissions import Principal
from storage.sql import api_key_events, revocations
from storage.sql.database import Database
from storage.sql.models import ApiKeyRow, SessionRow, UserRow
from storage.sql.records import api_key_of, session_of, user_of


class SqlApiKeys:
    """One transaction per method, one hop to a worker thread each."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(
        self, caller: Principal, wanted: ApiKeyFilter, *, after: str | None, limit: int
    ) -> Sequence[SeenKey]:
        """Those that the caller may see, newest first."""

        def work(sql: SqlSession) -> Sequence[SeenKey]:
            now = self._database.now(sql)
            return _seen(sql, now, *_selected(caller, wanted, after, now), limit=limit)

        return await self._database.read(work)

    async def get(self, caller: Principal, key_id: str) -> SeenKey:
        """One key. Raises ApiKeyNotFound."""
        seen = await self.find(key_id)
        if seen is None or not is_visible(seen.key, caller.principal_id, is_admin=caller.is_admin):
            raise ApiKeyNotFound(key_id=key_id)
        return seen

    async def find(self, key_id: str) -> SeenKey | None:
        """The key, whoever asks."""
        if not _storable(key_id):
            return None

        def work(sql: SqlSession) -> SeenKey | None:
            found = _seen(sql, self._database.now(sql), ApiKeyRow.key_id == key_id, limit=1)
            return found[0] if found else None

        return await self._database.read(work)

    async def create(
        self, caller: Principal, wish: KeyWish, secret: KeptSecret, actor: Actor
    ) -> ApiKey:
        """Add a key within what the caller has now."""

        def work(sql: SqlSession) -> ApiKey:
            # Whoever makes a key of the same user at the same time waits here, and then counts.
            sql.get(UserRow, caller.principal_id, with_for_update=True)
            if (made := _find_made(sql, secret)) is not None:
                return _not_undone(made)
            _, maker = _lock(sql, caller)
            now = self._database.now(sql)
            _require_room(sql, caller.principal_id, now)
            return _insert(sql, grant(wish, maker, now), secret, actor, now)

        return await self._database.write_once(work)

    async def insert(self, granted: KeyGrant, secret: KeptSecret, actor: Actor) -> ApiKey:
        """Add a key that nobody has to ask for."""

        def work(sql: SqlSession) -> ApiKey:
            made = _find_made(sql, secret)
            return made or _insert(sql, granted, secret, actor, self._database.now(sql))

        return await self._database.write_once(work)

    async def revoke(self, caller: Principal, key_id: str, actor: Actor) -> SeenKey:
        """End a key. Idempotent. Raises ApiKeyNotFound, InvalidToken."""

        def work(sql: SqlSession) -> SeenKey:
            row, maker = _lock_visible(sql, caller, key_id)
            now = self._database.now(sql)
            maker.check(now)
            _revoke(sql, (row,), actor, now)
            return _seen(sql, now, ApiKeyRow.key_id == key_id, limit=1)[0]

        return await self._database.write(work)

    async def rotate(
        self,
        caller: Principal,
        key_id: str,
        secret: KeptSecret,
        actor: Actor,
        *,
        overlap: timedelta,
    ) -> ApiKey:
        """Add the successor and set the old key's end."""

        def work(sql: SqlSession) -> ApiKey:
            row, maker = _lock_visible(sql, caller, key_id)
            if (made := _find_made(sql, secret)) is not None:
                return _not_undone(made)
            now = self._database.now(sql)
            owner = sql.get(UserRow, row.owner_id) if row.owner_id else None
            rotation = rotate(
                api_key_of(row), user_of(owner) if owner else None, maker, overlap=overlap, now=now
            )
            successor = _insert(sql, rotation.successor, secret, actor, now)
            row.successor_id = successor.key_id
            row.expires_at = rotation.old_expires_at
            api_key_events.tell(sql, "api_key.rotated", api_key_of(row), actor, now)
            # Sockets that the key opened learn its new end.
            revocations.record(sql, row.key_id, now)
            return successor

        return await self._database.write_once(work)

    async def revoke_of_agent(self, agent_id: str, actor: Actor) -> tuple[str, ...]:
        """Revoke the agent's live keys."""
        return await self._revoke_where(ApiKeyRow.agent_id == agent_id, actor=actor)

    async def revoke_of_user(
        self, user_id: str, actor: Actor, *, name: str | None = None
    ) -> tuple[str, ...]:
        """Revoke the live keys that speak for the user; not those of agents that it registered."""
        wanted = [ApiKeyRow.owner_id == user_id, ApiKeyRow.kind == PrincipalKind.USER.value]
        if name is not None:
            wanted.append(ApiKeyRow.name == name)
        return await self._revoke_where(*wanted, actor=actor)

    async def announce_expiring(self, actor: Actor, *, within: timedelta, limit: int) -> int:
        """Announce keys that end soon and were neither announced nor rotated."""

        def work(sql: SqlSession) -> int:
            now = self._database.now(sql)
            rows = sql.scalars(
                select(ApiKeyRow)
                .where(
                    ApiKeyRow.expiry_announced_at.is_(None),
                    ApiKeyRow.revoked_at.is_(None),
                    ApiKeyRow.successor_id.is_(None),
                    ApiKeyRow.expires_at > now,
                    ApiKeyRow.expires_at <= now + within,
                )
                .order_by(ApiKeyRow.expires_at)
                .limit(limit)
                .with_for_update(skip_locked=True)
            ).all()
            for row in rows:
                row.expiry_announced_at = now
                api_key_events.tell(sql, "api_key.expiring", api_key_of(row), actor, now)
            return len(rows)

        return await self._database.write(work)

    async def _revoke_where(self, *wanted: ColumnElement[bool], actor: Actor) -> tuple[str, ...]:
        def work(sql: SqlSession) -> tuple[str, ...]:
            rows = sql.scalars(
                select(ApiKeyRow)
                .where(*wanted, ApiKeyRow.revoked_at.is_(None))
                .order_by(ApiKeyRow.key_id)
                .with_for_update()
            ).all()
            return _revoke(sql, rows, actor, self._database.now(sql))

        return await self._database.write(work)


def _selected(
    caller: Principal, wanted: ApiKeyFilter, after: str | None, now: datetime
) -> list[ColumnElement[bool]]:
    chosen = []
    if not caller.is_admin:
        chosen.append(_of_user(caller.principal_id))
    if wanted.owner is not None:
        of_agent = and_(
            ApiKeyRow.kind == PrincipalKind.AGENT.value, ApiKeyRow.agent_id == wanted.owner
        )
        chosen.append(or_(_of_user(wanted.owner), of_agent))
    if wanted.status is not None:
        chosen.append(_has_status(wanted.status, now))
    if after is not None:
        chosen.append(ApiKeyRow.key_id < after)
    return chosen


def _of_user(user_id: str) -> ColumnElement[bool]:
    return and_(ApiKeyRow.kind == PrincipalKind.USER.value, ApiKeyRow.owner_id == user_id)


def _has_status(status: KeyStatus, now: datetime) -> ColumnElement[bool]:
    if status is KeyStatus.REVOKED:
        return ApiKeyRow.revoked_at.is_not(None)
    ended = ApiKeyRow.expires_at <= now
    if status is KeyStatus.ACTIVE:
        ended = or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > now)
    return and_(ApiKeyRow.revoked_at.is_(None), ended)


def _seen(
    sql: SqlSession, now: datetime, *wanted: ColumnElement[bool], limit: int
) -> Sequence[SeenKey]:
    # Identifiers grow with time.
    rows = sql.execute(
        select(ApiKeyRow, UserRow)
        .join(UserRow, UserRow.user_id == ApiKeyRow.owner_id, isouter=True)
        .where(*wanted)
        .order_by(ApiKeyRow.key_id.desc())
        .limit(limit)
    ).all()
    return [_seen_key(row[0], row[1], now) for row in rows]


def _seen_key(row: ApiKeyRow, owner: UserRow | None, now: datetime) -> SeenKey:
    key = api_key_of(row)
    role = effective_role(key, user_of(owner) if owner else None)
    return SeenKey(replace(key, role=role), status_of(key, now))


def _lock_visible(sql: SqlSession, caller: Principal, key_id: str) -> tuple[ApiKeyRow, Maker]:
    """The key and who asks, by the rights of this moment. Raises ApiKeyNotFound, InvalidToken."""
    known = sql.get(ApiKeyRow, key_id) if _storable(key_id) else None
    rows, maker = _lock(sql, caller, known)
    if known is None or not is_visible(
        api_key_of(known), maker.user.user_id, is_admin=caller.is_admin and maker.is_admin
    ):
        raise ApiKeyNotFound(key_id=key_id)
    return rows[key_id], maker


def _lock(
    sql: SqlSession, caller: Principal, known: ApiKeyRow | None = None
) -> tuple[dict[str, ApiKeyRow], Maker]:
    """The key that is known of and the caller's own, locked and as they are now."""
    user_ids = {caller.principal_id, known.owner_id if known else None} - {None}
    users = sql.scalars(
        select(UserRow)
        .where(UserRow.user_id.in_(user_ids))
        .order_by(UserRow.user_id)
        .with_for_update(read=True)
        .execution_options(populate_existing=True)
    ).all()
    session = _lock_session(sql, caller.session_id) if caller.session_id else None
    key_ids = {caller.key_id, known.key_id if known else None} - {None}
    keys = sql.scalars(
        select(ApiKeyRow)
        .where(ApiKeyRow.key_id.in_(key_ids))
        .order_by(ApiKeyRow.key_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()
    rows = {row.key_id: row for row in keys}
    user = next((row for row in users if row.user_id == caller.principal_id), None)
    own = rows.get(caller.key_id) if caller.key_id else None
    if user is None or (caller.key_id is not None and own is None):
        raise InvalidToken(reason="the user or the API key is gone")
    return rows, Maker(user_of(user), api_key_of(own) if own else None, session)


def _lock_session(sql: SqlSession, session_id: str) -> Session:
    row = sql.get(SessionRow, session_id, with_for_update={"read": True})
    if row is None:
        raise InvalidToken(reason="the session is gone", session_id=session_id)
    return session_of(row)


def _require_room(sql: SqlSession, user_id: str, now: datetime) -> None:
    live = (_of_user(user_id), _has_status(KeyStatus.ACTIVE, now))
    if (sql.scalar(select(func.count()).where(*live)) or 0) >= MOST_KEYS:
        raise TooManyApiKeys(owner_id=user_id)


def _find_made(sql: SqlSession, secret: KeptSecret) -> ApiKey | None:
    """The key that the same request has made before."""
    row = sql.get(ApiKeyRow, secret.key_id) if secret.key_id is not None else None
    return api_key_of(row) if row else None


def _not_undone(made: ApiKey) -> ApiKey:
    if made.revoked_at is not None:
        raise UndoneMeanwhile(key_id=made.key_id)
    return made


def _insert(
    sql: SqlSession, granted: KeyGrant, secret: KeptSecret, actor: Actor, now: datetime
) -> ApiKey:
    row = ApiKeyRow(
        key_id=secret.key_id or str(TypeID(prefix="key")),
        name=granted.name,
        prefix=secret.prefix,
        key_hash=secret.key_hash,
        kind=granted.kind.value,
        owner_id=granted.owner_id,
        agent_id=granted.agent_id,
        role=granted.role.value,
        scopes=sorted(granted.scopes),
        created_at=now,
        expires_at=granted.expires_at,
        allowed_addresses=list(granted.allowed_addresses),
    )
    sql.add(row)
    sql.flush()
    key = api_key_of(row)
    api_key_events.tell(sql, "api_key.created", key, actor, now)
    return key


def _revoke(
    sql: SqlSession, rows: Sequence[ApiKeyRow], actor: Actor, now: datetime
) -> tuple[str, ...]:
    live = [row for row in rows if row.revoked_at is None]
    for row in live:
        row.revoked_at = now
        api_key_events.tell(sql, "api_key.revoked", api_key_of(row), actor, now)
    revoked = tuple(row.key_id for row in live)
    for key_id in revoked:
        revocations.record(sql, key_id, now)
    return revoked


def _storable(text: str) -> bool:
    """Identifiers are ASCII; PostgreSQL can't even be asked for a NUL."""
    return text.isascii() and text.isprintable()
