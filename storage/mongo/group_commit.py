"""Writes of single documents: those that come while others are on their way share a command.

A write that meets no other goes out at once, alone. While as many commands are under way as there
may be, what comes waits and goes out together when one of them has ended: nobody waits for a timer,
and the busier the node, the less a write costs it and the database, whose journal is flushed once
for all of them. Each write still is atomic by itself, and each caller is told of its own only.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from bson import ObjectId
from pymongo import ReturnDocument, UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError, DuplicateKeyError, WriteError

from hive.changes import Change
from hive.raw_json import RawJson
from storage.mongo.client import DUPLICATE_KEY, Document

COMMANDS_AT_ONCE: Final = 2
"""Commands under way at the same time."""
MOST_WRITES: Final = 64
MOST_BYTES: Final = 1024 * 1024
"""Of free-form values in one command: it has to end within the time of one operation."""
MARK: Final = "written"
MARKS_KEPT: Final = 4
"""More than the commands that can write a document until the first of them has read it again."""
SHOWN: Final = {"event": False}


@dataclass(eq=False, slots=True)
class _Write:
    """One write that waits. `query` names a document by `_id`, at one `version`."""

    query: Mapping[str, Any]
    pipeline: list[Document]
    upsert: bool
    weight: int
    done: asyncio.Future[Document | None]


class GroupCommit:
    """The writes of one collection on this node."""

    def __init__(self, collection: AsyncCollection[Document]) -> None:
        self._collection = collection
        self._waiting: list[_Write] = []
        self._under_way: set[asyncio.Task[None]] = set()

    async def write(
        self,
        query: Mapping[str, Any],
        pipeline: list[Document],
        *,
        upsert: bool = False,
        weight: int = 0,
    ) -> Document | None:
        """Carry out the update of the one document that the query names, by `_id` and `version`.

        The document after it, or None when it does not match. `weight` is in bytes. Raises what
        `find_one_and_update` raises.
        """
        done: asyncio.Future[Document | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Write(query, pipeline, upsert, weight, done))
        self._send()
        return await done

    def _send(self) -> None:
        while self._waiting and len(self._under_way) < COMMANDS_AT_ONCE:
            group = self._take()
            sending = asyncio.create_task(self._carry_out(group), name="group commit")
            self._under_way.add(sending)
            sending.add_done_callback(self._sent)

    def _sent(self, sending: asyncio.Task[None]) -> None:
        self._under_way.discard(sending)
        self._send()

    def _take(self) -> list[_Write]:
        """The first of those that wait, as many as a command may carry."""
        weights = accumulate(one.weight for one in self._waiting[:MOST_WRITES])
        most = max(1, bisect_right(list(weights), MOST_BYTES))
        group, self._waiting = self._waiting[:most], self._waiting[most:]
        return group

    async def _carry_out(self, group: Sequence[_Write]) -> None:
        try:
            if len(group) == 1:
                outcomes: Sequence[Document | Exception | None] = [await self._write_one(group[0])]
            else:
                outcomes = await self._write_all(group)
        except Exception as error:  # noqa: BLE001 - each caller is told
            outcomes = [error] * len(group)
        for one, outcome in zip(group, outcomes, strict=True):
            if one.done.done():
                continue
            if isinstance(outcome, Exception):
                one.done.set_exception(outcome)
            else:
                one.done.set_result(outcome)

    async def _write_one(self, one: _Write) -> Document | None:
        return await self._collection.find_one_and_update(
            one.query,
            one.pipeline,
            projection=SHOWN,
            upsert=one.upsert,
            return_document=ReturnDocument.AFTER,
        )

    async def _write_all(self, group: Sequence[_Write]) -> list[Document | Exception | None]:
        # Two writes of one document may be in the group; one of them matches.
        marks = [ObjectId() for _ in group]
        updates = [
            UpdateOne(dict(one.query), _marked(one.pipeline, mark), upsert=one.upsert)
            for one, mark in zip(group, marks, strict=True)
        ]
        failed: dict[int, Exception] = {}
        try:
            result = await self._collection.bulk_write(updates, ordered=False)
            done = result.matched_count + result.upserted_count
        except BulkWriteError as error:
            failed = _failures(error)
            done = error.details["nMatched"] + error.details["nUpserted"]
        names = [one.query["_id"] for one in group]
        found = self._collection.find({"_id": {"$in": names}}, SHOWN)
        documents = {document["_id"]: document async for document in found}
        if done == len(group):
            # What is newer by now was written on top of ours.
            return [documents.get(name) for name in names]
        return [
            failed.get(index) or _ours(documents.get(name), mark)
            for index, (name, mark) in enumerate(zip(names, marks, strict=True))
        ]


def _marked(pipeline: list[Document], mark: ObjectId) -> list[Document]:
    """The same update, which also notes whose it was."""
    marks = {"$concatArrays": [{"$ifNull": [f"${MARK}", []]}, [mark]]}
    return [*pipeline, {"$set": {MARK: {"$slice": [marks, -MARKS_KEPT]}}}]


def _ours(document: Document | None, mark: ObjectId) -> Document | None:
    """The document if this write has changed it."""
    return document if document is not None and mark in document.get(MARK, ()) else None


def _failures(error: BulkWriteError) -> dict[int, Exception]:
    """What each write failed of. Raises what concerns them all."""
    if error.details.get("writeConcernErrors"):
        raise error
    return {
        one["index"]: (DuplicateKeyError if one["code"] == DUPLICATE_KEY else WriteError)(
            one["errmsg"], one["code"], one
        )
        for one in error.details.get("writeErrors", ())
    }


def weight_of(change: Change) -> int:
    """The bytes of the free-form values that the change carries."""
    return sum(len(value.encoded) for value in change.fields.values() if isinstance(value, RawJson))
