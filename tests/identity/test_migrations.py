"""The schema: made from nothing, upgraded without harm, and equal to the models."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from storage.sql.database import Database
from storage.sql.migrations import UnknownSchemaError
from storage.sql.models import Table


def test_empty_database_gets_the_schema_of_the_models(url: str) -> None:
    """A start on nothing makes every table, and nothing differs from the models."""
    database = Database(url)
    database.migrate()
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []
        assert set(Table.metadata.tables) < set(inspect(connection).get_table_names())
    database.close()


def test_migrating_again_changes_nothing(url: str) -> None:
    """Every start runs the migrations; data and counters survive."""
    database = Database(url)
    database.migrate()
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE revocation_counter SET position = 7"))
    database.migrate()
    with database.engine.connect() as connection:
        positions = connection.execute(text("SELECT position FROM revocation_counter")).all()
    assert [tuple(row) for row in positions] == [(7,)]
    database.close()


def test_nodes_that_start_together_migrate_once(url: str) -> None:
    """Four nodes on one empty database all come up."""
    databases = [Database(url) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(database.migrate) for database in databases]:
            done.result(timeout=30)
    for database in databases:
        database.close()


def test_newer_schema_is_refused_with_a_clear_message(sqlite_url: str) -> None:
    """An older release does not start on a newer database."""
    database = Database(sqlite_url)
    database.migrate()
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(UnknownSchemaError, match="9999"):
        database.migrate()
    database.close()


def test_migrations_leave_logging_alone(sqlite_url: str) -> None:
    """Alembic's usual environment would replace every handler of the process."""
    root = logging.getLogger()
    before = (list(root.handlers), root.level, logging.getLogger("alembic").level)
    database = Database(sqlite_url)
    database.migrate()
    database.close()
    assert (list(root.handlers), root.level, logging.getLogger("alembic").level) == before


def test_sqlite_is_configured_for_safety(sqlite_url: str) -> None:
    """WAL, full synchronisation, foreign keys and a wait for other writers on each connection."""
    database = Database(sqlite_url)
    with database.engine.connect() as connection:
        found = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 2000,
    }
    database.close()
