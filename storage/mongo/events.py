"""The event log in MongoDB: `_id` is `seq`, so that two recorders can't write the same place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import BulkWriteError

from hive.duty_ports import LogTail, Recorded, SeqTaken
from hive.errors import LogTrimmed
from hive.events import PRIVATE_NOUNS, Audience, Event
from hive.ports import EventFilter
from storage.mongo.client import DUPLICATE_KEY, Database, Document, guarded, make_indexes

INDEXES = (
    IndexModel([("id", ASCENDING)], name="id_unique", unique=True),
    IndexModel([("subject", ASCENDING), ("_id", ASCENDING)], name="subject"),
    IndexModel([("type", ASCENDING), ("_id", ASCENDING)], name="type"),
)
# Which fields to leave out: no secret.
_HIDDEN = {"token": False, "request_id": False, "call_id": False, "version": False}  # nosec B105


class MongoEventLog:
    """The ports `hive.ports.EventLog` and `hive.duty_ports.LogWriter`."""

    def __init__(self, database: Database) -> None:
        self._events = database["events"]
        self._leaders = database["leaders"]

    async def prepare(self) -> None:
        """Make the indexes. Idempotent."""
        await make_indexes(self._events, INDEXES)

    @guarded
    async def read(
        self, wanted: EventFilter, *, after: int, limit: int, newest_first: bool = False
    ) -> Sequence[Event]:
        query: Document = {}
        if not newest_first:
            query["_id"] = {"$gt": after}
        elif after:
            query["_id"] = {"$lt": after}
        if wanted.subject is not None:
            query["subject"] = {"$eq": wanted.subject}
        if wanted.pattern is not None and wanted.pattern != "*":
            query["type"] = _type_query(wanted.pattern)
        if not wanted.audience.sees_all:
            query["$or"] = _visible_to(wanted.audience)
        direction = DESCENDING if newest_first else ASCENDING
        cursor = self._events.find(query, _HIDDEN).sort("_id", direction).limit(limit)
        found = [_read(document) async for document in cursor]
        if not newest_first:
            # Asked last: what retention took while we read must not be passed over in silence.
            await self._require_kept(after)
        return found

    @guarded
    async def tail(self) -> int:
        return await self._end(DESCENDING)

    @guarded
    async def oldest(self) -> int:
        return await self._end(ASCENDING)

    @guarded
    async def recorder(self) -> str | None:
        leader = await self._leaders.find_one(
            {"_id": "recorder", "$expr": {"$gt": ["$expires_at", "$$NOW"]}}
        )
        return None if leader is None else leader["holder"]

    @guarded
    async def read_tail(self) -> LogTail:
        fields = {"token": True}  # nosec B105
        newest = await self._events.find_one({}, fields, sort=[("_id", DESCENDING)])
        if newest is None:
            return LogTail(0, None)
        return LogTail(newest["_id"], newest.get("token"))

    @guarded
    async def append(self, after: int, entries: Sequence[Recorded]) -> Sequence[Event]:
        written: list[Document] = []
        left = list(entries)
        while left:
            start = after + len(written) + 1
            documents = [_document(seq, entry) for seq, entry in enumerate(left, start)]
            try:
                await self._events.insert_many(documents, ordered=True)
            except BulkWriteError as error:
                failed = _known_entry(error)
                written += documents[:failed]
                left = left[failed + 1 :]
            else:
                written += documents
                break
        return [_read(document) for document in written]

    @guarded
    async def trim(self, older_than_days: float, *, at_most: int) -> int:
        bound = min(await self._end(DESCENDING), await self._end(ASCENDING) + at_most)
        limit = {"$subtract": ["$$NOW", round(older_than_days * 86_400_000)]}
        young = await self._events.find_one(
            {"_id": {"$lt": bound}, "$expr": {"$gte": ["$time", limit]}},
            {"_id": True},
            sort=[("_id", ASCENDING)],
        )
        # By `seq`, up to the first young one: what is left has no hole.
        first_kept = young["_id"] if young else bound
        return (await self._events.delete_many({"_id": {"$lt": first_kept}})).deleted_count

    async def _require_kept(self, after: int) -> None:
        if after <= 0:
            return
        if await self._events.find_one({"_id": {"$in": [after, after + 1]}}, {"_id": True}):
            return
        oldest = await self._end(ASCENDING)
        if after + 1 < oldest:
            raise LogTrimmed(f"The log starts at seq {oldest}.", after=after)

    async def _end(self, direction: int) -> int:
        found = await self._events.find_one({}, {"_id": True}, sort=[("_id", direction)])
        return found["_id"] if found else 0


def _known_entry(error: BulkWriteError) -> int:
    """The index of an entry that is in the log already.

    Raises SeqTaken when it is the place that is taken, and other errors as they are.
    """
    failures = error.details.get("writeErrors") or [{}]
    if failures[0].get("code") != DUPLICATE_KEY:
        raise error
    if "id" not in failures[0].get("keyPattern", {}):
        raise SeqTaken from error
    index: int = failures[0]["index"]
    return index


def _type_query(pattern: str) -> Mapping[str, Any]:
    if not pattern.endswith(".*"):
        return {"$eq": pattern}
    # `task.*` as a range of the index: '/' follows '.'.
    return {"$gte": pattern[:-1], "$lt": pattern[:-2] + "/"}


def _visible_to(audience: Audience) -> Sequence[Document]:
    public = {"$nor": [{"type": _type_query(f"{noun}.*")} for noun in sorted(PRIVATE_NOUNS)]}
    if audience.principal_id is None:
        return [public]
    return [public, {"owner": {"$eq": audience.principal_id}}]


def _document(seq: int, entry: Recorded) -> Document:
    document: Document = {
        "_id": seq,
        "id": entry.id,
        "type": entry.type,
        "subject": entry.subject,
        "time": entry.time,
        "version": entry.version,
        "data": entry.data,
    }
    for name in ("actor", "request_id", "call_id", "owner", "token"):
        value = getattr(entry, name)
        if value is not None:
            document[name] = value
    return document


def _read(document: Mapping[str, Any]) -> Event:
    return Event(
        seq=document["_id"],
        id=document["id"],
        type=document["type"],
        subject=document["subject"],
        time=document["time"],
        data=document["data"],
        actor=document.get("actor"),
        owner=document.get("owner"),
    )
