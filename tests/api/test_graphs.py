"""The graph of tasks over the API: shown, and cancelled with all that hangs on a task."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentzero_client import AsyncClient, ProblemError
from hive.graphs import Direction
from server import subtrees
from tests.api.running import NOBODY_HAS_THIS, Agent, Api, RunningNode, found

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def diamond(api: Api, **bottom: Any) -> dict[str, str]:
    """Top, two sides, bottom, and one below it: identifiers by key."""
    waits: dict[str, list[str]] = {
        "top": [],
        "left": ["top"],
        "right": ["top"],
        "bottom": ["left", "right"],
        "last": ["bottom"],
    }
    tasks = [
        {
            "name": key,
            "key": key,
            "depends_on": names,
            "required_capabilities": [NOBODY_HAS_THIS],
            **(bottom if key == "bottom" else {}),
        }
        for key, names in waits.items()
    ]
    receipt = await api.ok("POST", "/api/v1/tasks/batch", json={"tasks": tasks})
    return {task["key"]: task["task_id"] for task in receipt["tasks"]}


async def graph(api: Api, task_id: str, **query: Any) -> dict[str, Any]:
    """The graph around a task."""
    return dict(await api.ok("GET", f"/api/v1/tasks/{task_id}/graph", params=query))


def shape(shown: dict[str, Any]) -> tuple[set[str], set[tuple[str, str]]]:
    """The names of the nodes, and the edges by name."""
    names = {node["task_id"]: node["name"] for node in shown["nodes"]}
    edges = {(names[edge["dependency"]], names[edge["dependent"]]) for edge in shown["edges"]}
    return set(names.values()), edges


async def statuses(api: Api, ids: dict[str, str]) -> dict[str, str]:
    """The statuses of tasks by key."""
    return {key: (await api.task(task_id))["status"] for key, task_id in ids.items()}


async def test_the_graph_shows_both_ways_from_a_task(viewer: Api, user: Api) -> None:
    """What it waits for, what waits for it, and every edge between these; not its siblings."""
    ids = await diamond(user)
    shown = await graph(viewer, ids["left"])
    assert shown["nodes"][0] == {"task_id": ids["left"], "name": "left", "status": "blocked"}
    assert shape(shown) == (
        {"top", "left", "bottom", "last"},
        {("top", "left"), ("left", "bottom"), ("bottom", "last")},
    )
    assert shown["truncated"] is False


async def test_the_graph_looks_one_way_and_so_many_steps(user: Api) -> None:
    """Down from the top, and up from the bottom, with all edges of a diamond."""
    ids = await diamond(user)
    sides = {("top", "left"), ("top", "right")}
    ends = {("left", "bottom"), ("right", "bottom")}
    assert shape(await graph(user, ids["top"], direction="down", depth=1))[1] == sides
    assert shape(await graph(user, ids["top"], direction="down", depth=2))[1] == sides | ends
    assert shape(await graph(user, ids["bottom"], direction="up"))[1] == sides | ends
    assert shape(await graph(user, ids["top"], direction="up")) == ({"top"}, set())


async def test_the_graph_of_no_task_is_not_found(user: Api) -> None:
    """As the task itself."""
    problem = await user.refused(404, "GET", "/api/v1/tasks/tsk_nobody/graph")
    assert problem["code"] == "task-not-found"


async def test_a_graph_is_cut_where_it_has_too_many_edges(node: RunningNode, user: Api) -> None:
    """It says so, and no edge leads to a task that is not shown."""
    ids = await diamond(user)
    for direction, start in (("down", "top"), ("up", "bottom")):
        cut = await node.node.services.graphs.read(
            ids[start], Direction(direction), depth=9, most_edges=3
        )
        assert cut.truncated
        assert len(cut.edges) == 3
        assert all({edge.dependency, edge.dependent} <= cut.nodes.keys() for edge in cut.edges)


async def test_a_subtree_is_cancelled_whatever_policies_say(user: Api) -> None:
    """All of it is cancelled: not failed with its dependency, not skipped, and not run."""
    for policy in ("fail", "skip-me", "run"):
        ids = await diamond(user, on_dependency_failure=policy)
        outcome = await user.ok("POST", f"/api/v1/tasks/{ids['left']}/cancel-subtree")
        assert outcome == {
            "task_id": ids["left"],
            "cancelled": 3,
            "stopping": 0,
            "of_others": 0,
            "remaining": 0,
        }
        seen = await statuses(user, ids)
        assert {key for key, status in seen.items() if status == "cancelled"} == {
            *("left", "bottom", "last")
        }
        assert (await user.task(ids["bottom"]))["reason"] == "cancelled"
        again = await user.ok("POST", f"/api/v1/tasks/{ids['left']}/cancel-subtree")
        assert again["cancelled"] == 0


async def test_the_subtree_of_a_completed_task_can_be_cancelled(user: Api, agent: Agent) -> None:
    """What runs is asked to stop; the task itself is left as it ended."""
    first = await user.submit(required_capabilities=[])
    second = await user.submit(required_capabilities=[], dependencies=[first])
    third = await user.submit(dependencies=[second], on_dependency_failure="run")
    await (await agent.lease(first)).ok("complete")
    lease = await agent.lease(second)
    outcome = await user.ok("POST", f"/api/v1/tasks/{first}/cancel-subtree")
    assert (outcome["cancelled"], outcome["stopping"]) == (1, 1)
    await lease.send("fail", error={"code": "stopped", "message": "as asked"})
    ids = {"first": first, "second": second, "third": third}
    assert await statuses(user, ids) == {
        "first": "completed",
        "second": "cancelled",
        "third": "cancelled",
    }


async def test_tasks_of_others_in_a_subtree_are_left_to_their_policy(
    user: Api, other_user: Api, admin: Api
) -> None:
    """One's own behind them are cancelled all the same; an admin cancels everybody's."""
    own = await user.submit()
    foreign = await other_user.submit(dependencies=[own], on_dependency_failure="run")
    behind = await user.submit(dependencies=[foreign])
    outcome = await user.ok("POST", f"/api/v1/tasks/{own}/cancel-subtree")
    assert (outcome["cancelled"], outcome["of_others"]) == (2, 1)
    await user.task_when(foreign, "queued")
    assert (await user.task(behind))["status"] == "cancelled"
    await user.refused(403, "POST", f"/api/v1/tasks/{foreign}/cancel-subtree")
    outcome = await admin.ok("POST", f"/api/v1/tasks/{own}/cancel-subtree")
    assert (outcome["cancelled"], outcome["of_others"]) == (1, 0)


async def test_a_large_subtree_is_cancelled_in_the_background(
    user: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request does a part; the reaper does the rest, the leaves first, and forgets the order."""
    monkeypatch.setattr(subtrees, "PER_REQUEST", 2)
    monkeypatch.setattr(subtrees, "PER_TURN", 3)
    name = f"large-{uuid.uuid4().hex}"
    tasks = [
        {
            "name": name,
            "key": f"k{n}",
            "depends_on": [f"k{n - 1}"] if n else [],
            "on_dependency_failure": "run",
            "required_capabilities": [NOBODY_HAS_THIS],
        }
        for n in range(9)
    ]
    receipt = await user.ok("POST", "/api/v1/tasks/batch", json={"tasks": tasks})
    root = receipt["tasks"][0]["task_id"]
    outcome = await user.ok("POST", f"/api/v1/tasks/{root}/cancel-subtree")
    assert (outcome["cancelled"], outcome["remaining"]) == (2, 7)
    left = f"/api/v1/tasks?name={name}&status=cancelled"
    await found(lambda: user.ok("GET", left), lambda seen: len(seen) == 9, "all are cancelled")


async def test_the_python_client_submits_batches_and_reads_graphs(
    node: RunningNode, user: Api
) -> None:
    """Typed, against the running node; a refused batch says which task it was."""
    needs = {"required_capabilities": [NOBODY_HAS_THIS]}
    later = datetime.now(UTC) + timedelta(days=1)
    async with AsyncClient(node.url, token=user.credential) as client:
        receipt = await client.tasks.submit_batch(
            [
                {"name": "a", "key": "a", "run_at": later, **needs},
                {"name": "b", "key": "b", "depends_on": ["a"], "description": None, **needs},
            ]
        )
        ids = receipt.task_ids()
        assert [task.status for task in receipt.tasks] == ["scheduled", "blocked"]
        around = await client.tasks.graph(ids["a"], direction="down", depth=1)
        assert [node.name for node in around.nodes] == ["a", "b"]
        assert [(edge.dependency, edge.dependent) for edge in around.edges] == [
            (ids["a"], ids["b"])
        ]
        assert (await client.tasks.cancel_subtree(ids["a"])).cancelled == 2
        with pytest.raises(ProblemError) as refused:
            await client.tasks.submit_batch([{"name": "x", "depends_on": ["nobody"]}])
        assert refused.value.code == "batch-refused"
        partly = await client.tasks.submit_batch(
            [{"name": "x", "depends_on": ["nobody"]}], mode="best-effort"
        )
        assert partly.tasks[0].problem is not None
