"""Many tasks in one submission, over the API."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.api.running import NOBODY_HAS_THIS, Agent, Api, RunningNode, found

pytestmark = pytest.mark.asyncio(loop_scope="module")
PATH = "/api/v1/tasks/batch"


def one(key: str | None = None, *depends_on: str, **more: Any) -> dict[str, Any]:
    """A task of a batch that no agent can run, unless the test says more."""
    task: dict[str, Any] = {"name": key or "work", "required_capabilities": [NOBODY_HAS_THIS]}
    if key is not None:
        task["key"] = key
    if depends_on:
        task["depends_on"] = list(depends_on)
    return {**task, **more}


async def submit(api: Api, *tasks: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The receipt of a batch."""
    return dict(await api.ok("POST", PATH, json={"tasks": list(tasks), **more}))


async def test_a_diamond_is_made_in_one_submission(user: Api) -> None:
    """Receipts come in the order given, whatever the order of the dependencies."""
    receipt = await submit(
        user,
        one("bottom", "left", "right"),
        one("left", "top"),
        one("right", "top"),
        one("top"),
    )
    assert (receipt["accepted"], receipt["refused"]) == (4, 0)
    ids = {task["key"]: task["task_id"] for task in receipt["tasks"]}
    assert list(ids) == ["bottom", "left", "right", "top"]
    statuses = {task["key"]: task["status"] for task in receipt["tasks"]}
    assert statuses == {"bottom": "blocked", "left": "blocked", "right": "blocked", "top": "queued"}
    bottom = await user.task(ids["bottom"])
    assert bottom["dependencies"] == bottom["waiting_on"] == [ids["left"], ids["right"]]


async def test_each_task_of_a_batch_has_its_event_behind_those_it_depends_on(user: Api) -> None:
    """Who follows the log hears of a task before what depends on it."""
    name = f"event-{uuid.uuid4().hex}"
    receipt = await submit(user, one("b", "a", name=name), one("a", name=name))
    ids = [task["task_id"] for task in receipt["tasks"]]

    async def created() -> list[str]:
        events = await user.ok("GET", "/api/v1/events?type=task.created&order=desc&limit=50")
        return [event["subject"] for event in reversed(events) if event["subject"] in ids]

    assert await found(created, lambda seen: len(seen) == 2, "both events") == ids[::-1]


async def test_a_whole_batch_runs_through(node: RunningNode, user: Api, admin: Api) -> None:
    """The last task completes when all before it have; parameters come as the bytes that went."""
    capability = f"batch-{uuid.uuid4().hex[:8]}"
    agent = await node.add_agent(admin, capabilities=[capability])
    needs: dict[str, Any] = {"required_capabilities": [capability]}
    receipt = await submit(
        user, one("first", parameters={"x": 1.0}, **needs), one("second", "first", **needs)
    )
    first, second = (task["task_id"] for task in receipt["tasks"])
    assert (await user.get(f"/api/v1/tasks/{first}")).text.count('{"x":1.0}') == 1
    for task_id in (first, second):
        lease = await agent.lease(task_id)
        await lease.ok("complete")
    await user.task_when(second, "completed")


async def test_a_batch_depends_on_tasks_that_exist(user: Api, agent: Agent) -> None:
    """What has completed already is not waited for."""
    waiting = await user.submit()
    done = await user.submit(required_capabilities=[])
    lease = await agent.lease(done)
    await lease.ok("complete")
    receipt = await submit(user, one("x", dependencies=[waiting, done]), one(dependencies=[done]))
    assert [task["status"] for task in receipt["tasks"]] == ["blocked", "queued"]
    task = await user.task(receipt["tasks"][0]["task_id"])
    assert (task["dependencies"], task["waiting_on"]) == ([waiting, done], [waiting])


async def test_a_batch_behind_a_failed_task_ends_at_once(user: Api) -> None:
    """As with a single submission, policies decide; the receipts show it."""
    gone = await user.submit()
    await user.ok("DELETE", f"/api/v1/tasks/{gone}")
    receipt = await submit(
        user,
        one("fails", dependencies=[gone]),
        one("skips", dependencies=[gone], on_dependency_failure="skip-me"),
        one("runs", dependencies=[gone], on_dependency_failure="run"),
        one("behind", "fails"),
    )
    statuses = [task["status"] for task in receipt["tasks"]]
    assert statuses[:3] == ["failed", "cancelled", "queued"]
    await user.task_when(receipt["tasks"][3]["task_id"], "failed")


FLAWS = [
    ([one("a", "b"), one("b", "a")], ["/tasks/0/depends_on/0", "/tasks/1/depends_on/0"]),
    ([one("a", "a")], ["/tasks/0/depends_on/0"]),
    ([one("a"), one("a")], ["/tasks/1/key"]),
    ([one("a", "nobody"), one("b", "a")], ["/tasks/0/depends_on/0", "/tasks/1/depends_on/0"]),
    ([one(dependencies=["tsk_nobody"])], ["/tasks/0/dependencies/0"]),
    ([one("a"), one("b", "a", "a")], ["/tasks/1/depends_on/1"]),
    ([one(run_at="2026-12-31T23:59:60Z")], ["/tasks/0/run_at"]),
    ([one(deduplication={"key": "once"})], ["/tasks/0/deduplication"]),
]


@pytest.mark.parametrize(("tasks", "pointers"), FLAWS)
async def test_a_batch_with_a_flaw_makes_nothing(
    user: Api, tasks: list[dict[str, Any]], pointers: list[str]
) -> None:
    """All or nothing: each flaw is named by its place, and the good tasks are not made either."""
    name = f"good-{uuid.uuid4().hex}"
    good = one("good", name=name)
    problem = await user.refused(422, "POST", PATH, json={"tasks": [*tasks, good]})
    assert problem["code"] == "batch-refused"
    assert [error["pointer"] for error in problem["errors"]] == pointers
    assert await user.ok("GET", f"/api/v1/tasks?name={name}") == []


async def test_the_cycle_is_named(user: Api) -> None:
    """The words show the tasks that wait for each other, not those behind them."""
    tasks = [one("behind", "a"), one("a", "b"), one("b", "c"), one("c", "a")]
    problem = await user.refused(422, "POST", PATH, json={"tasks": tasks})
    cycle = "/tasks/1 -> /tasks/2 -> /tasks/3 -> /tasks/1"
    assert all(cycle in error["detail"] for error in problem["errors"])


async def test_best_effort_makes_what_can_be_made(user: Api) -> None:
    """A receipt or a problem for each, in the order given."""
    receipt = await submit(
        user,
        one("good"),
        one("bad", "nobody"),
        one("behind", "bad"),
        one("fine", "good"),
        mode="best-effort",
    )
    assert (receipt["accepted"], receipt["refused"]) == (2, 2)
    outcomes = [task.get("status") or task["problem"]["code"] for task in receipt["tasks"]]
    assert outcomes == ["queued", "unknown-key", "dependency-refused", "blocked"]
    nothing = await submit(user, one("bad", "nobody"), mode="best-effort")
    assert (nothing["accepted"], nothing["refused"]) == (0, 1)


async def test_too_many_dependencies_together_are_refused(user: Api) -> None:
    """Keys are short and identifiers are not: the batch has to fit into one document."""
    first = [one(f"k{n}") for n in range(150)]
    keys = [task["key"] for task in first]
    second = [one(None, *keys) for _ in range(70)]
    problem = await user.refused(422, "POST", PATH, json={"tasks": [*first, *second]})
    assert problem["code"] == "too-many-edges"


async def test_a_batch_under_a_key_is_made_once(user: Api) -> None:
    """A repetition gets the same receipts."""
    name = f"once-{uuid.uuid4().hex}"
    body = {"tasks": [one("a", name=name), one("b", "a", name=name)]}
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    first, again = [await user.post(PATH, json=body, headers=headers) for _ in range(2)]
    assert first.status_code == 200, first.text
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json() == first.json()
    assert len(await user.ok("GET", f"/api/v1/tasks?name={name}")) == 2


async def test_each_task_of_a_batch_is_in_the_audit_log(user: Api, admin: Api) -> None:
    """As if each had been submitted alone; refused ones with their code."""
    receipt = await submit(user, one("good"), one("bad", "nobody"), mode="best-effort")
    made = receipt["tasks"][0]["task_id"]
    (record,) = await admin.ok("GET", f"/api/v1/audit?resource={made}")
    assert (record["operation"], record["outcome"]) == ("create_task", "success")
    records = await admin.ok("GET", "/api/v1/audit?operation=create_task&limit=20")
    codes = [each.get("code") for each in records if each["request_id"] == record["request_id"]]
    assert sorted(codes, key=str) == ["unknown-key", None] or set(codes) == {"unknown-key", None}


async def test_a_viewer_submits_no_batch(viewer: Api) -> None:
    """It takes the permission that a single submission takes."""
    await viewer.refused(403, "POST", PATH, json={"tasks": [one()]})
