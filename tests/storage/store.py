"""MongoDB storage as a node builds it, on a database of the test's own."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from hive import agents as agent_machine
from hive import task_machine as machine
from hive.agents import Agent, AgentSpec
from hive.changes import Actor
from hive.leases import LeaseProof, NewLease
from hive.task_spec import Concurrency, TaskSpec, capability_key
from hive.tasks import Task
from storage.mongo.agents import MongoAgents
from storage.mongo.client import Database, open_client, open_database, open_stream_client
from storage.mongo.events import MongoEventLog
from storage.mongo.leadership import MongoLeadership
from storage.mongo.logs import MongoTaskLogs
from storage.mongo.notices import MongoNotices
from storage.mongo.stream import MongoChangeFeed
from storage.mongo.sweeps import MongoSweeps
from storage.mongo.tasks import MongoTasks

ME = Actor("usr_me", "req_1")


@dataclass
class Store:
    """All adapters over one database, and shorter ways to arrange what a test needs."""

    uri: str
    database: Database
    stream_database: Database
    tasks: MongoTasks
    agents: MongoAgents
    logs: MongoTaskLogs
    events: MongoEventLog
    leadership: MongoLeadership
    sweeps: MongoSweeps
    feed: MongoChangeFeed
    notices: MongoNotices
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def new(self, prefix: str) -> str:
        """The port `hive.ports.Identifiers`: in the order of time."""
        return f"{prefix}_{next(self.numbers):06d}"

    async def submit(self, spec: TaskSpec | None = None, *waiting_on: str, **fields: Any) -> Task:
        """A new task of that specification, or of these fields."""
        spec = spec or TaskSpec(**{"name": "work", "dependencies": waiting_on, **fields})
        return await self.tasks.insert(
            self.new("tsk"), machine.submit(spec, "usr_me", waiting_on), ME
        )

    async def register(self, name: str | None = None, **fields: Any) -> Agent:
        """A new agent."""
        agent_id = self.new("agt")
        spec = AgentSpec(**{"name": name or agent_id, **fields})
        return await self.agents.insert(agent_id, agent_machine.register(spec), ME)

    async def claim(
        self,
        agent_id: str = "agt_1",
        slot: int = 1,
        *,
        capabilities: tuple[tuple[str, ...], ...] = ((),),
        seconds: float = 30.0,
        concurrency: tuple[str, int] | None = None,
        labels: tuple[str, ...] = (),
    ) -> Task | None:
        """Claim one task as the dispatcher does. Raises SlotTaken."""
        key, key_slot = concurrency or (None, None)
        lease = NewLease(self.new("lse"), agent_id, slot, seconds, key, key_slot, labels)
        keys = [capability_key(each) for each in capabilities]
        return await self.tasks.queue.claim(lease, keys, machine.start(lease), Actor(agent_id))

    async def running(self, agent_id: str = "agt_1", **fields: Any) -> tuple[Task, LeaseProof]:
        """A task that the agent runs, and the proof of its lease."""
        seconds = fields.pop("seconds", 30.0)
        concurrency = fields.get("concurrency")
        await self.submit(**fields)
        held = await self.tasks.held_by(agent_id)
        task = await self.claim(
            agent_id,
            len(held) + 1,
            seconds=seconds,
            concurrency=(concurrency.key, 1) if isinstance(concurrency, Concurrency) else None,
        )
        assert task is not None
        return task, proof_of(task)

    async def complete(self, proof: LeaseProof) -> Task:
        """The holder of the lease ends its task."""
        return await self.tasks.change_leased(
            proof, lambda task: machine.complete(task, proof, None), ME, agent_id=None
        )

    async def clear(self) -> None:
        """Leave indexes and nothing else."""
        for name in ("tasks", "agents", "task_logs", "notices", "events", "leaders", "fairness"):
            await self.database[name].delete_many({})

    async def document(self, task_id: str) -> Mapping[str, Any]:
        """The task's document as it is stored."""
        found = await self.database["tasks"].find_one({"_id": task_id})
        assert found is not None
        return found

    async def set_fields(self, task_id: str, *stages: Mapping[str, Any]) -> None:
        """Bend a document: an update pipeline, for states that only time brings."""
        await self.database["tasks"].update_one(
            {"_id": task_id}, [{"$set": stage} for stage in stages]
        )


def proof_of(task: Task) -> LeaseProof:
    """What the holder of the task's lease shows."""
    assert task.lease is not None
    return LeaseProof(task.lease.lease_id, task.lease.fence)


@asynccontextmanager
async def open_store(uri: str, name: str) -> AsyncIterator[Store]:
    """Connect, make the indexes, and close what was opened."""
    client, stream_client = open_client(uri), open_stream_client(uri)
    database = open_database(client, name)
    tasks, agents, events = MongoTasks(database), MongoAgents(database), MongoEventLog(database)
    logs, notices = MongoTaskLogs(database, tasks), MongoNotices(database)
    stream_database = open_database(stream_client, name)
    try:
        for part in (tasks, agents, events, logs, notices):
            await part.prepare()
        yield Store(
            uri,
            database,
            stream_database,
            tasks,
            agents,
            logs,
            events,
            MongoLeadership(database),
            MongoSweeps(tasks, agents),
            MongoChangeFeed(stream_database, database),
            notices,
        )
    finally:
        await stream_client.close()
        await client.close()
