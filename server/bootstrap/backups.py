"""Makes a backup of both stores, and reads one into stores that are empty.

Order: SQL is read first, then MongoDB. What SQL announces reaches MongoDB later and at least once,
so an older SQL repeats an announcement that the log knows; and the signed points of the audit log,
which are in SQL, must not be ahead of its records.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import itertools
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from hive.store_schema import StoreSchema, check_readable
from server.backup import (
    MONGODB,
    SECRET,
    SQL,
    BackupError,
    BackupReader,
    BackupWriter,
    Manifest,
    read_backup,
    split_documents,
)
from server.bootstrap.beside import reach_mongodb, reach_sql
from server.bootstrap.stores import open_sql
from server.data_directory import DataDirectory
from server.embedded import EmbeddedMongo
from server.settings import Settings
from storage.mongo.backup import MongoBackup, open_copy_client
from storage.mongo.client import open_client, open_database, require_reachable
from storage.mongo.migrations import MIGRATIONS, SCHEMA, MongoSchema
from storage.sql.backup import SqlBackup

BATCH_BYTES = 8_388_608


async def create_backup(settings: Settings, directory: DataDirectory, path: Path) -> Manifest:
    """Write both stores to a new file, beside a running server or without one.

    Raises BackupError, DataDirectoryError, EmbeddedMongoError, StoreRefused, Unavailable.
    """
    async with AsyncExitStack() as stack:
        database = reach_sql(stack, settings, directory)
        uri = await stack.enter_async_context(reach_mongodb(settings, directory))
        mongo = await _open_mongo(stack, settings, uri)
        client = open_client(uri)
        stack.push_async_callback(client.close)
        schema = await MongoSchema(open_database(client, settings.mongodb_database)).check()
        revision, _ = await asyncio.to_thread(database.revisions)
        writer = stack.enter_context(BackupWriter(path))

        def add(table: str, lines: Iterable[bytes]) -> None:
            writer.add(f"{SQL}{table}.jsonl", lines)

        await asyncio.to_thread(SqlBackup(database).read, add)
        async for name, documents in mongo.read():
            with writer.member(f"{MONGODB}{name}.bson") as file:
                async for document in documents:
                    file.write(document)
        secret = directory.find_secret_key()
        if secret is not None and not settings.secret_key.get_secret_value():
            writer.add(SECRET, [secret.encode()])
        manifest = Manifest(
            importlib.metadata.version("agentzero-api"),
            datetime.now(UTC).isoformat(timespec="seconds"),
            {**asdict(schema), "database": settings.mongodb_database},
            revision or "",
        )
        await asyncio.to_thread(writer.finish, manifest)
        return manifest


async def restore_backup(settings: Settings, directory: DataDirectory, path: Path) -> Manifest:
    """Read a backup into stores that are empty, under the lock of the data directory.

    Raises BackupError, DataDirectoryError, EmbeddedMongoError, StoreRefused, Unavailable.
    """
    backup = await asyncio.to_thread(read_backup, path)
    manifest = backup.manifest
    schema = StoreSchema(manifest.mongodb["version"], manifest.mongodb["readable_from"])
    check_readable(schema, MIGRATIONS[-1].version)
    if directory.find_secret_key() is not None:
        raise BackupError(f"{directory.path} is in use: restore into a new directory.")
    async with AsyncExitStack() as stack:
        stack.enter_context(directory)
        uri = settings.mongodb_uri.get_secret_value()
        if settings.embedded_mongodb:
            embedded = EmbeddedMongo(directory.mongo_path, directory.mongo_log_path)
            uri = await embedded.start()
            stack.push_async_callback(embedded.stop)
        mongo = await _open_mongo(stack, settings, uri)
        database = await open_sql(stack, settings, directory)
        revision, _ = await asyncio.to_thread(database.revisions)
        if revision != manifest.sql_revision:
            raise BackupError(
                f"The backup has the SQL revision {manifest.sql_revision}, this release has "
                f"{revision}: restore it with release {manifest.release}, then upgrade."
            )
        sql = SqlBackup(database)
        if not await mongo.is_empty() or not await asyncio.to_thread(sql.is_empty):
            raise BackupError("There is a hive already: restore into empty databases.")
        await mongo.begin()
        await asyncio.to_thread(sql.write, lambda table: _lines(backup, table))
        await _restore_documents(backup, mongo, settings, directory)
        return manifest


async def _restore_documents(
    backup: BackupReader, mongo: MongoBackup, settings: Settings, directory: DataDirectory
) -> None:
    schema: list[bytes] = []
    for name, file in backup.members():
        if name == SECRET:
            if not settings.secret_key.get_secret_value():
                directory.keep_secret_key(file.read().decode())
        elif name.startswith(MONGODB):
            collection = name.removeprefix(MONGODB).removesuffix(".bson")
            for batch in split_documents(file, BATCH_BYTES):
                if collection == SCHEMA:
                    schema += batch
                await mongo.write(collection, batch)
    # Last: until then no node starts on what is there.
    await mongo.end(schema)


def _lines(backup: BackupReader, table: str) -> Iterator[bytes]:
    wanted = f"{SQL}{table}.jsonl"
    files: Iterator[IO[bytes]] = (file for name, file in backup.members() if name == wanted)
    return itertools.chain.from_iterable(itertools.islice(files, 1))


async def _open_mongo(stack: AsyncExitStack, settings: Settings, uri: str) -> MongoBackup:
    client = open_copy_client(uri)
    stack.push_async_callback(client.close)
    await require_reachable(client)
    return MongoBackup(client, settings.mongodb_database, own=settings.embedded_mongodb)
