"""The files behind artifacts in GridFS: `artifacts.files` and `artifacts.chunks`.

The layout is that of the GridFS specification. The order is not: the entry in `artifacts.files`
comes first, marked `pending`, so that whatever a kill leaves is found, and it goes last. A file is
there for readers as long as its task names it, and for no other reason.

    entry (pending) -> chunks -> named by the task -> told -> what it replaces is deleted -> settled

A pending file can still become named until its task was told of it, as long as the lease that it
was sent under is current, and never again afterwards: no clock is needed to know an orphan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bson.int64 import Int64
from pymongo import ASCENDING, IndexModel

from hive.leases import LeaseProof
from storage.mongo.client import Database, Document, guarded, make_indexes

CHUNK_BYTES: Final = 255 * 1024
"""As GridFS has it: with the rest of its document a chunk is just below 256 KiB."""
CHUNKS_AT_ONCE: Final = 4
FILES: Final = "artifacts.files"
CHUNKS: Final = "artifacts.chunks"
FILE_INDEXES: Final = (
    IndexModel([("metadata.task_id", ASCENDING)], name="task"),
    IndexModel(
        [("pending", ASCENDING), ("_id", ASCENDING)],
        name="pending",
        partialFilterExpression={"pending": True},
    ),
)
SHOWN: Final = {"pending": True, "told": True, "metadata": True}
WALK: Final = (("files_id", ASCENDING), ("n", ASCENDING))
CHUNK_INDEX: Final = IndexModel(WALK, name="files_id_1_n_1", unique=True)
PIECES_A_SWEEP: Final = 5_000
"""More than one file can have."""


class MongoArtifactFiles:
    """The port `hive.artifacts.ArtifactFiles`."""

    def __init__(self, database: Database) -> None:
        self._files = database[FILES]
        self._chunks = database[CHUNKS]
        self._tasks = database["tasks"]
        self._walked = ""

    async def prepare(self) -> None:
        """Make the indexes. Idempotent."""
        await make_indexes(self._files, FILE_INDEXES)
        await make_indexes(self._chunks, [CHUNK_INDEX])

    @guarded
    async def write(self, file_id: str, task_id: str, proof: LeaseProof, content: bytes) -> None:
        entry = {
            "pending": True,
            "length": Int64(len(content)),
            "chunkSize": CHUNK_BYTES,
            "uploadDate": "$$NOW",
            "metadata": {"task_id": task_id, "lease_id": proof.lease_id, "fence": proof.fence},
        }
        await self._files.update_one({"_id": file_id}, [{"$set": entry}], upsert=True)
        step = CHUNK_BYTES * CHUNKS_AT_ONCE
        for begin in range(0, len(content), step):
            await self._chunks.insert_many(
                [
                    {"files_id": file_id, "n": at // CHUNK_BYTES, "data": content[at:end]}
                    for at in range(begin, min(begin + step, len(content)), CHUNK_BYTES)
                    for end in [at + CHUNK_BYTES]
                ]
            )

    @guarded
    async def read(self, file_id: str, number: int) -> bytes | None:
        chunk = await self._chunks.find_one({"files_id": file_id, "n": number}, {"data": True})
        return None if chunk is None else bytes(chunk["data"])

    @guarded
    async def delete(self, file_id: str) -> None:
        await self._delete([file_id])

    @guarded
    async def settle(self, task_id: str, file_id: str) -> None:
        await self._settle(task_id, file_id)

    @guarded
    async def delete_of(self, task_ids: Sequence[str]) -> None:
        """Delete all files of these tasks. Idempotent."""
        found = self._files.find({"metadata.task_id": {"$in": list(task_ids)}}, {"_id": True})
        await self._delete([row["_id"] async for row in found])

    @guarded
    async def sweep(self, *, limit: int) -> int:
        """Settle every pending file that nobody settles any more; how many there were.

        They are looked at page by page, of `limit` each. What is left of files that were settled
        while they were still being written goes, too: a part of all pieces is looked at each time.
        """
        settled = 0
        place = ""
        while True:
            query = {"pending": True, "_id": {"$gt": place}}
            found = self._files.find(query, SHOWN).sort("_id", ASCENDING).limit(limit)
            page = [row async for row in found]
            for row in page:
                settled += await self._sweep_one(row)
            if len(page) < limit:
                return settled + await self._sweep_pieces()
            place = page[-1]["_id"]

    async def _sweep_pieces(self) -> int:
        """Delete pieces without an entry, which comes before them and goes after them."""
        shown = {"_id": False, "files_id": True}
        found = self._chunks.find({"files_id": {"$gt": self._walked}}, shown)
        page = [row["files_id"] async for row in found.sort(WALK).limit(PIECES_A_SWEEP)]
        file_ids = list(dict.fromkeys(page))
        self._walked = file_ids[-1] if len(page) == PIECES_A_SWEEP else ""
        known = self._files.find({"_id": {"$in": file_ids}}, {"_id": True})
        lost = set(file_ids) - {row["_id"] async for row in known}
        if lost:
            await self._chunks.delete_many({"files_id": {"$in": sorted(lost)}})
        return len(lost)

    async def _sweep_one(self, entry: Mapping[str, Any]) -> bool:
        task_id = entry["metadata"]["task_id"]
        task = await self._find_task(task_id)
        if _is_under_way(entry, task) and entry["_id"] not in _named(task):
            return False
        await self._settle(task_id, entry["_id"])
        return True

    async def _settle(self, task_id: str, file_id: str) -> None:
        # First of all: whoever replaces it from now on knows that nobody is about to name it.
        await self._files.update_one({"_id": file_id}, {"$set": {"told": True}})
        # Files before the task: one that was named when it was read, and is not now, is replaced.
        found = self._files.find({"metadata.task_id": task_id}, SHOWN)
        entries = [row async for row in found]
        task = await self._find_task(task_id)
        named = _named(task)
        await self._delete(
            [
                entry["_id"]
                for entry in entries
                if entry["_id"] not in named and not _is_under_way(entry, task)
            ]
        )
        # The mark goes last: until then the sweep comes back for what was not deleted.
        await self._files.update_one({"_id": file_id}, {"$unset": {"pending": ""}})

    async def _find_task(self, task_id: str) -> Mapping[str, Any] | None:
        shown = {"lease.lease_id": True, "lease.fence": True, "artifacts.file_id": True}
        return await self._tasks.find_one({"_id": task_id}, shown)

    async def _delete(self, file_ids: Sequence[str]) -> None:
        for file_id in file_ids:
            await self._chunks.delete_many({"files_id": file_id})
            await self._files.delete_one({"_id": file_id})


def _named(task: Mapping[str, Any] | None) -> set[str]:
    return {one["file_id"] for one in (task or {}).get("artifacts", ())}


def _is_under_way(entry: Mapping[str, Any], task: Mapping[str, Any] | None) -> bool:
    """Whether it may still become named: the task was not told of it, and its lease is current."""
    if not entry.get("pending", False) or entry.get("told", False):
        return False
    lease: Document = (task or {}).get("lease", {})
    sent_under = entry["metadata"]
    return (sent_under["lease_id"], sent_under["fence"]) == (
        lease.get("lease_id"),
        lease.get("fence"),
    )
