"""The change stream: the events of all resources in the order in which a majority committed them.

One stream over the whole database (a stream a collection would lose the order between
collections), projected to the event. The commands are sent as they are: `postBatchResumeToken` and
whole batches are what the recorder needs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from bson.timestamp import Timestamp
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import OperationFailure

from hive.duty_ports import HistoryLost, Recorded
from hive.errors import Unavailable
from storage.mongo.client import STREAM_WAIT_MS, Database, Document, guarded
from storage.mongo.notices import NOTICES

RESOURCES = ("agents", "tasks", "schedules", "hive", "messages")
COLLECTIONS = (*RESOURCES, NOTICES)
BATCH = 1000
RECONCILE_BATCH = 500
HISTORY_LOST_CODES = frozenset({136, 222, 260, 280, 286})
"""CappedPositionLost, CloseChangeStream, InvalidResumeToken, and the fatal ones."""
BAD_TOKEN_CODES = frozenset({9, 15, 40647, 40648, 40649, 50811})
"""What the server says to a token that is none of its own: FailedToParse, Overflow ..."""
CURSOR_NOT_FOUND = 43

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

    @guarded
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
            lost = error.code in HISTORY_LOST_CODES or (
                error.code in BAD_TOKEN_CODES and "aggregate" in command
            )
            if lost or error.has_error_label("NonResumableChangeStreamError"):
                raise HistoryLost(str(error)[:500]) from error
            if error.code == CURSOR_NOT_FOUND:
                # The server was started again: it knows the token, but not the cursor.
                raise Unavailable(store="mongodb", cause=str(error)[:500]) from error
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

    async def unrecorded(self, at: Mapping[str, Any]) -> AsyncIterator[Sequence[Recorded]]:
        before = _time_before(at)
        for name in RESOURCES:
            async for page in self._pages(name, "_id", before):
                yield await self._newer(page)
        async for page in self._pages(NOTICES, "version", before):
            yield await self._unknown(page)

    async def _pages(
        self, name: str, order: str, at: Timestamp
    ) -> AsyncIterator[Sequence[Document]]:
        wanted: Document = {}
        while page := await self._page(name, wanted, order, at):
            yield page
            wanted = {order: {"$gt": page[-1][order]}}

    @guarded
    async def _page(
        self, name: str, wanted: Document, order: str, at: Timestamp
    ) -> Sequence[Document]:
        reply = await self._database.command(
            {
                "find": name,
                "filter": wanted,
                "projection": {"event": True, "version": True},
                "sort": {order: 1},
                "limit": RECONCILE_BATCH,
                "batchSize": RECONCILE_BATCH,
                "singleBatch": True,
                "readConcern": {"level": "snapshot", "atClusterTime": at},
            },
            codec_options=self._database.codec_options,
        )
        page: Sequence[Document] = reply["cursor"]["firstBatch"]
        return page

    @guarded
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
            _read(_whole(document["event"]), None)
            for document in documents
            if document["version"] > known.get(document["_id"], 0)
        ]

    @guarded
    async def _unknown(self, notices: Sequence[Document]) -> list[Recorded]:
        cursor = self._database["events"].find(
            {"id": {"$in": [notice["_id"] for notice in notices]}}, {"_id": False, "id": True}
        )
        known = {event["id"] async for event in cursor}
        return [
            _read(_whole(notice["event"]), None) for notice in notices if notice["_id"] not in known
        ]


def _time_before(token: Mapping[str, Any]) -> Timestamp:
    """The last cluster time before the token: `_data` is 82, then seconds and counter in hex."""
    data = str(token["_data"])
    seconds, counter = int(data[2:10], 16), int(data[10:18], 16)
    return Timestamp(seconds, counter - 1) if counter else Timestamp(seconds - 1, 0xFFFFFFFF)


async def _quietly(stream: MongoChangeStream) -> None:
    try:
        await stream.stop()
    except Exception:  # noqa: BLE001 - the server drops an idle cursor by itself
        return


def _recorded(change: Mapping[str, Any]) -> Recorded:
    made = change.get("made")
    # An insert has the whole document; an update names the field as `event` or as `event.v7`.
    event = made if made is not None else change["changed"][0]["v"]
    return _read(_whole(event), change["_id"])


def _whole(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """The event, which resources keep under a key named by the version, and notices as it is."""
    whole: Mapping[str, Any] = event if "subject" in event else next(iter(event.values()))
    return whole


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
        call_id=event.get("call_id"),
        owner=event.get("owner"),
    )
