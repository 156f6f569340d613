"""Bugs on purpose in how stores are asked: acknowledged too early, by a wrong clock, read too late.

`mutated_server.py` runs them.
"""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pymongo.asynchronous.database import AsyncDatabase

from hive import task_machine as machine
from hive.changes import Change
from hive.leases import NewLease
from hive.tasks import Task
from server.embedded import EmbeddedMongo
from storage.mongo import client
from storage.mongo.tasks import MongoTasks

CLOCK_IS_BEHIND = timedelta(minutes=1)


def acknowledged_in_memory() -> None:
    """Writes are acknowledged (`w: 1, j: false`) and read before they are in the journal."""
    common, command, run = client._common, EmbeddedMongo._command, AsyncDatabase.command

    def weak() -> dict[str, Any]:
        return {**common(), "w": 1, "journal": False, "readConcernLevel": "local"}

    def lazy(self: EmbeddedMongo, mongod: Path) -> list[str]:
        # As seldom as mongod can write its journal, so that few kills are enough.
        return [*command(self, mongod), "--journalCommitInterval", "500"]

    async def run_weakly(self: AsyncDatabase[Any], command: Any, *args: Any, **named: Any) -> Any:
        # The audit log says itself what it waits for; the journal would be written for all.
        if isinstance(command, dict) and "writeConcern" in command:
            command = {**command, "writeConcern": {"w": 1, "j": False}}
        return await run(self, command, *args, **named)

    AsyncDatabase.command = run_weakly  # type: ignore[method-assign]
    client._common = weak
    EmbeddedMongo._command = lazy  # type: ignore[method-assign]


def lease_by_own_clock() -> None:
    """The end of a lease is counted from the node's clock, and that is a minute behind."""
    start = machine.start

    def start_by_own_clock(lease: NewLease) -> Change:
        change = start(lease)
        ends = datetime.now(UTC) - CLOCK_IS_BEHIND + timedelta(seconds=lease.seconds)
        held = {**change.fields["lease"], "expires_at": ends}
        return Change(change.event, {**change.fields, "lease": held})

    machine.start = start_by_own_clock


def stale_read() -> None:
    """One read in three gives the task as it was submitted, as a cache or a secondary would."""
    get = MongoTasks.get

    async def get_old(self: MongoTasks, task_id: str) -> Task:
        task = await get(self, task_id)
        is_old = random.random() < 1 / 3
        return replace(task, version=1, updated_at=task.created_at) if is_old else task

    MongoTasks.get = get_old  # type: ignore[method-assign]
