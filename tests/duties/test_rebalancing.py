"""Each lease that is taken back is told of once."""

from __future__ import annotations

from hive.coordination import TakeBack
from hive.coordination_ports import TakenBack
from server.rebalancing import Rebalancer
from storage.mongo.holders import MongoHolders
from tests.storage.store import ME, Store


async def test_agent_that_is_drained_and_offline_is_told_of_once(store: Store) -> None:
    """By the reason that counts less against the task: the end of the drain."""
    agent = await store.register()
    task, _ = await store.running(agent.agent_id)
    over = {"$subtract": ["$$NOW", 60_000]}
    gone = {"desired_state": "draining", "drain_deadline": over, "online": False}
    await store.database["agents"].update_one({"_id": agent.agent_id}, [{"$set": gone}])
    rebalancer = Rebalancer(store.tasks, MongoHolders(store.database))
    taken = await rebalancer.rebalance(ME)
    assert taken == [TakenBack(task.task_id, agent.agent_id, TakeBack.DRAINED)]
    assert (await store.tasks.get(task.task_id)).attempt == 0
