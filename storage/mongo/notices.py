"""Events of what another database changed, on their way into the log.

A notice is one document that carries an event as the resources do: its insert is what the change
stream shows. It stays until its event is in the log, so that lost history can be made good.
"""

from __future__ import annotations

from typing import Final

from pymongo import ASCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from hive.duty_ports import Recorded
from storage.mongo.client import Database, Document, guarded, make_indexes

NOTICES: Final = "notices"
INDEXES: Final = (IndexModel([("version", ASCENDING)], name="version", unique=True),)


class MongoNotices:
    """The port `hive.duty_ports.Notices`: `_id` is the event's, `version` the order."""

    def __init__(self, database: Database) -> None:
        self._notices = database[NOTICES]
        self._events = database["events"]

    async def prepare(self) -> None:
        """Make the indexes. Idempotent."""
        await make_indexes(self._notices, INDEXES)

    @guarded
    async def put(self, entry: Recorded) -> None:
        try:
            await self._notices.insert_one(_document(entry))
        except DuplicateKeyError as error:
            if "_id" not in (error.details or {}).get("keyPattern", {}):
                raise

    @guarded
    async def clear(self, *, limit: int) -> bool:
        cursor = self._notices.find({}, {"_id": True}).sort("version", ASCENDING).limit(limit)
        oldest = [document["_id"] async for document in cursor]
        if not oldest:
            return False
        found = self._events.find({"id": {"$in": oldest}}, {"_id": False, "id": True})
        in_log = [event["id"] async for event in found]
        if in_log:
            await self._notices.delete_many({"_id": {"$in": in_log}})
        return len(in_log) < len(oldest) or len(oldest) == limit


def _document(entry: Recorded) -> Document:
    event: Document = {
        "id": entry.id,
        "type": entry.type,
        "subject": entry.subject,
        "time": entry.time,
        "version": entry.version,
        "data": dict(entry.data),
    }
    for name in ("actor", "request_id", "call_id", "owner"):
        value = getattr(entry, name)
        if value is not None:
            event[name] = value
    return {"_id": entry.id, "version": entry.version, "event": event}
