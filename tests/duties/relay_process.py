"""A process that relays and records, to be killed: MONGODB_URI DATABASE SQL_URL NODE_ID."""

from __future__ import annotations

import asyncio
import sys

from server import recorder as recording
from server.duties import Duty
from server.outbox import DUTY, OutboxRelay
from server.recorder import Recorder
from storage.sql.database import Database
from storage.sql.outbox import SqlOutbox
from tests.storage.store import open_store

LEASE_SECONDS = 1.5


async def main(uri: str, name: str, sql_url: str, node_id: str) -> None:
    """Work until killed."""
    database = Database(sql_url)
    async with open_store(uri, name) as store:
        relay = OutboxRelay(SqlOutbox(database), store.notices, poll_seconds=0.001)
        recorder = Recorder(
            store.feed,
            store.events,
            store.leadership,
            lambda events: None,
            node_id=node_id,
            retention_days=7,
        )
        for duty, work in ((recording.DUTY, recorder.work), (DUTY, relay.work)):
            Duty(duty, store.leadership, node_id, work, lease_seconds=LEASE_SECONDS).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
