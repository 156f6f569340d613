"""Messages to agents in MongoDB. A TTL index takes away what has expired, within a minute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pymongo import ASCENDING, IndexModel

from hive.changes import Actor, Change
from hive.messages import (
    MOST_WAITING,
    SUMMARY_FIELDS,
    MailboxFull,
    Message,
    MessageNotFound,
)
from hive.raw_json import RawJson
from storage.mongo.client import Database, Document, guarded, make_indexes
from storage.mongo.resources import Committed, Resources

COLLECTION: Final = "messages"
INDEXES: Final = (
    IndexModel(
        [("agent_id", ASCENDING), ("_id", ASCENDING)],
        name="waiting",
        partialFilterExpression={"acknowledged": False},
    ),
    IndexModel([("expires_at", ASCENDING)], name="expiry", expireAfterSeconds=0),
)
RETRY_SECONDS: Final = 5


class MongoMessages:
    """The port `hive.messages.Messages`."""

    def __init__(self, database: Database) -> None:
        self._resources: Resources[Message] = Resources(
            database[COLLECTION],
            identifier="message_id",
            summary=SUMMARY_FIELDS,
            read=_read,
            missing=MessageNotFound,
            alive={},
        )
        self._messages = self._resources.collection

    async def prepare(self) -> None:
        """Make the indexes. Idempotent."""
        await make_indexes(self._messages, INDEXES)

    def on_commit(self, callback: Committed) -> None:
        """Call back after each message sent by this node."""
        self._resources.on_commit(callback)

    @guarded
    async def send(self, message_id: str, change: Change, actor: Actor) -> Message:
        box = {"agent_id": change.fields["agent_id"], "acknowledged": False}
        if await self._messages.count_documents(box, limit=MOST_WAITING) >= MOST_WAITING:
            raise MailboxFull(retry_after_seconds=RETRY_SECONDS, agent_id=box["agent_id"])
        return await self._resources.insert(message_id, change, actor)

    @guarded
    async def waiting(self, agent_id: str, *, after: str | None, limit: int) -> Sequence[Message]:
        query: Document = {
            "agent_id": {"$eq": agent_id},
            "acknowledged": False,
            "$expr": {"$gt": ["$expires_at", "$$NOW"]},
        }
        if after is not None:
            query["_id"] = {"$gt": after}
        found = self._messages.find(query, {"event": False}).sort("_id", ASCENDING)
        return [_read(document) async for document in found.limit(limit)]

    @guarded
    async def acknowledge(self, agent_id: str, message_id: str) -> None:
        # Not visible to anybody but the agent: no event, no new version.
        taken = await self._messages.update_one(
            {"_id": message_id, "agent_id": agent_id},
            {"$set": {"acknowledged": True}, "$unset": {"data": ""}},
        )
        if not taken.matched_count:
            raise MessageNotFound


def _read(document: Mapping[str, Any]) -> Message:
    encoded = document.get("data")
    return Message(
        message_id=document["_id"],
        agent_id=document["agent_id"],
        sender=document["from"],
        version=document["version"],
        created_at=document["created_at"],
        expires_at=document["expires_at"],
        data=None if encoded is None else RawJson(bytes(encoded)),
    )
