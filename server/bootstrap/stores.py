"""Opens MongoDB, SQL and Redis, and closes them at the end."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass

from server.data_directory import DataDirectory
from server.limit_table import StoreTimes
from server.settings import Settings
from storage.mongo.agents import MongoAgents
from storage.mongo.artifacts import MongoArtifactFiles
from storage.mongo.audit import MongoAudit
from storage.mongo.batches import MongoBatches
from storage.mongo.client import (
    TIMEOUT_MS,
    open_client,
    open_database,
    open_stream_client,
    require_reachable,
)
from storage.mongo.coordination import MongoHive, MongoTopology
from storage.mongo.diagnosis import MongoDiagnoses
from storage.mongo.events import MongoEventLog
from storage.mongo.graphs import MongoGraphs
from storage.mongo.holders import MongoHolders
from storage.mongo.idempotency import MongoIdempotency
from storage.mongo.leadership import MongoLeadership
from storage.mongo.logs import MongoTaskLogs
from storage.mongo.messages import MongoMessages
from storage.mongo.migrations import MongoSchema
from storage.mongo.nodes import MongoNodes
from storage.mongo.notices import MongoNotices
from storage.mongo.open_tasks import MongoOpenTasks
from storage.mongo.retention import MongoOldData
from storage.mongo.schedules import MongoSchedules
from storage.mongo.stream import MongoChangeFeed
from storage.mongo.subtrees import MongoSubtreeOrders
from storage.mongo.sweeps import MongoSweeps
from storage.mongo.tasks import MongoTasks
from storage.redis.client import RedisConnection
from storage.sql.database import TIMEOUT_SECONDS, Database

STORE_TIMES = StoreTimes(mongodb_seconds=TIMEOUT_MS / 1000, sql_seconds=TIMEOUT_SECONDS)


@dataclass(frozen=True, slots=True)
class Store:
    """The adapters of MongoDB."""

    agents: MongoAgents
    tasks: MongoTasks
    schedules: MongoSchedules
    open_tasks: MongoOpenTasks
    batches: MongoBatches
    graphs: MongoGraphs
    subtree_orders: MongoSubtreeOrders
    logs: MongoTaskLogs
    artifact_files: MongoArtifactFiles
    notices: MongoNotices
    events: MongoEventLog
    sweeps: MongoSweeps
    feed: MongoChangeFeed
    leadership: MongoLeadership
    audit: MongoAudit
    idempotency: MongoIdempotency
    old: MongoOldData
    nodes: MongoNodes
    hive: MongoHive
    topology: MongoTopology
    diagnoses: MongoDiagnoses
    messages: MongoMessages
    holders: MongoHolders


async def open_store(stack: AsyncExitStack, settings: Settings, uri: str) -> Store:
    """Connect to MongoDB, make its indexes, migrate. Raises StoreRefused, Unavailable."""
    client = open_client(uri)
    stack.push_async_callback(client.close)
    stream_client = open_stream_client(uri)
    stack.push_async_callback(stream_client.close)
    database = open_database(client, settings.mongodb_database)
    agents = MongoAgents(database)
    tasks = MongoTasks(database, priority_age_seconds=settings.priority_age_seconds)
    schedules = MongoSchedules(database)
    logs = MongoTaskLogs(database, tasks, keep=settings.log_lines_per_task)
    artifact_files = MongoArtifactFiles(database)
    old = MongoOldData(database)
    batches = MongoBatches(database, tasks)
    subtree_orders = MongoSubtreeOrders(database)
    notices = MongoNotices(database)
    events = MongoEventLog(database)
    audit = MongoAudit(database)
    idempotency = MongoIdempotency(database)
    nodes = MongoNodes(database)
    hive = MongoHive(database)
    messages = MongoMessages(database)
    holders = MongoHolders(database)
    # Making indexes may take long; that nobody is there should not.
    await require_reachable(client)
    schema = MongoSchema(database)
    await schema.check()
    await old.prepare()
    engine = (tasks, batches, subtree_orders)
    for prepared in (agents, *engine, logs, notices, events, audit, idempotency, nodes):
        await prepared.prepare()
    await schedules.prepare()
    await messages.prepare()
    await holders.prepare()
    await artifact_files.prepare()
    await schema.migrate(uuid.uuid4().hex)
    return Store(
        agents=agents,
        tasks=tasks,
        schedules=schedules,
        open_tasks=MongoOpenTasks(tasks.collection),
        batches=batches,
        graphs=MongoGraphs(tasks.collection),
        subtree_orders=subtree_orders,
        logs=logs,
        artifact_files=artifact_files,
        notices=notices,
        events=events,
        sweeps=MongoSweeps(tasks, agents),
        feed=MongoChangeFeed(open_database(stream_client, settings.mongodb_database), database),
        leadership=MongoLeadership(database),
        audit=audit,
        idempotency=idempotency,
        old=old,
        nodes=nodes,
        hive=hive,
        topology=MongoTopology(database),
        diagnoses=MongoDiagnoses(database, hive),
        messages=messages,
        holders=holders,
    )


async def open_sql(stack: AsyncExitStack, settings: Settings, directory: DataDirectory) -> Database:
    """Connect to SQL and bring its schema up to date."""
    url = settings.sql_url.get_secret_value() or f"sqlite:///{directory.sqlite_path}"
    database = Database(url)
    stack.callback(database.close)
    await asyncio.to_thread(database.migrate)
    return database


def open_redis(stack: AsyncExitStack, settings: Settings) -> RedisConnection | None:
    """What connects to Redis when it is needed; None without one. A Redis that is away is no error.

    Redis is never needed: who uses it goes on without.
    """
    url = settings.redis_url.get_secret_value()
    if not url:
        return None
    redis = RedisConnection(url)
    redis.start()
    stack.push_async_callback(redis.stop)
    return redis
