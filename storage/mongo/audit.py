"""The audit log in MongoDB: `_id` is (boot, n), so that a write can be repeated under its place.

`_id` and the other fields of a document together are the record: whatever else stands in a document
breaks its hash.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from bson.max_key import MaxKey
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import WriteError

from hive.audit import AuditRecordNotFound, ChainPoint, Record, first_id_at
from hive.audit_ports import Acted, AuditFilter, Boot, RecordExists
from hive.errors import Unavailable
from storage.mongo.client import DUPLICATE_KEY, Database, Document, guarded, make_indexes

PAGE = 500
_IN_ORDER = [("_id", ASCENDING)]
# Documents are compared by the type of their first field, then by its name, then by its value.
_BEHIND_ALL = {"boot\x01": ""}
INDEXES = (
    IndexModel([("record_id", ASCENDING)], name="record_id_unique", unique=True),
    *(
        IndexModel(
            [(name, ASCENDING), ("record_id", ASCENDING)],
            name=f"{name}_present",
            partialFilterExpression={name: {"$exists": True}},
        )
        for name in ("actor", "operation", "resource")
    ),
    # Nearly all succeed; a filter for those walks along the identifiers.
    IndexModel(
        [("outcome", ASCENDING), ("record_id", ASCENDING)],
        name="not_success",
        partialFilterExpression={"outcome": {"$lt": "success"}},
    ),
)


class MongoAudit:
    """The ports `AuditReader`, `AuditLog` and `AuditChains` of `hive.audit_ports`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._audit = database["audit"]
        self._boots = database["audit_boots"]
        self._events = database["events"]

    async def prepare(self) -> None:
        """Make the indexes. Idempotent."""
        await make_indexes(self._audit, INDEXES)

    # AuditReader

    @guarded
    async def get(self, record_id: str) -> Record:
        found = await self._audit.find_one({"record_id": {"$eq": record_id}})
        if found is None:
            raise AuditRecordNotFound(record_id=record_id)
        return _record(found)

    @guarded
    async def list(
        self, wanted: AuditFilter, *, before: str | None, limit: int
    ) -> Sequence[Record]:
        query = _query(wanted)
        if before is not None:
            bounds = query.setdefault("record_id", {})
            bounds["$lt"] = min(before, bounds.get("$lt", before))
        cursor = self._audit.find(query).sort("record_id", DESCENDING).limit(limit)
        return [_record(document) async for document in cursor]

    @guarded
    async def export(
        self, wanted: AuditFilter, *, after: tuple[str, int] | None, limit: int
    ) -> Sequence[Record]:
        query = _query(wanted)
        if after is not None:
            query["_id"] = {"$gt": _place(*after)}
        cursor = self._audit.find(query).sort("_id", ASCENDING).limit(limit)
        return [_record(document) async for document in cursor]

    # AuditLog

    @guarded
    async def open_boot(self, boot: str, node_id: str) -> None:
        await self._boots.update_one(
            {"_id": boot},
            [{"$set": {"node_id": {"$literal": node_id}, "started_at": "$$NOW"}}],
            upsert=True,
        )

    @guarded
    async def touch_boot(self, boot: str) -> None:
        await self._boots.update_one({"_id": boot}, [{"$set": {"seen_at": "$$NOW"}}])

    @guarded
    async def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        documents = [_document(record) for record in records]
        start = 0
        while start < len(documents):
            # As a command: `insert_many` costs three times as much a document.
            reply = await self._database.command(
                {
                    "insert": self._audit.name,
                    "documents": documents[start:],
                    "ordered": True,
                    "writeConcern": {"w": "majority", "j": True},
                }
            )
            if "writeConcernError" in reply:
                raise Unavailable(store="mongodb", cause=str(reply["writeConcernError"])[:500])
            if not reply.get("writeErrors"):
                return
            failed = start + _duplicate(reply["writeErrors"][0])
            # In its own place it is ours: an earlier try, of which we did not hear, put it in.
            if not await self._holds(documents[failed]):
                raise RecordExists(failed)
            start = failed + 1

    @guarded
    async def missing(self, record_ids: Sequence[str]) -> set[str]:
        cursor = self._audit.find({"record_id": {"$in": list(record_ids)}}, {"record_id": True})
        return set(record_ids) - {document["record_id"] async for document in cursor}

    @guarded
    async def acted(self, after: int, limit: int) -> Sequence[Acted]:
        age = {"$divide": [{"$subtract": ["$$NOW", "$time"]}, 1000]}
        projection = dict.fromkeys(("call_id", "type", "subject", "actor", "request_id"), True)
        cursor = (
            self._events.find({"_id": {"$gt": after}}, {**projection, "age": age})
            .sort("_id", ASCENDING)
            .limit(limit)
        )
        return [
            Acted(
                seq=event["_id"],
                call_id=event.get("call_id"),
                event=event["type"],
                subject=event["subject"],
                actor=event.get("actor"),
                request_id=event.get("request_id"),
                age_seconds=event["age"],
            )
            async for event in cursor
        ]

    # AuditChains

    @guarded
    async def stray(self) -> str | None:
        # Looks along the index of `_id`, at what sorts before and behind the chains.
        outside: list[Document] = [
            {"_id": {"$not": {"$gte": {}}}},
            {"_id": {"$gte": {}, "$lt": {"boot": ""}}},
            {"_id": {"$gte": _BEHIND_ALL}},
        ]
        for query in outside:
            found = await self._audit.find_one(query, {"_id": True})
            if found is not None:
                return repr(found["_id"])[:200]
        return None

    async def boots(self) -> Sequence[Boot]:
        noted = {boot.boot: boot for boot in await self._noted()}
        for boot in await self._with_records():
            noted.setdefault(boot, Boot(boot, None, None))
        return [noted[boot] for boot in sorted(noted)]

    @guarded
    async def find_boot(self, boot: str) -> Boot | None:
        found = await self._boots.find_one({"_id": boot})
        return None if found is None else _boot(found)

    async def records(self, boot: str, *, after: int = 0) -> AsyncIterator[Record]:
        while page := await self.block(boot, after, PAGE):
            for record in page:
                yield record
            after = page[-1]["n"]

    @guarded
    async def block(self, boot: str, after: int, limit: int) -> Sequence[Record]:
        cursor = self._audit.find({"_id": _behind(boot, after)}).sort("_id", ASCENDING).limit(limit)
        return [_record(document) async for document in cursor]

    @guarded
    async def last(self, boot: str) -> Record | None:
        found = await self._audit.find_one({"_id": _behind(boot, 0)}, sort=[("_id", DESCENDING)])
        return None if found is None else _record(found)

    @guarded
    async def trim(self, start: ChainPoint) -> None:
        point = {
            "n": start.n,
            "hash": start.hash,
            "signed_at": start.signed_at,
            "signature": start.signature,
        }
        await self._boots.update_one({"_id": start.boot}, {"$set": {"start": point}}, upsert=True)
        await self._audit.delete_many(
            {"_id": {"$gte": _place(start.boot, 0), "$lte": _place(start.boot, start.n)}}
        )

    @guarded
    async def forget_boot(self, boot: str) -> None:
        await self._boots.delete_one({"_id": boot})

    @guarded
    async def _noted(self) -> Sequence[Boot]:
        return [_boot(document) async for document in self._boots.find().sort("_id", ASCENDING)]

    @guarded
    async def _with_records(self) -> Sequence[str]:
        found: list[str] = []
        bounds: Document = {"$gte": {"boot": ""}, "$lt": _BEHIND_ALL}
        # From the first record of one chain to that of the next: a look for each, not for all.
        while document := await self._audit.find_one(
            {"_id": bounds}, {"_id": True}, sort=_IN_ORDER
        ):
            found.append(document["_id"]["boot"])
            bounds = {"$gt": {"boot": found[-1], "n": MaxKey()}, "$lt": _BEHIND_ALL}
        return found

    async def _holds(self, document: Document) -> bool:
        found = await self._audit.find_one({"_id": document["_id"]}, {"hash": True})
        return found is not None and found.get("hash") == document["hash"]


def _place(boot: str, n: int) -> Document:
    return {"boot": boot, "n": n}


def _behind(boot: str, n: int) -> Document:
    # Also what is no number: it must not hide from verification.
    lower = {"$gt": _place(boot, n)} if n else {"$gte": {"boot": boot}}
    return {**lower, "$lte": {"boot": boot, "n": MaxKey()}}


def _query(wanted: AuditFilter) -> Document:
    named = {
        "actor": wanted.actor,
        "operation": wanted.operation,
        "outcome": wanted.outcome and wanted.outcome.value,
        "resource": wanted.resource,
    }
    query: Document = {name: {"$eq": value} for name, value in named.items() if value is not None}
    # Identifiers begin with the time.
    if wanted.since is not None:
        query.setdefault("record_id", {})["$gte"] = first_id_at(_ms(wanted.since.timestamp()))
    if wanted.until is not None:
        query.setdefault("record_id", {})["$lt"] = first_id_at(_ms(wanted.until.timestamp()))
    return query


def _ms(seconds: float) -> int:
    return -int(-seconds * 1000 // 1)


def _document(record: Mapping[str, Any]) -> Document:
    document: Document = {"_id": _place(record["boot"], record["n"]), **record}
    del document["boot"], document["n"]
    return document


def _record(document: Document) -> Record:
    place = document.pop("_id")
    if not isinstance(place, Mapping):
        return {"n": place, **document}
    return {**place, **document}


def _boot(document: Mapping[str, Any]) -> Boot:
    start = document.get("start")
    point = start and ChainPoint(
        document["_id"], start["n"], start["hash"], start["signed_at"], start["signature"]
    )
    return Boot(document["_id"], document.get("node_id"), point)


def _duplicate(failure: Mapping[str, Any]) -> int:
    """The index of the record that is there already. Raises WriteError for other failures."""
    if failure["code"] != DUPLICATE_KEY:
        raise WriteError(failure.get("errmsg", ""), failure["code"])
    index: int = failure["index"]
    return index
