"""What the collections of agents and of tasks have in common: load, decide, save under the version.

A resource is one document. `save` is the only way in which a visible change is written.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Generic, TypeVar
from weakref import WeakValueDictionary

from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument, UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError, DuplicateKeyError

from hive.changes import Actor, Change
from hive.errors import NotFound, WriteConflict
from hive.ports import Label
from storage.mongo.changes import in_time, update_pipeline
from storage.mongo.client import DUPLICATE_KEY, Document, guarded
from storage.mongo.group_commit import SHOWN, GroupCommit, weight_of

R = TypeVar("R")
ATTEMPTS = 32
PAUSE_SECONDS = 0.001
LONGEST_PAUSE_SECONDS = 0.05
Committed = Callable[[Any, str], None]
"""Told of each change that this node made: the resource as it is now and the type of the event."""


LABELS_INDEX: Final = IndexModel([("labels.$**", ASCENDING)], name="labels")
"""Of each label by its key."""


def labelled(labels: Sequence[Label]) -> Document:
    """A query for what has all of the labels."""
    return {"$and": [{f"labels.{key}": {"$eq": value}} for key, value in labels]} if labels else {}


class Resources(Generic[R]):
    """Documents of one kind. `read` makes the domain's object of a document."""

    def __init__(
        self,
        collection: AsyncCollection[Document],
        *,
        identifier: str,
        summary: Sequence[str],
        read: Callable[[Mapping[str, Any]], R],
        missing: type[NotFound],
        alive: Mapping[str, Any],
        capped: Mapping[str, int] | None = None,
        prepare: Callable[[Change], Awaitable[Change]] | None = None,
        group_commit: bool = False,
    ) -> None:
        self.collection = collection
        self.read = read
        self._identifier = identifier
        self._summary = summary
        self._missing = missing
        self._alive = alive
        self._capped = capped or {}
        # What has to be read or taken elsewhere before a change can be written.
        self._prepare = prepare
        self._group = GroupCommit(collection) if group_commit else None
        self._committed: list[Committed] = []
        self._turns: WeakValueDictionary[Any, asyncio.Lock] = WeakValueDictionary()

    def on_commit(self, callback: Committed) -> None:
        """Call back, at once and in this process, after each change that was made here."""
        self._committed.append(callback)

    async def insert(self, resource_id: str, change: Change, actor: Actor) -> R:
        """Add a resource; one that is there under the identifier already is given as it is.

        Raises DuplicateKeyError when a unique field is in use. The upsert can't touch a document
        that is there: none has version 0.
        """
        try:
            made = await self.save({"_id": resource_id, "version": 0}, change, actor, upsert=True)
        except DuplicateKeyError:
            there = {"_id": resource_id, **self._alive}
            document = await self.collection.find_one(there, SHOWN)
            if document is None:
                raise
            return self.read(document)
        if made is None:
            raise AssertionError("an upsert gave no document")
        return made

    async def save(
        self,
        query: Mapping[str, Any],
        change: Change,
        actor: Actor,
        *,
        upsert: bool = False,
        sort: Sequence[tuple[str, int]] | None = None,
        hint: str | None = None,
    ) -> R | None:
        """Carry the change out on the one document that matches; None when there is none.

        A change with a deadline needs a query that holds for one version only: past the deadline
        the other change is made of what was decided about.
        """
        if change.deadline is not None:
            in_time_only = {"$and": [dict(query), in_time(change.deadline)]}
            saved = await self.save(in_time_only, replace(change, deadline=None), actor)
            return saved or await self.save(query, change.deadline.otherwise, actor)
        change = await self.prepared(change)
        pipeline = self._pipeline(change, actor)
        if self._group is not None and "_id" in query and "version" in query:
            document = await self._group.write(
                query, pipeline, upsert=upsert, weight=weight_of(change)
            )
        else:
            document = await self.collection.find_one_and_update(
                query,
                pipeline,
                projection=SHOWN,
                upsert=upsert,
                sort=sort,
                hint=hint,
                return_document=ReturnDocument.AFTER,
            )
        if document is None:
            return None
        resource = self.read(document)
        for callback in self._committed:
            callback(resource, change.event)
        return resource

    def _pipeline(self, change: Change, actor: Actor) -> list[Document]:
        return update_pipeline(
            change,
            actor,
            identifier=self._identifier,
            summary=self._summary,
            capped=self._capped,
        )

    async def prepared(self, change: Change) -> Change:
        """The change as it can be written at any time from now on."""
        return change if self._prepare is None else await self._prepare(change)

    async def save_all(
        self,
        writes: Sequence[tuple[Mapping[str, Any], Change]],
        actor: Actor,
        *,
        upsert: bool = False,
        without: Mapping[str, bool] | None = None,
    ) -> list[R]:
        """As `save`, for many documents in one command: each by itself, in this order.

        Each query names one document by `_id`; one that does not hold, and one that is to be made
        and is there, is passed over. Gives those of them that there are now, without the fields in
        `without`. No change has a deadline.
        """
        if not writes:
            return []
        updates = [
            UpdateOne(
                dict(query),
                self._pipeline(await self.prepared(change), actor),
                upsert=upsert,
            )
            for query, change in writes
        ]
        try:
            await self.collection.bulk_write(updates, ordered=False)
        except BulkWriteError as error:
            require_only_there(error)
        events = {query["_id"]: change.event for query, change in writes}
        found = self.collection.find({"_id": {"$in": list(events)}}, {**SHOWN, **(without or {})})
        documents = [document async for document in found]
        resources = [self.read(document) for document in documents]
        for document, resource in zip(documents, resources, strict=True):
            for callback in self._committed:
                callback(resource, events[document["_id"]])
        return resources

    @guarded
    async def get(self, resource_id: str) -> R:
        """Raise the resource's NotFound when there is none."""
        return (await self._load({"_id": resource_id, **self._alive}))[0]

    async def change(
        self, query: Mapping[str, Any], decide: Callable[[R], Change | None], actor: Actor
    ) -> R:
        """Load, decide, save under the version that was loaded; again when another was faster.

        `query` names one resource by `_id`.
        """
        changed = await self.change_if(query, decide, actor, only_if=None)
        if changed is None:
            raise AssertionError("an unconditional change gave nothing")
        return changed

    async def change_if(
        self,
        query: Mapping[str, Any],
        decide: Callable[[R], Change | None],
        actor: Actor,
        *,
        only_if: Mapping[str, Any] | None,
    ) -> R | None:
        """As `change`. None when `only_if`, looked at within the update, does not hold."""
        try:
            return await self._change_once(query, decide, actor, only_if)
        except WriteConflict:
            pass
        # From here on those of this node take turns: together they would lose to each other.
        async with self._turns.setdefault(query["_id"], asyncio.Lock()):
            for attempt in range(1, ATTEMPTS):
                if attempt > 1:
                    await _pause(attempt)
                with suppress(WriteConflict):
                    return await self._change_once(query, decide, actor, only_if)
        raise WriteConflict(query=dict(query))

    async def change_unique(
        self,
        resource_id: str,
        decide: Callable[[R], Change | None],
        actor: Actor,
        *,
        taken: Callable[[Change], Exception],
    ) -> R:
        """As `change`. Raises what `taken` makes of a change whose unique field is in use."""
        decided: list[Change] = []

        def remember(resource: R) -> Change | None:
            change = decide(resource)
            decided[:] = [change] if change is not None else []
            return change

        try:
            return await self.change({"_id": resource_id}, remember, actor)
        except DuplicateKeyError as error:
            raise taken(decided[0]) from error

    async def page(
        self,
        query: Mapping[str, Any],
        *,
        after: str | None,
        limit: int,
        newest_first: bool,
        projection: Mapping[str, Any] = SHOWN,
    ) -> list[R]:
        """Those that match, by identifier, behind the identifier `after`."""
        behind = {} if after is None else {"_id": {"$lt" if newest_first else "$gt": after}}
        way = DESCENDING if newest_first else ASCENDING
        cursor = self.collection.find({**query, **behind}, projection).sort("_id", way)
        return [self.read(document) async for document in cursor.limit(limit)]

    async def _change_once(
        self,
        query: Mapping[str, Any],
        decide: Callable[[R], Change | None],
        actor: Actor,
        only_if: Mapping[str, Any] | None,
    ) -> R | None:
        """As `change_if`. Raises WriteConflict when another was faster."""
        resource, version = await self._load({**query, **self._alive})
        change = decide(resource)
        if change is None:
            return resource
        guard = {"_id": _id_of(resource, self._identifier), "version": version}
        saved = await self.save({**guard, **(only_if or {})}, change, actor)
        if saved is not None:
            return saved
        if only_if is not None and await self.collection.find_one(guard, {"_id": True}):
            return None
        raise WriteConflict(query=dict(query))

    async def count_by(self, field: str) -> dict[str, int]:
        """How many documents there are of each value of the field."""
        cursor = await self.collection.aggregate(
            [{"$match": dict(self._alive)}, {"$group": {"_id": f"${field}", "n": {"$sum": 1}}}]
        )
        return {row["_id"]: row["n"] async for row in cursor}

    async def _load(self, query: Mapping[str, Any]) -> tuple[R, int]:
        document = await self.collection.find_one(query, SHOWN)
        if document is None:
            raise self._missing()
        return self.read(document), document["version"]


def require_only_there(error: BulkWriteError) -> None:
    """Raise the error again unless all that is wrong is that documents are there already."""
    details = error.details
    failures = details.get("writeErrors", ())
    there = all(
        one["code"] == DUPLICATE_KEY and one.get("keyPattern") == {"_id": 1} for one in failures
    )
    if not failures or not there or details.get("writeConcernErrors"):
        raise error


async def _pause(attempt: int) -> None:
    # What won against us may not be readable yet: a majority has to have it first.
    longest = min(PAUSE_SECONDS * 2.0**attempt, LONGEST_PAUSE_SECONDS)
    await asyncio.sleep(random.uniform(0.0, longest))  # noqa: S311 - spreads those who contend  # nosec B311


def _id_of(resource: object, identifier: str) -> str:
    value: str = getattr(resource, identifier)
    return value
