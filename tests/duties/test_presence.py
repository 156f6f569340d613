"""The status of agents follows their leases and signs of life."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pymongo import MongoClient

from hive.agents import AgentAction, AgentStatus, control
from hive.errors import AgentNotFound, Unavailable
from server.presence import NodePresence
from tests.servers import eventually
from tests.storage.store import ME, Store


@pytest.fixture
async def presence(store: Store) -> AsyncIterator[NodePresence]:
    """Presence at work, told of each commit."""
    working = NodePresence(store.agents, store.tasks.queue)
    store.tasks.on_commit(working.committed)
    working.start()
    yield working
    await working.stop()


@pytest.fixture
def status(store: Store, mongodb_client: MongoClient[dict[str, Any]]) -> Any:
    """The stored status of an agent, for conditions that can't await."""
    agents = mongodb_client[store.database.name]["agents"]
    return lambda agent_id: (agents.find_one({"_id": agent_id}) or {}).get("status")


async def test_an_agent_is_busy_while_it_has_a_lease(
    store: Store, presence: NodePresence, status: Any
) -> None:
    """And idle again after its last one."""
    agent = await store.register(slots=2)
    proofs = [(await store.running(agent.agent_id))[1] for _ in range(2)]
    await eventually(lambda: status(agent.agent_id) == "busy", "it is busy")
    for proof in proofs:
        await store.complete(proof)
    await eventually(lambda: status(agent.agent_id) == "idle", "it is idle")
    assert (await store.agents.get(agent.agent_id)).version == 3


async def test_many_changes_in_a_moment_are_one(
    store: Store, presence: NodePresence, status: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty leases that begin at once are one event of the agent."""
    agent = await store.register(slots=20)
    for _ in range(20):
        await store.running(agent.agent_id)
    await eventually(lambda: status(agent.agent_id) == "busy", "it is busy")
    await eventually(lambda: not presence._stale, "all is looked at")
    assert (await store.agents.get(agent.agent_id)).version == 2


async def test_a_start_mends_what_a_kill_left(store: Store, status: Any) -> None:
    """A lease that began just before the kill makes its agent busy, and one that ended idle."""
    working, resting = await store.register("worker"), await store.register("rester")
    await store.running(working.agent_id)
    await store.database["agents"].update_one(
        {"_id": resting.agent_id}, {"$set": {"status": "busy"}}
    )
    presence = NodePresence(store.agents, store.tasks.queue)
    presence.start()
    await eventually(lambda: status(working.agent_id) == "busy", "it is busy")
    await eventually(lambda: status(resting.agent_id) == "idle", "it is idle")
    await presence.stop()


async def test_presence_is_what_is_newly_known(store: Store) -> None:
    """Offline and back; what is the same makes no event."""
    presence = NodePresence(store.agents, store.tasks.queue)
    agent = await store.register()
    gone = await presence.refresh(agent.agent_id, online=False)
    assert (gone.status, gone.online, gone.version) == (AgentStatus.OFFLINE, False, 2)
    assert await presence.refresh(agent.agent_id) == gone
    await store.running(agent.agent_id)
    assert (await presence.refresh(agent.agent_id, online=True)).status is AgentStatus.BUSY
    with pytest.raises(AgentNotFound):
        await presence.refresh("agt_none")


async def test_a_pause_is_not_undone_by_work(store: Store) -> None:
    """What is wanted of the agent decides first."""
    presence = NodePresence(store.agents, store.tasks.queue)
    agent = await store.register()
    await store.agents.change(
        agent.agent_id, lambda a: control(a, AgentAction.PAUSE, None, running=0), ME
    )
    await store.running(agent.agent_id)
    assert (await presence.refresh(agent.agent_id)).status is AgentStatus.PAUSED


async def test_an_outage_or_an_unknown_agent_does_not_end_it(
    store: Store, presence: NodePresence, status: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be worked out is tried again; one that is gone is forgotten."""
    look, outages = store.tasks.held_by, [Unavailable(), Unavailable()]

    async def held_by(agent_id: str) -> Any:
        if outages and agent_id.startswith("agt_0"):
            raise outages.pop()
        return await look(agent_id)

    agent = await store.register()
    await store.running("agt_unknown")
    await store.running(agent.agent_id)
    monkeypatch.setattr(store.tasks, "held_by", held_by)
    await eventually(lambda: status(agent.agent_id) == "busy", "it is busy")
