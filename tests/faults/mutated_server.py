"""A server with a bug on purpose, for the proof that the checker sees it.

    python -m tests.faults.mutated_server MUTATION

Each mutation replaces one function of the product in this process, and then runs `agentzero serve`.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from pymongo import ReturnDocument

from hive import task_machine as machine
from hive.changes import Actor, Change
from hive.duty_ports import Recorded
from hive.leases import NewLease
from hive.tasks import Task
from server import cli
from server.identifiers import TypeIdentifiers
from server.recorder import DUTY, Recorder
from storage.mongo.changes import update_pipeline
from storage.mongo.queue import MongoQueue
from storage.mongo.resources import Resources
from storage.mongo.tasks import MongoTasks
from tests.faults.mutated_stores import acknowledged_in_memory, lease_by_own_clock, stale_read

WINDOW_SECONDS = 0.05
"""How far a mutation holds its window open, so that few kills are enough to hit it."""


def event_apart() -> None:
    """The state is written first and the event in a second update."""

    async def save(
        self: Resources[Any],
        query: Mapping[str, Any],
        change: Change,
        actor: Actor,
        *,
        upsert: bool = False,
        sort: Sequence[tuple[str, int]] | None = None,
        hint: str | None = None,
    ) -> Any:
        change = await self.prepared(change)
        state = update_pipeline(change, actor, identifier=self._identifier, summary=self._summary)[
            :1
        ]
        document = await self.collection.find_one_and_update(
            query, state, upsert=upsert, sort=sort, hint=hint, return_document=ReturnDocument.AFTER
        )
        if document is None:
            return None
        version = document["version"]
        known = {name: document[name] for name in self._summary if name in document}
        event = {
            "id": f"{document['_id']}:{version}",
            "type": change.event,
            "subject": document["_id"],
            "time": document["updated_at"],
            "version": version,
            "actor": actor.actor_id,
            "data": {self._identifier: document["_id"], **known},
        }
        told = {"$set": {"event": {f"v{version}": event}}}
        await self.collection.update_one({"_id": document["_id"]}, told)
        resource = self.read(document)
        for callback in self._committed:
            callback(resource, change.event)
        return resource

    Resources.save = save  # type: ignore[method-assign]


def fence_stays() -> None:
    """Every lease of a task has the same fence."""
    start = machine.start

    def start_unfenced(lease: NewLease) -> Change:
        change = start(lease)
        held = {**change.fields["lease"], "fence": 1}
        return Change(change.event, {**change.fields, "fence": 1, "lease": held})

    machine.start = start_unfenced


def event_dropped() -> None:
    """One event in a hundred does not reach the log."""
    append = Recorder._append

    async def append_most(self: Recorder, batch: Sequence[Recorded]) -> None:
        kept = [entry for entry in batch if random.random() >= 0.01]
        if kept:
            await append(self, kept)

    Recorder._append = append_most  # type: ignore[method-assign]


def checkpoint_first() -> None:
    """The recorder notes how far it has come before it has written that far."""
    append, work = Recorder._append, Recorder.work
    terms: dict[Recorder, int] = {}

    async def work_in_term(self: Recorder, term: int) -> None:
        terms[self] = term
        await work(self, term)

    async def append_later(self: Recorder, batch: Sequence[Recorded]) -> None:
        token = batch[-1].token
        if token is not None:
            await self._leadership.save_checkpoint(
                DUTY, self._node_id, terms[self], {"token": token}
            )
        # Long enough that a kill falls into it, however busy the machine is.
        await asyncio.sleep(5 * WINDOW_SECONDS)
        await append(self, batch)

    Recorder.work = work_in_term  # type: ignore[method-assign]
    Recorder._append = append_later  # type: ignore[method-assign]


def receipt_first() -> None:
    """A task without dependencies is acknowledged before it is written."""
    insert = MongoTasks.insert
    writing: set[asyncio.Task[Task]] = set()

    async def write(self: MongoTasks, task_id: str, change: Change, actor: Actor) -> Task:
        await asyncio.sleep(WINDOW_SECONDS)
        return await insert(self, task_id, change, actor)

    async def insert_later(self: MongoTasks, task_id: str, change: Change, actor: Actor) -> Any:
        if change.fields["waiting_on"]:
            return await insert(self, task_id, change, actor)
        task = asyncio.create_task(write(self, task_id, change, actor))
        writing.add(task)
        task.add_done_callback(writing.discard)
        return SimpleNamespace(
            task_id=task_id,
            status=change.fields["status"],
            waiting_on=(),
            cancel_requested=False,
            has_ended=False,
        )

    MongoTasks.insert = insert_later  # type: ignore[method-assign]


def claim_in_two_steps() -> None:
    """A claim looks for a queued task first, and takes it whatever has become of it then."""

    async def no_keyed_head(*_args: Any, **_named: Any) -> None:
        return None

    async def claim(
        self: MongoQueue,
        lease: NewLease,
        capability_keys: Sequence[str],
        change: Change,
        actor: Actor,
    ) -> Task | None:
        query = {"status": "queued", "capability_key": {"$in": list(capability_keys)}}
        head = await self._tasks.find_one(query, {"_id": True}, sort=[("_id", 1)])
        if head is None:
            return None
        await asyncio.sleep(WINDOW_SECONDS)
        return await self._resources.save({"_id": head["_id"]}, change, actor)

    MongoQueue.claim = claim  # type: ignore[method-assign]
    # Every claim is one of those, one after the other.
    MongoQueue.has_keyed = True  # type: ignore[method-assign, assignment]
    MongoQueue.keyed_head = no_keyed_head  # type: ignore[method-assign]


def insert_twice() -> None:
    """One submission in ten is written again under another identifier, as a careless retry does."""
    insert = MongoTasks.insert

    async def insert_again(self: MongoTasks, task_id: str, change: Change, actor: Actor) -> Task:
        made = await insert(self, task_id, change, actor)
        if random.random() < 0.1:
            await insert(self, TypeIdentifiers().new("tsk"), change, actor)
        return made

    MongoTasks.insert = insert_again  # type: ignore[method-assign]


MUTATIONS: Mapping[str, Callable[[], None]] = {
    "event-apart": event_apart,
    "fence-stays": fence_stays,
    "event-dropped": event_dropped,
    "checkpoint-first": checkpoint_first,
    "receipt-first": receipt_first,
    "claim-in-two-steps": claim_in_two_steps,
    "insert-twice": insert_twice,
    "acknowledged-in-memory": acknowledged_in_memory,
    "lease-by-own-clock": lease_by_own_clock,
    "stale-read": stale_read,
}

if __name__ == "__main__":
    MUTATIONS[sys.argv[1]]()
    sys.argv[1:] = ["serve"]
    cli.main()
