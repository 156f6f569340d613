"""Migrations of the documents: an ordered list, carried out once, by the first new node.

Life, at the start of a node: `check` refuses a store that this release is too old for; `migrate`
carries out what is missing, under the lease `migration`, one version after the other; a node that
comes meanwhile waits. Rules for an entry of `MIGRATIONS`:

- Entries are never changed or taken out, only added at the end.
- `run` is idempotent: a kill in the middle, or a lease that was lost, begins it again.
- Nodes of the versions from `readable_from` on go on while it runs, and after it. To rename a
  field, one version writes both and fills the new one (`readable_from` stays); a later one, when
  no node of the earlier ones runs any more, takes the old one away (`readable_from` grows).

The collection `schema` has one document, `store`: `version`, `readable_from`, `steps` with the
time of each, and `restoring_since` while a backup is being read into the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pymongo
import structlog
from pymongo.errors import DuplicateKeyError

from hive.store_schema import StoreRefused, StoreSchema, check_readable
from storage.mongo.client import Database, Document, guarded
from storage.mongo.leadership import MongoLeadership
from storage.mongo.queue_places import give_places

SCHEMA: Final = "schema"
STORE: Final = "store"
LEASE: Final = "migration"
LEASE_SECONDS: Final = 15.0
POLL_SECONDS: Final = 0.1
MIGRATION_SECONDS: Final = 3600.0
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Migration:
    """A step to `version`; nodes that know a version from `readable_from` on can go on."""

    version: int
    readable_from: int
    summary: str
    run: Callable[[Database], Awaitable[None]]


async def _nothing(_database: Database) -> None:
    """Documents as they are: nothing has to be done."""


MIGRATIONS: Final[Sequence[Migration]] = (
    Migration(1, 1, "The documents of releases that had no versions.", _nothing),
    # Older nodes would queue tasks that newer ones don't see.
    Migration(2, 2, "Tasks have a lane and a place in the queue.", give_places),
)


class MongoSchema:
    """The version of a database's documents, and what brings it to that of this release."""

    def __init__(
        self,
        database: Database,
        migrations: Sequence[Migration] = MIGRATIONS,
        *,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._database = database
        self._migrations = migrations
        self._leadership = MongoLeadership(database)
        self._lease_seconds = lease_seconds
        self._store = database[SCHEMA]

    @property
    def newest(self) -> int:
        """The version that this release brings the store to."""
        return self._migrations[-1].version

    @guarded
    async def load(self) -> StoreSchema:
        """What the store says of itself. Raises StoreRefused while a restore is not done."""
        found = await self._store.find_one({"_id": STORE})
        if found is None:
            return StoreSchema(0, 0)
        if "restoring_since" in found:
            raise StoreRefused(
                "A backup was being read into MongoDB and did not come to its end. "
                "Empty the database and the data directory, and restore again."
            )
        return StoreSchema(found["version"], found["readable_from"])

    async def check(self) -> StoreSchema:
        """As `load`. Raises StoreRefused when this release is too old for the store."""
        schema = await self.load()
        check_readable(schema, self.newest)
        return schema

    async def migrate(self, node_id: str) -> StoreSchema:
        """Carry out what is missing, or wait for the node that does; the schema after that.

        Raises StoreRefused, Unavailable.
        """
        while (schema := await self.check()).version < self.newest:
            term = await self._leadership.acquire(LEASE, node_id, self._lease_seconds)
            if term is None:
                await asyncio.sleep(POLL_SECONDS)
                continue
            renewal = asyncio.create_task(self._renew(node_id, term))
            try:
                await self._next(await self.check())
            finally:
                renewal.cancel()
                await asyncio.wait([renewal])
                await self._leadership.release(LEASE, node_id, term)
        return schema

    async def _next(self, schema: StoreSchema) -> None:
        """Carry out the one migration that follows, unless another node has meanwhile."""
        missing = [step for step in self._migrations if step.version > schema.version]
        if not missing:
            return
        step = missing[0]
        log.info("schema.migrating", version=step.version, summary=step.summary)
        with pymongo.timeout(MIGRATION_SECONDS):
            await step.run(self._database)
        await self._done(schema, step)

    @guarded
    async def _done(self, before: StoreSchema, step: Migration) -> None:
        done: Document = {
            "$set": {
                "version": step.version,
                "readable_from": max(before.readable_from, step.readable_from),
            },
            "$push": {"steps": {"version": step.version, "summary": step.summary}},
            "$currentDate": {"migrated_at": True},
        }
        try:
            # Guarded by the version before: whoever lost the lease in the middle writes nothing.
            await self._store.update_one(
                {"_id": STORE, "version": before.version or {"$exists": False}},
                done,
                upsert=not before.version,
            )
        except DuplicateKeyError:
            log.info("schema.migrated_elsewhere", version=step.version)

    async def _renew(self, node_id: str, term: int) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            await self._leadership.renew(LEASE, node_id, term, self._lease_seconds)


def describe(schema: StoreSchema, migrations: Sequence[Migration] = MIGRATIONS) -> dict[str, Any]:
    """What an operator wants to know: the versions, and the migrations that are missing."""
    return {
        "version": schema.version,
        "readable_from": schema.readable_from,
        "newest": migrations[-1].version,
        "missing": [
            f"{step.version}: {step.summary}"
            for step in migrations
            if step.version > schema.version
        ],
    }
