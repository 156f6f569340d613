"""All documents of the database as one snapshot has them, and the way back into an empty one.

Documents travel as BSON, as they are. What means something only where it was made is left behind
when they are written again: the places in the change stream, and who carries out which duty.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import OperationFailure

from hive.store_schema import StoreRefused
from storage.mongo.client import Document, guarded, open_stream_client
from storage.mongo.leadership import EPOCH
from storage.mongo.migrations import SCHEMA, STORE

SOCKET_TIMEOUT_MS: Final = 60_000
SNAPSHOT_SECONDS: Final = 3600
SNAPSHOT_TOO_OLD: Final = 239
PASSING: Final = frozenset({"nodes"})
"""Collections of what is so now only."""
NO_PLACE: Final = {"_data": "82"}
"""A resume token that no server knows: the recorder answers it with `log.reset`."""
_RAW: Final = CodecOptions(document_class=RawBSONDocument)


def open_copy_client(uri: str) -> AsyncMongoClient[Document]:
    """A client whose operations may take a minute."""
    return open_stream_client(uri, socket_timeout_ms=SOCKET_TIMEOUT_MS)


class MongoBackup:
    """Reads and writes whole collections. `own` says that the server is ours to configure."""

    def __init__(self, client: AsyncMongoClient[Document], name: str, *, own: bool) -> None:
        self._client = client
        self._database = client.get_database(name)
        self._own = own

    async def read(self) -> AsyncIterator[tuple[str, AsyncIterator[bytes]]]:
        """Each collection with its documents, all of one point in time.

        Raises StoreRefused when the snapshot is gone before the end.
        """
        names = sorted(await self._names() - PASSING)
        if self._own:
            await self._keep_snapshots()
        async with self._client.start_session(snapshot=True) as session:
            for name in names:
                found = self._database.get_collection(name, codec_options=_RAW).find(
                    {}, session=session, sort=[("_id", 1)]
                )
                yield name, _documents(found)

    @guarded
    async def is_empty(self) -> bool:
        """Whether there is no document at all."""
        for name in await self._names():
            if await self._database[name].find_one({}, {"_id": True}) is not None:
                return False
        return True

    @guarded
    async def begin(self) -> None:
        """Mark the database: no node starts on it before `end`."""
        await self._database[SCHEMA].update_one(
            {"_id": STORE}, {"$currentDate": {"restoring_since": True}}, upsert=True
        )

    async def write(self, name: str, documents: Sequence[bytes]) -> None:
        """Put documents of a collection in, without what belongs to the place they come from."""
        if name == SCHEMA or not documents:
            return
        change = _LEFT_BEHIND.get(name)
        batch: Sequence[Any] = [
            RawBSONDocument(document) if change is None else change(bson.decode(document))
            for document in documents
        ]
        collection: AsyncCollection[Any] = self._database[name]
        await self._insert(collection, batch)

    @guarded
    async def end(self, schema: Sequence[bytes]) -> None:
        """Have the next recorder begin with `log.reset`, and take the mark away."""
        await self._database["leaders"].update_one(
            {"_id": "recorder"},
            {
                "$set": {"checkpoint": {"token": NO_PLACE}},
                "$setOnInsert": {"term": 0, "expires_at": EPOCH},
            },
            upsert=True,
        )
        kept = next((bson.decode(document) for document in schema), None)
        if kept is None:
            await self._database[SCHEMA].delete_one({"_id": STORE})
        else:
            await self._database[SCHEMA].replace_one({"_id": STORE}, kept)

    @guarded
    async def _insert(self, collection: AsyncCollection[Any], batch: Sequence[Any]) -> None:
        await collection.insert_many(batch, ordered=False)

    @guarded
    async def _names(self) -> set[str]:
        return {
            name
            for name in await self._database.list_collection_names()
            if not name.startswith("system.")
        }

    @guarded
    async def _keep_snapshots(self) -> None:
        await self._client.admin.command(
            {"setParameter": 1, "minSnapshotHistoryWindowInSeconds": SNAPSHOT_SECONDS}
        )


async def _documents(found: Any) -> AsyncIterator[bytes]:
    try:
        async for document in found:
            yield document.raw
    except OperationFailure as error:
        if error.code == SNAPSHOT_TOO_OLD:
            raise StoreRefused(
                "MongoDB did not keep the snapshot until the end of the backup: set its parameter "
                "minSnapshotHistoryWindowInSeconds to more than a backup takes."
            ) from error
        raise


def _without_place(event: Mapping[str, Any]) -> Document:
    return {name: value for name, value in event.items() if name != "token"}


def _without_holder(leader: Mapping[str, Any]) -> Document:
    kept = {name: value for name, value in leader.items() if name != "holder"}
    return {**kept, "expires_at": EPOCH}


_LEFT_BEHIND: Final = {"events": _without_place, "leaders": _without_holder}
