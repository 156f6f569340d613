"""Lists and counts: stable pages in a fixed order, whatever is added meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from hive import task_machine as machine
from hive.agents import AgentSpec, AgentStatus, register, unregister
from hive.ports import AgentFilter, TaskFilter
from hive.raw_json import RawJson
from hive.task_spec import TaskPriority, TaskSpec
from hive.tasks import TaskStatus
from tests.storage.store import ME, Store


async def _pages(store: Store, wanted: TaskFilter, limit: int) -> list[str]:
    found: list[str] = []
    after: str | None = None
    while page := await store.tasks.list(wanted, after=after, limit=limit):
        found += [task.task_id for task in page]
        after = found[-1]
        await store.submit()
    return found


async def test_pages_of_tasks_neither_skip_nor_repeat_while_new_ones_come(store: Store) -> None:
    """Newest first; what is added after the first page is not in later ones."""
    tasks = [(await store.submit()).task_id for _ in range(10)]
    assert await _pages(store, TaskFilter(), 3) == tasks[::-1]


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ({"status": TaskStatus.CANCELLED}, ["b"]),
        ({"status": TaskStatus.QUEUED}, ["$a", "c"]),
        ({"priority": TaskPriority.HIGH}, ["c"]),
        ({"owner": "usr_me"}, ["$a", "b", "c"]),
        ({"owner": "$owner"}, []),
        ({"name": "$a"}, ["$a"]),
        ({"agent_id": "agt_1"}, ["d"]),
        ({"status": TaskStatus.QUEUED, "priority": TaskPriority.MEDIUM}, ["$a"]),
    ],
    ids=str,
)
async def test_filters_select_and_combine(
    store: Store, wanted: dict[str, Any], names: list[str]
) -> None:
    """Exact values only, also those that look like operators."""
    await store.submit(TaskSpec("$a"))
    cancelled = await store.submit(TaskSpec("b"))
    await store.tasks.change(cancelled.task_id, machine.cancel, ME)
    await store.submit(TaskSpec("c", priority=TaskPriority.HIGH))
    submitted = machine.submit(TaskSpec("d", priority=TaskPriority.CRITICAL), "usr_2", ())
    await store.tasks.insert(store.new("tsk"), submitted, ME)
    await store.claim("agt_1")
    found = await store.tasks.list(TaskFilter(**wanted), after=None, limit=10)
    assert sorted(task.spec.name for task in found) == names


async def test_lists_leave_the_free_form_values_out(store: Store) -> None:
    """A page must not carry fifty megabytes."""
    await store.submit(TaskSpec("big", parameters=RawJson(b"[1]")))
    [listed] = await store.tasks.list(TaskFilter(), after=None, limit=10)
    assert listed.spec.parameters is None


async def test_pages_of_agents_go_from_the_oldest_on(store: Store) -> None:
    """Tombstones are left out; filters are exact."""
    agents = [await store.register(agent_type="worker") for _ in range(5)]
    await store.agents.change(agents[1].agent_id, unregister, ME)
    first = await store.agents.list(AgentFilter(), after=None, limit=2)
    rest = await store.agents.list(AgentFilter(), after=first[-1].agent_id, limit=10)
    kept = [agent.agent_id for agent in (*first, *rest)]
    assert kept == [agents[n].agent_id for n in (0, 2, 3, 4)]
    idle = AgentFilter(status=AgentStatus.IDLE, agent_type="worker")
    assert len(await store.agents.list(idle, after=None, limit=10)) == 4
    other = AgentFilter(agent_type="$agent_type")
    assert await store.agents.list(other, after=None, limit=10) == []


async def test_counts_name_every_status(store: Store) -> None:
    """Also those that no one has; tombstones don't count."""
    await store.submit()
    await store.running("agt_1")
    counts = await store.tasks.count_by_status()
    assert counts == {status.value: 0 for status in TaskStatus} | {"queued": 1, "running": 1}
    gone = await store.register()
    await store.register()
    await store.agents.change(gone.agent_id, unregister, ME)
    counted = await store.agents.count_by_status()
    assert counted == {status.value: 0 for status in AgentStatus} | {"idle": 1}


async def test_statuses_name_the_tasks_that_exist(store: Store) -> None:
    """Unknown identifiers are left out."""
    task = await store.submit()
    assert await store.tasks.statuses([task.task_id, "tsk_none"]) == {
        task.task_id: TaskStatus.QUEUED
    }


async def test_an_agent_comes_back_as_it_was_registered(store: Store) -> None:
    """Every part of a configuration survives."""
    spec = AgentSpec("$bee", "drone", ("cpu", "$gpu"), 4, {"k": "$v"})
    agent = await store.agents.insert("agt_1", register(spec), ME)
    assert agent.spec == spec
    assert await store.agents.get("agt_1") == agent
