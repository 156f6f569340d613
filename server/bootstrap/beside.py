"""Reaches the stores from a command, beside a running server or while none does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from server.data_directory import DataDirectory, DataDirectoryError
from server.embedded import EmbeddedMongo
from server.settings import Settings
from storage.sql.database import Database


@asynccontextmanager
async def reach_mongodb(settings: Settings, directory: DataDirectory) -> AsyncIterator[str]:
    """The URI of MongoDB; the embedded one runs for the command, under the lock, if none does.

    Raises DataDirectoryError, EmbeddedMongoError.
    """
    async with AsyncExitStack() as stack:
        uri = settings.mongodb_uri.get_secret_value()
        if settings.embedded_mongodb:
            mongo = EmbeddedMongo(directory.mongo_path, directory.mongo_log_path)
            uri = mongo.uri
            if not directory.is_locked():
                stack.enter_context(directory)
                uri = await mongo.start()
                stack.push_async_callback(mongo.stop)
        yield uri


def reach_sql(stack: AsyncExitStack, settings: Settings, directory: DataDirectory) -> Database:
    """The SQL database as it is: nothing is migrated. Raises DataDirectoryError without one."""
    url = settings.sql_url.get_secret_value()
    if not (url or directory.sqlite_path.exists()):
        raise DataDirectoryError(f"{directory.path} has no data of a server.")
    database = Database(url or f"sqlite:///{directory.sqlite_path}")
    stack.callback(database.close)
    return database
