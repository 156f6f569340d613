"""What a node knows of the agents that ask it for work, and when it looks again."""

from __future__ import annotations

import pytest

from hive import agents as machine
from hive.agents import AgentAction, DesiredState
from hive.errors import AgentNotFound
from server import claimants as knowing
from server.claimants import Claimants
from tests.storage.store import ME, Store


@pytest.fixture
def claimants(store: Store, monkeypatch: pytest.MonkeyPatch) -> Claimants:
    """One that is told of each commit of this node, and never reads again by itself."""
    monkeypatch.setattr(knowing, "FRESH_SECONDS", 3600.0)
    known = Claimants(store.agents, store.tasks.queue)
    store.agents.on_commit(known.agent_committed)
    store.tasks.on_commit(known.task_committed)
    return known


async def test_a_commit_of_this_node_counts_at_once(store: Store, claimants: Claimants) -> None:
    """A paused agent takes no work, without another reading; one that is gone is not found."""
    agent = await store.register(slots=3)
    assert (await claimants.get(agent.agent_id)).takes_work
    await store.agents.change(
        agent.agent_id, lambda now: machine.control(now, AgentAction.PAUSE, None, running=0), ME
    )
    assert (await claimants.get(agent.agent_id)).desired_state is DesiredState.PAUSED
    await store.agents.change(agent.agent_id, machine.unregister, ME)
    with pytest.raises(AgentNotFound):
        await claimants.get(agent.agent_id)


async def test_slots_follow_the_leases_of_this_node(store: Store, claimants: Claimants) -> None:
    """A slot is in use from the commit of its lease to the commit of its end."""
    agent = await store.register(slots=3)
    assert await claimants.slots_in_use(agent.agent_id) == set()
    (_, first), (_, second) = [await store.running(agent.agent_id) for _ in range(2)]
    assert await claimants.slots_in_use(agent.agent_id) == {1, 2}
    await store.complete(first)
    assert await claimants.slots_in_use(agent.agent_id) == {2}
    await store.complete(second)
    assert await claimants.slots_in_use(agent.agent_id) == set()


async def test_the_end_of_an_unknown_lease_is_looked_up(store: Store, claimants: Claimants) -> None:
    """Which slot it had is not known: the slots are read again."""
    agent = await store.register(slots=3)
    _, proof = await store.running(agent.agent_id)
    await store.running(agent.agent_id)
    assert await claimants.slots_in_use(agent.agent_id) == {1, 2}
    await store.complete(proof)
    assert await claimants.slots_in_use(agent.agent_id) == {2}


async def test_a_slot_that_is_freed_during_the_reading_is_free(
    store: Store, claimants: Claimants, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer was made before the end of the lease."""
    agent = await store.register(slots=3)
    await claimants.slots_in_use(agent.agent_id)
    _, proof = await store.running(agent.agent_id)
    read = store.tasks.queue.slots_in_use

    async def late(agent_id: str) -> set[int]:
        found = await read(agent_id)
        await store.complete(proof)
        return found

    monkeypatch.setattr(store.tasks.queue, "slots_in_use", late)
    monkeypatch.setattr(knowing, "FRESH_SECONDS", -1.0)
    assert await claimants.slots_in_use(agent.agent_id) == set()


async def test_what_was_not_so_is_read_again(store: Store, claimants: Claimants) -> None:
    """Another node has given a slot away: the unique index says so, and the slots are read."""
    agent = await store.register(slots=3)
    await claimants.slots_in_use(agent.agent_id)
    await store.submit()
    known = claimants._known.pop(agent.agent_id)
    await store.claim(agent.agent_id, 2)
    claimants._known[agent.agent_id] = known
    assert await claimants.slots_in_use(agent.agent_id) == set()
    claimants.forget_slots(agent.agent_id)
    assert await claimants.slots_in_use(agent.agent_id) == {2}
