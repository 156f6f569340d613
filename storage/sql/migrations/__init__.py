"""Schema migrations, run at every start. `env.py` and `versions/` are what Alembic expects."""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Connection

# Alembic keeps the running migration in a module of its own, so two at once in a process would mix.
_one_at_a_time = threading.Lock()


class UnknownSchemaError(RuntimeError):
    """The database was made by a newer release than this one."""


def upgrade(connection: Connection) -> None:
    """Bring the schema to the newest version inside the caller's transaction. Idempotent."""
    config = Config()
    # The configuration interpolates "%", which a directory's name may contain.
    location = str(Path(__file__).parent).replace("%", "%%")
    config.set_main_option("script_location", location)
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    with _one_at_a_time:
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise UnknownSchemaError(
                f"The SQL database has a schema that this release does not know: {error}."
                " Start the release that made it, or a newer one."
            ) from error
