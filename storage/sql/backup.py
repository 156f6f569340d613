"""All rows of the SQL database as one transaction sees them, and the way back into an empty one.

A row is a line of JSON, the same for SQLite and PostgreSQL: times in ISO 8601, bytes in base64.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Column, Connection, LargeBinary, delete, func, insert, select, text
from sqlalchemy import Table as SqlTable

from storage.sql.database import Database
from storage.sql.models import Table, UserRow, UtcDateTime

ROWS_AT_ONCE: Final = 500
Add = Callable[[str, Iterable[bytes]], None]


class SqlBackup:
    """Reads and writes whole tables. All methods block."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, add: Add) -> None:
        """Hand each table's name and lines over, all of one point in time."""
        engine = self._database.engine
        if not self._database.is_sqlite:
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with engine.begin() as connection:
            self._without_timeout(connection)
            for table in Table.metadata.sorted_tables:
                rows = connection.execute(select(table).order_by(*table.primary_key))
                add(table.name, (_line(table, row) for row in rows.mappings()))

    def is_empty(self) -> bool:
        """Whether nobody was ever here; the tables are there."""
        with self._database.engine.begin() as connection:
            return not connection.scalar(select(func.count()).select_from(UserRow))

    def write(self, lines_of: Callable[[str], Iterator[bytes]]) -> None:
        """Put every table's lines in, in one transaction; what a new schema brings goes."""
        engine = self._database.engine.execution_options(begin="IMMEDIATE")
        with engine.begin() as connection:
            self._without_timeout(connection)
            for table in reversed(Table.metadata.sorted_tables):
                connection.execute(delete(table))
            for table in Table.metadata.sorted_tables:
                rows = [_row(table, line) for line in lines_of(table.name)]
                for start in range(0, len(rows), ROWS_AT_ONCE):
                    connection.execute(insert(table), rows[start : start + ROWS_AT_ONCE])

    def _without_timeout(self, connection: Connection) -> None:
        if not self._database.is_sqlite:
            connection.execute(text("SET LOCAL statement_timeout = 0"))


def _line(table: SqlTable, row: Any) -> bytes:
    shown = {column.name: _shown(row[column.name]) for column in table.columns}
    return json.dumps(shown, ensure_ascii=False).encode() + b"\n"


def _shown(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value


def _row(table: SqlTable, line: bytes) -> dict[str, Any]:
    found = json.loads(line)
    return {column.name: _meant(column, found[column.name]) for column in table.columns}


def _meant(column: Column[Any], value: Any) -> Any:
    if value is None:
        return None
    if isinstance(column.type, UtcDateTime):
        return datetime.fromisoformat(value)
    if isinstance(column.type, LargeBinary):
        return base64.b64decode(value)
    return value
