"""Agents in MongoDB. One document an agent; a tombstone stays until it is purged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import ASCENDING, IndexModel, ReturnDocument
from pymongo.errors import DuplicateKeyError

from hive.agents import (
    SUMMARY_FIELDS,
    Agent,
    AgentAction,
    AgentSpec,
    AgentStatus,
    ControlRequest,
    DesiredState,
)
from hive.changes import Actor, Change
from hive.errors import AgentNotFound, NameTaken
from hive.ports import AgentFilter, DecideAgent
from storage.mongo.client import Database, guarded, make_indexes
from storage.mongo.resources import LABELS_INDEX, Committed, Resources, labelled

INDEXES = (
    IndexModel(
        [("name", ASCENDING)],
        name="name_unique",
        unique=True,
        partialFilterExpression={"deleted": False},
    ),
    IndexModel([("status", ASCENDING), ("_id", ASCENDING)], name="status"),
    IndexModel([("agent_type", ASCENDING), ("_id", ASCENDING)], name="agent_type"),
    IndexModel([("capabilities", ASCENDING), ("_id", ASCENDING)], name="capabilities"),
    LABELS_INDEX,
    IndexModel([("online", ASCENDING), ("last_heartbeat_at", ASCENDING)], name="silent"),
)


class MongoAgents:
    """The port `hive.ports.Agents`."""

    def __init__(self, database: Database) -> None:
        self._resources: Resources[Agent] = Resources(
            database["agents"],
            identifier="agent_id",
            summary=SUMMARY_FIELDS,
            read=read_agent,
            missing=AgentNotFound,
            alive={"deleted": False},
        )
        self._collection = self._resources.collection

    async def prepare(self) -> None:
        """Make the indexes. Idempotent."""
        await make_indexes(self._collection, INDEXES)

    def on_commit(self, callback: Committed) -> None:
        """Call back after each change made by this node."""
        self._resources.on_commit(callback)

    @guarded
    async def insert(self, agent_id: str, change: Change, actor: Actor) -> Agent:
        try:
            return await self._resources.insert(agent_id, change, actor)
        except DuplicateKeyError as error:
            raise _name_taken(change) from error

    async def get(self, agent_id: str) -> Agent:
        return await self._resources.get(agent_id)

    @guarded
    async def list(
        self, wanted: AgentFilter, *, after: str | None, limit: int, newest_first: bool = False
    ) -> Sequence[Agent]:
        query: dict[str, Any] = {"deleted": False}
        if wanted.status is not None:
            query["status"] = wanted.status.value
        if wanted.agent_type is not None:
            query["agent_type"] = {"$eq": wanted.agent_type}
        if wanted.capability is not None:
            query["capabilities"] = {"$eq": wanted.capability}
        query |= labelled(wanted.labels)
        return await self._resources.page(
            query, after=after, limit=limit, newest_first=newest_first
        )

    @guarded
    async def change(self, agent_id: str, decide: DecideAgent, actor: Actor) -> Agent:
        return await self._resources.change_unique(agent_id, decide, actor, taken=_name_taken)

    @guarded
    async def heard_of(self, agent_id: str, *, controls_taken: int | None) -> Agent:
        assigned: dict[str, Any] = {"last_heartbeat_at": "$$NOW"}
        if controls_taken is not None:
            left = {"$gt": ["$$this.control_id", controls_taken]}
            assigned["controls"] = {"$filter": {"input": "$controls", "cond": left}}
        document = await self._collection.find_one_and_update(
            {"_id": agent_id, "deleted": False},
            [{"$set": assigned}],
            projection={"event": False},
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            raise AgentNotFound
        return read_agent(document)

    @guarded
    async def ids_silent(self, timeout_seconds: float, *, limit: int) -> Sequence[str]:
        silent = {
            "$lt": ["$last_heartbeat_at", {"$subtract": ["$$NOW", round(timeout_seconds * 1000)]}]
        }
        query = {"deleted": False, "online": True, "$expr": silent}
        return [
            found["_id"] async for found in self._collection.find(query, {"_id": 1}).limit(limit)
        ]

    @guarded
    async def count_by_status(self) -> dict[str, int]:
        counted = await self._resources.count_by("status")
        return {status.value: counted.get(status.value, 0) for status in AgentStatus}


def read_agent(document: Mapping[str, Any]) -> Agent:
    """The agent that a document holds."""
    return Agent(
        agent_id=document["_id"],
        spec=AgentSpec(
            name=document["name"],
            agent_type=document["agent_type"],
            capabilities=tuple(document["capabilities"]),
            slots=document["slots"],
            labels=document["labels"],
        ),
        status=AgentStatus(document["status"]),
        desired_state=DesiredState(document["desired_state"]),
        version=document["version"],
        created_at=document["created_at"],
        updated_at=document["updated_at"],
        online=document["online"],
        agent_version=document.get("agent_version"),
        last_heartbeat_at=document.get("last_heartbeat_at"),
        drain_deadline=document.get("drain_deadline"),
        controls=tuple(
            ControlRequest(
                control_id=control["control_id"],
                action=AgentAction(control["action"]),
                requested_at=control["requested_at"],
                reason=control.get("reason"),
            )
            for control in document.get("controls", ())
        ),
    )


def _name_taken(change: Change) -> NameTaken:
    return NameTaken(f"Another agent is named {change.fields.get('name')!r}.")
