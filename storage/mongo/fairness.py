"""The turns of fairness keys: one small document a key, gone when it no longer matters."""

from __future__ import annotations

from pymongo import ASCENDING, IndexModel, ReturnDocument

from hive.queue_order import HORIZON_MS, QUANTUM_MS
from hive.task_spec import Fairness
from storage.mongo.client import Database, make_indexes

INDEXES = (IndexModel([("expires_at", ASCENDING)], name="expiry", expireAfterSeconds=0),)
NOW_MS = {"$toLong": "$$NOW"}


class FairTurns:
    """Gives out turns, each once."""

    def __init__(self, database: Database) -> None:
        self._collection = database["fairness"]

    async def prepare(self) -> None:
        """Make the indexes. Idempotent."""
        await make_indexes(self._collection, INDEXES)

    async def take(self, fairness: Fairness) -> float:
        """The next turn of the key, in milliseconds since 1970; one atomic update."""
        following = {"$add": ["$last", QUANTUM_MS / fairness.weight]}
        # `$max` passes over what is not there: the first turn of a key is now.
        turn = {"$min": [{"$max": [NOW_MS, following]}, {"$add": [NOW_MS, HORIZON_MS]}]}
        document = await self._collection.find_one_and_update(
            {"_id": {"$eq": fairness.key}},
            [
                {"$set": {"last": turn}},
                {"$set": {"expires_at": {"$toDate": {"$add": ["$last", QUANTUM_MS]}}}},
            ],
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            raise AssertionError("an upsert gave no document")
        last: float = document["last"]
        return last
