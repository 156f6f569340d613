"""The task machine played at random on MongoDB: storage carries out what the machine decides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from pymongo import MongoClient

from hive.changes import Actor, Change, Without
from hive.leases import NewLease
from hive.ports import DecideTask
from hive.task_machine import start
from hive.tasks import Task
from tests.hive.lifecycle import Lifecycle
from tests.hive.worlds import DUTY
from tests.storage.store import open_store

T = TypeVar("T")
Documents = MongoClient[dict[str, Any]]


class MongoWorld:
    """Tasks in MongoDB, for code that does not await."""

    def __init__(self, uri: str, name: str, looking: Documents) -> None:
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._store = self._wait(lambda: self._stack.enter_async_context(open_store(uri, name)))
        self._documents = looking[name]["tasks"]

    def _wait(self, begin: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            return await begin()

        return self._runner.run(run())

    def clear(self) -> None:
        """Forget everything."""
        self._documents.delete_many({})

    def close(self) -> None:
        """Disconnect."""
        self._wait(self._stack.aclose)
        self._runner.close()

    def insert(self, task_id: str, change: Change) -> Task:
        """As `Tasks.insert`."""
        return self._wait(lambda: self._store.tasks.insert(task_id, change, DUTY))

    def get(self, task_id: str) -> Task:
        """As `Tasks.get`."""
        return self._wait(lambda: self._store.tasks.get(task_id))

    def change(self, task_id: str, decide: DecideTask) -> Task:
        """As `Tasks.change`."""
        return self._wait(lambda: self._store.tasks.change(task_id, decide, DUTY))

    def claim(self, lease: NewLease) -> Task | None:
        """As `Queue.claim`, for tasks that need no capability."""
        actor = Actor(lease.agent_id)
        return self._wait(lambda: self._store.tasks.queue.claim(lease, [""], start(lease), actor))

    def drop_dependency(self, task_id: str, mark: Without) -> None:
        """As `Sweeps.drop_ended`, of one task."""
        self._wait(lambda: self._drop(task_id, mark))

    async def _drop(self, task_id: str, mark: Without) -> None:
        found = await self._store.tasks.get(task_id)
        await self._store.sweeps.drop_ended(
            [mark.value], [found.spec.on_dependency_failure], limit=100
        )

    def place(self, task_id: str) -> tuple[float, str]:
        """As the document has it."""
        document = self._documents.find_one({"_id": task_id}, {"queue_order": True})
        assert document is not None
        return document["queue_order"], task_id

    def last_event(self, task_id: str) -> tuple[int, str]:
        """The version of the one event that the document carries, and the status that it told."""
        document = self._documents.find_one({"_id": task_id})
        assert document is not None
        [(key, event)] = document["event"].items()
        assert key == f"v{event['version']}"
        assert event["id"] == f"{task_id}:{event['version']}"
        assert event["data"]["version"] == event["version"]
        return event["version"], event["data"]["status"]


@pytest.fixture
def world(mongodb_uri: str, database_name: str, mongodb_client: Documents) -> Iterator[MongoWorld]:
    """One connection for all courses."""
    opened = MongoWorld(mongodb_uri, database_name, mongodb_client)
    yield opened
    opened.close()


def test_no_course_of_events_breaks_a_stored_task(world: MongoWorld) -> None:
    """The same rules as in memory, with each change one update of one document."""

    class Stored(Lifecycle):
        def __init__(self) -> None:
            super().__init__(world)

    run_state_machine_as_test(
        Stored,
        settings=settings(
            max_examples=12,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
