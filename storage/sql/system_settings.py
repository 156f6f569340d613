"""The settings of the system in SQL: the port `hive.system_settings.SystemSettingsStore`."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session as SqlSession

from hive.changes import Actor
from hive.system_settings import DecideSettings, SystemSettings
from storage.sql import outbox, revocations
from storage.sql.database import Database
from storage.sql.models import SystemSettingsRow

SUBJECT: Final = "system_settings"
"""What a change is recorded as among the revocations, so that every node hears of it."""
_ONLY_ROW: Final = 1


class SqlSystemSettings:
    """One row, which a change locks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self) -> SystemSettings:
        """The settings as they are now."""
        return await self._database.read(
            lambda sql: _settings_of(sql.get(SystemSettingsRow, _ONLY_ROW))
        )

    async def change(self, decide: DecideSettings, actor: Actor) -> SystemSettings:
        """Decide under the lock and save, with the event."""

        def work(sql: SqlSession) -> SystemSettings:
            now = self._database.now(sql)
            self._make_row(sql, now)
            row = sql.get_one(SystemSettingsRow, _ONLY_ROW, with_for_update=True)
            current = _settings_of(row)
            wanted = decide(current)
            if wanted == current:
                return current
            row.document = {
                "admin_allowlist": list(wanted.admin_allowlist),
                "signing_required": wanted.signing_required,
            }
            row.version = current.version + 1
            row.updated_at = now
            row.updated_by = actor.actor_id
            outbox.record(
                sql,
                "system.settings_updated",
                "system",
                now=now,
                actor=actor,
                owner=None,
                data={"version": row.version},
            )
            revocations.record(sql, SUBJECT, now)
            return _settings_of(row)

        return await self._database.write(work)

    def _make_row(self, sql: SqlSession, now: datetime) -> None:
        """See to it that there is a row to lock, whoever else does the same."""
        insert = sqlite.insert if self._database.is_sqlite else postgresql.insert
        row = insert(SystemSettingsRow).values(
            settings_id=_ONLY_ROW, document={}, version=0, updated_at=now
        )
        sql.execute(row.on_conflict_do_nothing())


def _settings_of(row: SystemSettingsRow | None) -> SystemSettings:
    if row is None or row.version == 0:
        return SystemSettings()
    return SystemSettings(
        admin_allowlist=tuple(row.document["admin_allowlist"]),
        signing_required=row.document["signing_required"],
        version=row.version,
        updated_at=row.updated_at,
        updated_by=row.updated_by,
    )
