"""Schema migrations, run at every start. `env.py` and `versions/` are what Alembic expects."""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection

from hive.store_schema import StoreRefused

# Alembic keeps the running migration in a module of its own, so two at once in a process would mix.
_one_at_a_time = threading.Lock()


class UnknownSchemaError(StoreRefused):
    """The database was made by a newer release than this one."""


def upgrade(connection: Connection) -> None:
    """Bring the schema to the newest version inside the caller's transaction. Idempotent."""
    config = _config()
    config.attributes["connection"] = connection
    with _one_at_a_time:
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise UnknownSchemaError(
                f"The SQL database has a schema that this release does not know: {error}."
                " Start the release that made it, or a newer one."
            ) from error


def revisions(connection: Connection) -> tuple[str | None, str]:
    """The revision of the schema, None before the first one, and the newest revision."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    if newest is None:
        raise AssertionError("there are no migrations")
    return MigrationContext.configure(connection).get_current_revision(), newest


def _config() -> Config:
    config = Config()
    # The configuration interpolates "%", which a directory's name may contain.
    location = str(Path(__file__).parent).replace("%", "%%")
    config.set_main_option("script_location", location)
    config.set_main_option("path_separator", "os")
    return config
