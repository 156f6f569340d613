"""The tasks that have not ended, by their mark: whose they are, and which keys they hold.

`open` goes with the end of a task, in the same write. A deduplication key stands once under a
unique partial index; the number of an owner's open tasks is read from an index alone.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from hive.errors import WriteConflict
from hive.submission import DuplicateTask
from hive.tasks import Task
from storage.mongo.client import Document, guarded

ATTEMPTS: Final = 32
LONGEST_PAUSE_SECONDS: Final = 0.05
OPEN_INDEXES: Final = (
    IndexModel(
        [("open.owner", ASCENDING)],
        name="open_tasks",
        partialFilterExpression={"open.owner": {"$exists": True}},
    ),
    IndexModel(
        [("open.owner", ASCENDING), ("open.key", ASCENDING)],
        name="open_key_unique",
        unique=True,
        partialFilterExpression={"open.key": {"$exists": True}},
    ),
)


class MongoOpenTasks:
    """The port `hive.ports.OpenTasks`."""

    def __init__(self, collection: AsyncCollection[Document]) -> None:
        self._collection = collection

    @guarded
    async def count(self, owner: str, *, most: int) -> int:
        return await self._collection.count_documents(
            {"open.owner": {"$eq": owner}}, limit=most, hint="open_tasks"
        )

    @guarded
    async def find(self, owner: str, key: str) -> str | None:
        return await find_standing(self._collection, {"owner": owner, "key": key})


async def find_standing(
    collection: AsyncCollection[Document], mark: dict[str, Any] | None
) -> str | None:
    """The task that holds the deduplication key of this mark."""
    if mark is None or "key" not in mark:
        return None
    found = await collection.find_one(
        {"open.owner": {"$eq": mark["owner"]}, "open.key": {"$eq": mark["key"]}}, {"_id": True}
    )
    return None if found is None else str(found["_id"])


async def holding_key(
    collection: AsyncCollection[Document],
    mark: dict[str, Any] | None,
    write: Callable[[], Awaitable[Task]],
) -> Task:
    """Do the write that gives a task this mark. Raises DuplicateTask, WriteConflict."""
    for _ in range(ATTEMPTS):
        try:
            return await write()
        except DuplicateKeyError as error:
            standing = await find_standing(collection, mark)
            if standing is not None:
                raise DuplicateTask(standing) from error
        # It has ended meanwhile, or a majority does not have it yet.
        await asyncio.sleep(random.uniform(0.0, LONGEST_PAUSE_SECONDS))  # noqa: S311 - spreads those who contend  # nosec B311
    raise WriteConflict


async def why_not_open(
    collection: AsyncCollection[Document], task_id: str
) -> DuplicateTask | WriteConflict:
    """Why an ended task can't be opened again: another one holds its deduplication key now."""
    found = await collection.find_one({"_id": task_id}, {"owner": True, "deduplication": True})
    if found is not None and "deduplication" in found:
        mark = {"owner": found["owner"], "key": found["deduplication"]["key"]}
        if (standing := await find_standing(collection, mark)) is not None:
            return DuplicateTask(standing)
    return WriteConflict()
