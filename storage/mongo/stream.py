"""The change stream: the events of all resources in the order in which a majority committed them.

One stream over the whole database (a stream a collection would lose the order between
collections), projected to the event. The commands are sent as they are: `postBatchResumeToken` and
whole batches are what the recorder needs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import OperationFailure

from hive.duty_ports import HistoryLost, Recorded
from storage.mongo.client import STREAM_WAIT_MS, Database, Document, guarded

COLLECTIONS = ("agents", "tasks")
BATCH = 1000
RECONCILE_BATCH = 500
HISTORY_LOST_CODES = frozenset({136, 222, 260, 280, 286})
"""CappedPositionLost, CloseChangeStream, InvalidResumeToken, and the fatal ones."""

_EVENT_OF_UPDATE = {
    "$filter": {
        "input": {"$objectToArray": {"$ifNull": ["$updateDescription.updatedFields", {}]}},
        "cond": {"$regexMatch": {"input": "$$this.k", "regex": "^event(\\.|$)"}},
    }
}
PIPELINE: list[Document] = [
    {
        "$match": {
            "ns.coll": {"$in": list(COLLECTIONS)},
            "operationType": {"$in": ["insert", "update", "replace"]},
        }
    },
    {
        "$project": {
            "made": "$fullDocument.event",
            "changed": _EVENT_OF_UPDATE,
        }
    },
    {"$match": {"$or": [{"made": {"$exists": True}}, {"changed.0": {"$exists": True}}]}},
]


class MongoChangeStream:
    """The port `hive.duty_ports.ChangeStream`, over one server-side cursor in one session."""

    def __init__(self, database: Database, session: AsyncClientSession) -> None:
        self._database = database
        self._session = session
        self._cursor: Mapping[str, Any] | None = None
        self._token: Mapping[str, Any] | None = None

    @property
    def token(self) -> Mapping[str, Any] | None:
        return self._token

    @guarded
    async def start(self, token: Mapping[str, Any] | None) -> None:
        """Open the cursor. Raises HistoryLost."""
        options = {} if token is None else {"resumeAfter": token}
        self._cursor = await self._run(
            {
                "aggregate": 1,
                "pipeline": [{"$changeStream": options}, *PIPELINE],
                "cursor": {"batchSize": 0},
                "readConcern": {"level": "majority"},
            }
        )
        self._token = self._cursor.get("postBatchResumeToken", token)

    @guarded
    async def next_batch(self) -> Sequence[Recorded]:
        if self._cursor is None:
            raise AssertionError("the stream was not started")
        if self._cursor["id"] == 0:
            raise HistoryLost("the change stream was closed by the server")
        self._cursor = await self._run(
            {
                "getMore": self._cursor["id"],
                "collection": "$cmd.aggregate",
                "batchSize": BATCH,
                "maxTimeMS": STREAM_WAIT_MS,
            }
        )
        batch = [_recorded(change) for change in self._cursor["nextBatch"]]
        self._token = self._cursor.get("postBatchResumeToken", self._token)
        return batch

    async def stop(self) -> None:
        """Close the cursor on the server, as far as that is reachable."""
        if self._cursor is not None and self._cursor["id"] != 0:
            await self._database.command(
                {"killCursors": "$cmd.aggregate", "cursors": [self._cursor["id"]]},
                session=self._session,
            )

    async def _run(self, command: Document) -> Mapping[str, Any]:
        try:
            # A command does not take the database's options by itself: times would come naive.
            reply = await self._database.command(
                command, session=self._session, codec_options=self._database.codec_options
            )
        except OperationFailure as error:
            if error.code in HISTORY_LOST_CODES or error.has_error_label(
                "NonResumableChangeStreamError"
            ):
                raise HistoryLost(str(error)[:500]) from error
            raise
        cursor: Mapping[str, Any] = reply["cursor"]
        return cursor


class MongoChangeFeed:
    """The port `hive.duty_ports.ChangeFeed`."""

    def __init__(self, stream_database: Database, database: Database) -> None:
        self._stream_database = stream_database
        self._database = database

    @asynccontextmanager
    async def open(self, token: Mapping[str, Any] | None) -> AsyncIterator[MongoChangeStream]:
        async with self._stream_database.client.start_session() as session:
            stream = MongoChangeStream(self._stream_database, session)
            await stream.start(token)
            try:
                yield stream
            finally:
                await _quietly(stream)

    async def unrecorded(self) -> AsyncIterator[Recorded]:
        for name in COLLECTIONS:
            batch: list[Document] = []
            found = self._database[name].find({}, {"event": True, "version": True}).sort("_id", 1)
            async for document in found:
                batch.append(document)
                if len(batch) == RECONCILE_BATCH:
                    for recorded in await self._newer(batch):
                        yield recorded
                    batch = []
            for recorded in await self._newer(batch):
                yield recorded

    async def _newer(self, documents: Sequence[Document]) -> list[Recorded]:
        subjects = [document["_id"] for document in documents]
        cursor = await self._database["events"].aggregate(
            [
                {"$match": {"subject": {"$in": subjects}}},
                {"$group": {"_id": "$subject", "version": {"$max": "$version"}}},
            ]
        )
        known = {row["_id"]: row["version"] async for row in cursor}
        return [
            _read(next(iter(document["event"].values())), None)
            for document in documents
            if document["version"] > known.get(document["_id"], 0)
        ]


async def _quietly(stream: MongoChangeStream) -> None:
    try:
        await stream.stop()
    except Exception:  # noqa: BLE001 - the server drops an idle cursor by itself
        return


def _recorded(change: Mapping[str, Any]) -> Recorded:
    made = change.get("made")
    # An insert has the whole document; an update names the field as `event` or as `event.v7`.
    event = made if made is not None else change["changed"][0]["v"]
    return _read(event if "subject" in event else next(iter(event.values())), change["_id"])


def _read(event: Mapping[str, Any], token: Mapping[str, Any] | None) -> Recorded:
    return Recorded(
        id=event["id"],
        type=event["type"],
        subject=event["subject"],
        time=event["time"],
        version=event["version"],
        data=event["data"],
        actor=event.get("actor"),
        request_id=event.get("request_id"),
        token=token,
    )
