"""All tables go into lines and come out of them, on both databases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Boolean, Column, Integer, LargeBinary, insert, select

from storage.sql.backup import SqlBackup
from storage.sql.database import Database
from storage.sql.models import Table, UtcDateTime

NOW = datetime(2026, 11, 22, 8, 30, 15, 123456, tzinfo=UTC)


def _value(column: Column[Any]) -> Any:
    if column.name == "kind":
        return "user"
    if isinstance(column.type, UtcDateTime):
        return NOW
    if isinstance(column.type, LargeBinary):
        return b"\x00\xff\n"
    if isinstance(column.type, JSON):
        return {"a": [1, None, "\u20ac\n"]}
    if isinstance(column.type, Boolean):
        return True
    return 1 if isinstance(column.type, Integer) else "x\u2028"


def test_rows_of_every_table_come_back_as_they_were(url: str) -> None:
    """Times to the microsecond, bytes, JSON; what a new schema brings is replaced."""
    database = Database(url)
    database.migrate()
    with database.engine.begin() as connection:
        for table in reversed(Table.metadata.sorted_tables):
            connection.execute(table.delete())
        for table in Table.metadata.sorted_tables:
            row = {column.name: _value(column) for column in table.columns}
            connection.execute(insert(table), [row])
    backup = SqlBackup(database)
    assert not backup.is_empty()
    kept: defaultdict[str, list[bytes]] = defaultdict(list)

    def add(table: str, lines: Iterable[bytes]) -> None:
        kept[table] += lines

    try:
        before = _everything(database)
        assert all(before.values())
        backup.read(add)
        with database.engine.begin() as connection:
            for table in reversed(Table.metadata.sorted_tables):
                connection.execute(table.delete())
        assert backup.is_empty()
        backup.write(lambda table: iter(kept[table]))
        assert _everything(database) == before
    finally:
        database.close()


def _everything(database: Database) -> dict[str, list[Any]]:
    with database.engine.begin() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(select(table))]
            for table in Table.metadata.sorted_tables
        }
