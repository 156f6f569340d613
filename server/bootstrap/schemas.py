"""The versions of both stores, for the command line."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from server.bootstrap.beside import reach_mongodb, reach_sql
from server.data_directory import DataDirectory
from server.settings import Settings
from storage.mongo.client import open_client, open_database, require_reachable
from storage.mongo.migrations import MongoSchema, describe
from storage.sql.database import Database


class Schemas:
    """What versions MongoDB and SQL have, and how they get the newest ones."""

    def __init__(self, mongo: MongoSchema, sql: Database) -> None:
        self._mongo = mongo
        self._sql = sql

    async def status(self) -> list[str]:
        """A line for each store and for each migration that is missing. Raises StoreRefused."""
        found = describe(await self._mongo.load())
        revision, newest = await asyncio.to_thread(self._sql.revisions)
        versions = f"version {found['version']}, newest {found['newest']}"
        return [
            f"MongoDB: {versions}, readable from version {found['readable_from']}",
            *(f"MongoDB: missing {step}" for step in found["missing"]),
            f"SQL: revision {revision or 'none'}, newest {newest}",
        ]

    async def migrate(self) -> None:
        """Carry out what is missing. Raises StoreRefused."""
        await self._mongo.migrate(uuid.uuid4().hex)
        await asyncio.to_thread(self._sql.migrate)


@asynccontextmanager
async def open_schemas(settings: Settings, directory: DataDirectory) -> AsyncIterator[Schemas]:
    """Both stores as they are. Raises DataDirectoryError, EmbeddedMongoError, Unavailable."""
    async with AsyncExitStack() as stack:
        sql = reach_sql(stack, settings, directory)
        uri = await stack.enter_async_context(reach_mongodb(settings, directory))
        client = open_client(uri)
        stack.push_async_callback(client.close)
        await require_reachable(client)
        yield Schemas(MongoSchema(open_database(client, settings.mongodb_database)), sql)
