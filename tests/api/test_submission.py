"""Submission over the wire: changing what waits, deduplication, waiting for the end, the bound."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.api.running import NOBODY_HAS_THIS, Agent, Api, RunningNode, found, running_node

pytestmark = pytest.mark.asyncio(loop_scope="module")
TASKS = "/api/v1/tasks"
RUSH = 10
LONG_SECONDS = 30
Waiting = asyncio.Task[httpx.Response]


@pytest.fixture
def capability() -> str:
    """A capability that only this test's agents and tasks have."""
    return f"cap-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def key() -> str:
    """A deduplication key of this test."""
    return f"key-{uuid.uuid4().hex[:8]}"


async def changed(api: Api, task_id: str, **fields: Any) -> dict[str, Any]:
    """The task after an update that has to succeed."""
    return dict(await api.ok("PATCH", f"{TASKS}/{task_id}", json=fields))


def waiting(api: Api, task_id: str, seconds: float = LONG_SECONDS, **request: Any) -> Waiting:
    """A request that waits for the end of the task, under way."""
    path = f"{TASKS}/{task_id}?wait_seconds={seconds}"
    return asyncio.create_task(api.get(path, **request))


async def is_waiting(node: RunningNode, task_id: str, callers: int = 1) -> None:
    """Return once so many callers wait for the task, and have looked at it before."""
    waits = node.node.task_waits

    async def count() -> int:
        waiting = waits._waiters.get(task_id, ())
        return sum(bool(waiter.answered._callbacks) for waiter in waiting)

    await found(count, lambda seen: seen == callers, f"{callers} callers wait", 20)


async def last_event(api: Api, task_id: str, count: int) -> dict[str, Any]:
    """The newest event of the task, once there are so many."""

    async def read() -> list[Any]:
        return list(await api.ok("GET", f"/api/v1/events?subject={task_id}"))

    events = await found(read, lambda seen: len(seen) == count, f"{count} events")
    return dict(events[-1])


async def test_every_field_of_a_queued_task_is_changed_with_one_event(user: Api) -> None:
    """What was named is different, what was not stays; the event tells the summary."""
    task_id = await user.submit(description="old", labels={"a": "1"}, parameters={"n": 1})
    given = {
        "description": "new",
        "priority": "critical",
        "labels": {"b": "2"},
        "max_attempts": 9,
        "timeouts": {"queue_seconds": 600, "total_seconds": 3600},
    }
    before = await user.task(task_id)
    after = await changed(user, task_id, **given)
    assert {name: after[name] for name in given} == given
    assert after["version"] == before["version"] + 1
    untouched = before.keys() - given.keys() - {"version", "updated_at"}
    assert {name: after[name] for name in untouched} == {name: before[name] for name in untouched}
    event = await last_event(user, task_id, 2)
    assert event["type"] == "task.updated"
    assert event["data"]["priority"] == "critical"
    assert event["data"]["version"] == after["version"]


async def test_update_that_changes_nothing_makes_no_version(user: Api) -> None:
    """A repeated update is answered and leaves no trace."""
    task_id = await user.submit(priority="high")
    first = await changed(user, task_id, priority="low")
    assert await changed(user, task_id, priority="low") == first


async def test_another_priority_is_another_place_in_the_queue(
    user: Api, admin: Api, node: RunningNode, capability: str
) -> None:
    """The youngest task of the lowest priority is claimed first once it is critical."""
    agent = await node.add_agent(admin, capabilities=[capability], slots=3)
    wanted = {"required_capabilities": [capability]}
    first, second = [await user.submit(priority="high", **wanted) for _ in range(2)]
    last = await user.submit(priority="low", **wanted)
    await changed(user, last, priority="critical")
    await changed(user, first, priority="low")
    leases = [lease for _ in range(3) for lease in await agent.claim()]
    assert [lease["task"]["task_id"] for lease in leases] == [last, second, first]


async def test_later_run_at_puts_a_queued_task_off_and_an_earlier_one_brings_it_back(
    user: Api,
) -> None:
    """It is scheduled until its new time, which may be changed again."""
    task_id = await user.submit()
    later = datetime.now(UTC) + timedelta(days=1)
    put_off = await changed(user, task_id, run_at=later.isoformat())
    assert put_off["status"] == "scheduled"
    past = datetime.now(UTC) - timedelta(seconds=1)
    assert (await changed(user, task_id, run_at=past.isoformat()))["status"] == "scheduled"
    assert "run_at" not in await user.task_when(task_id, "queued")


async def test_blocked_task_that_is_put_off_blocks_again(user: Api) -> None:
    """Its dependencies are not forgotten while it waits for its time."""
    first = await user.submit()
    task_id = await user.submit(dependencies=[first])
    past = datetime.now(UTC) - timedelta(seconds=1)
    assert (await changed(user, task_id, run_at=past.isoformat()))["status"] == "scheduled"
    assert (await user.task_when(task_id, "blocked"))["waiting_on"] == [first]


async def test_total_timeout_counts_from_submission_whenever_it_is_set(user: Api) -> None:
    """A task that is older than its new total timeout fails."""
    task_id = await user.submit()
    await changed(user, task_id, timeouts={"total_seconds": 1})
    assert (await user.task_when(task_id, "failed"))["error"]["code"] == "total-timeout"


async def test_running_and_ended_tasks_are_not_changed(user: Api, agent: Agent) -> None:
    """Both are 409 illegal-transition."""
    task_id = await user.submit(required_capabilities=[])
    lease = await agent.lease(task_id)
    path = f"{TASKS}/{task_id}"
    problem = await user.refused(409, "PATCH", path, json={"priority": "low"})
    assert problem["code"] == "illegal-transition"
    await lease.ok("complete")
    problem = await user.refused(409, "PATCH", path, json={"priority": "low"})
    assert "completed" in problem["detail"]


async def test_attempts_that_were_begun_are_not_taken_away(user: Api, agent: Agent) -> None:
    """A task in its backoff keeps at least one more attempt."""
    task_id = await user.submit(
        required_capabilities=[], backoff={"kind": "fixed", "base_seconds": 600, "jitter": 0}
    )
    lease = await agent.lease(task_id)
    await lease.ok("fail", error={"code": "boom", "message": "It broke."})
    path = f"{TASKS}/{task_id}"
    problem = await user.refused(409, "PATCH", path, json={"max_attempts": 1})
    assert problem["code"] == "attempts-used"
    assert (await changed(user, task_id, max_attempts=2))["max_attempts"] == 2


async def test_who_may_change_a_task_and_at_which_version(
    user: Api, other_user: Api, viewer: Api, admin: Api
) -> None:
    """The owner and admins; If-Match holds."""
    task_id = await user.submit()
    path, body = f"{TASKS}/{task_id}", {"priority": "high"}
    for stranger in (other_user, viewer):
        await stranger.refused(403, "PATCH", path, json=body)
    stale = {"If-Match": '"7"'}
    await user.refused(412, "PATCH", path, json=body, headers=stale)
    await admin.ok("PATCH", path, json=body, headers={"If-Match": '"1"'})
    await user.refused(404, "PATCH", f"{TASKS}/tsk_none", json=body)
    await user.refused(400, "PATCH", path, json={})
    await user.refused(400, "PATCH", path, json={"name": "other"})
    await user.refused(422, "PATCH", path, json={"run_at": "0001-01-01T00:00:00+23:59"})


async def test_submissions_of_one_key_at_once_make_one_task(user: Api, key: str) -> None:
    """All get the same receipt, and all but one say that it is a duplicate."""
    body = {
        "name": "once",
        "required_capabilities": [NOBODY_HAS_THIS],
        "labels": {"rush": key},
        "deduplication": {"key": key, "on_duplicate": "return-existing"},
    }
    async with asyncio.TaskGroup() as group:
        rush = [group.create_task(_persistent(user, body)) for _ in range(RUSH)]
    receipts = [done.result() for done in rush]
    assert len({receipt["task_id"] for receipt in receipts}) == 1
    assert sum("duplicate" not in receipt for receipt in receipts) == 1
    assert len(await user.ok("GET", f"{TASKS}?label=rush:{key}")) == 1


async def _persistent(api: Api, body: dict[str, Any]) -> dict[str, Any]:
    """The receipt; what a busy node refuses is asked again."""
    answer = await found(
        lambda: api.post(TASKS, json=body),
        lambda seen: seen.status_code not in {429, 503},
        "the submission is taken",
        60,
    )
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_rejected_duplicate_names_the_task_and_the_end_frees_the_key(
    user: Api, other_user: Api, key: str
) -> None:
    """Keys are the owner's; a cancelled task has none."""
    deduplication = {"key": key}
    task_id = await user.submit(deduplication=deduplication)
    body = {"name": "again", "deduplication": deduplication}
    problem = await user.refused(409, "POST", TASKS, json=body)
    assert problem["code"] == "duplicate-task"
    assert problem["task_id"] == task_id
    assert await other_user.submit(deduplication=deduplication) != task_id
    assert (await user.task(task_id))["deduplication"] == {
        **deduplication,
        "on_duplicate": "reject",
    }
    await user.ok("DELETE", f"{TASKS}/{task_id}")
    assert await user.submit(deduplication=deduplication) != task_id


async def test_repetition_under_an_idempotency_key_is_no_duplicate_of_itself(
    user: Api, key: str
) -> None:
    """The stored receipt is given again."""
    body = {
        "name": "once",
        "required_capabilities": [NOBODY_HAS_THIS],
        "deduplication": {"key": key},
    }
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    first = await user.ok("POST", TASKS, json=body, headers=headers)
    assert await user.ok("POST", TASKS, json=body, headers=headers) == first


async def test_waiting_is_answered_when_the_task_ends(
    user: Api, agent: Agent, node: RunningNode
) -> None:
    """Start and progress don't wake it, the end does; the result is in the answer."""
    task_id = await user.submit(required_capabilities=[])
    asked = waiting(user, task_id)
    await is_waiting(node, task_id)
    lease = await agent.lease(task_id)
    await lease.ok("renew", progress={"fraction": 0.5})
    assert not asked.done()
    await lease.ok("complete", result={"words": 3})
    task = (await asyncio.wait_for(asked, 10)).json()
    assert (task["status"], task["result"]) == ("completed", {"words": 3})
    again = await asyncio.wait_for(waiting(user, task_id), 10)
    assert again.json() == task


async def test_time_that_is_over_answers_the_task_as_it_is(user: Api) -> None:
    """Without an end there is the present state."""
    task_id = await user.submit()
    assert (await waiting(user, task_id, 0.05)).json()["status"] == "queued"
    for wait in ("31", "1e999", "nan", "-1"):
        await user.refused(400, "GET", f"{TASKS}/{task_id}?wait_seconds={wait}")
    # As small as a number of 64 bits can be.
    await user.ok("GET", f"{TASKS}/{task_id}?wait_seconds=2.2250738585e-309")
    await user.refused(404, "GET", f"{TASKS}/tsk_none?wait_seconds=1")


async def test_with_if_none_match_it_waits_for_another_version(
    user: Api, node: RunningNode
) -> None:
    """The version that the client has is waited out: 304 when the time is over, else the change."""
    task_id = await user.submit()
    tag = (await user.get(f"{TASKS}/{task_id}")).headers["ETag"]
    headers = {"If-None-Match": tag}
    assert (await waiting(user, task_id, 0.05, headers=headers)).status_code == 304
    asked = waiting(user, task_id, headers=headers)
    await is_waiting(node, task_id)
    await changed(user, task_id, priority="high")
    answer = await asyncio.wait_for(asked, 10)
    assert (answer.status_code, answer.json()["priority"]) == (200, "high")
    # One that is behind already has nothing to wait for.
    assert (await asyncio.wait_for(waiting(user, task_id, headers=headers), 10)).status_code == 200


async def test_change_by_another_node_wakes_by_its_event(user: Api, node: RunningNode) -> None:
    """What this node's commits don't tell, the log does."""
    task_id = await user.submit()
    asked = waiting(user, task_id)
    await is_waiting(node, task_id)
    tasks = node.node.store.tasks.resources
    kept, tasks._committed = tasks._committed, []
    try:
        await user.ok("DELETE", f"{TASKS}/{task_id}")
    finally:
        tasks._committed = kept
    assert (await asyncio.wait_for(asked, 20)).json()["status"] == "cancelled"


async def test_who_waits_holds_no_slot_and_costs_one_read(
    user: Api, node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty callers are answered by one look at the task; none of them counts as running."""
    task_id = await user.submit()
    crowd = [waiting(user, task_id) for _ in range(60)]
    await is_waiting(node, task_id, 60)
    reads: list[str] = []
    tasks = node.node.task_waits._tasks
    get = tasks.get

    async def counted(wanted: str) -> Any:
        reads.append(wanted)
        # The event of the commit comes meanwhile, and is no news.
        await asyncio.sleep(0.5)
        return await get(wanted)

    monkeypatch.setattr(tasks, "get", counted)
    assert node.node.app.pipeline.load.running == 0  # type: ignore[attr-defined]
    await user.ok("DELETE", f"{TASKS}/{task_id}")
    answers = await asyncio.wait_for(asyncio.gather(*crowd), 30)
    assert {answer.json()["status"] for answer in answers} == {"cancelled"}
    assert len(reads) == 1


@pytest_asyncio.fixture(loop_scope="module")
async def small(
    tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str
) -> AsyncIterator[RunningNode]:
    """A node where nobody may have more than three open tasks."""
    directory = tmp_path_factory.mktemp("small")
    async with running_node(directory, mongodb_uri, max_open_tasks_per_owner=3) as running:
        yield running


async def test_bound_of_open_tasks_and_drain(small: RunningNode) -> None:
    """The fourth is 429 with Retry-After; an end makes room; a drain answers who waits."""
    admin = await small.log_in("admin")
    key = {"deduplication": {"key": "k", "on_duplicate": "return-existing"}}
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    body = {"name": "one", "required_capabilities": [NOBODY_HAS_THIS], **key}
    async with asyncio.TaskGroup() as group:
        rush = [group.create_task(admin.post(TASKS, json={"name": "x"})) for _ in range(2)]
    assert {done.result().status_code for done in rush} == {200}
    receipt = await admin.ok("POST", TASKS, json=body, headers=headers)
    refused = await admin.post(TASKS, json={"name": "too many"})
    assert (refused.status_code, refused.json()["code"]) == (429, "too-many-tasks")
    assert int(refused.headers["Retry-After"]) > 0
    # What makes no new task needs no room.
    assert (await admin.ok("POST", TASKS, json=body))["task_id"] == receipt["task_id"]
    await admin.ok("DELETE", f"{TASKS}/{rush[0].result().json()['task_id']}")
    await found(
        lambda: admin.post(TASKS, json={"name": "fits"}),
        lambda answer: answer.status_code == 200,
        "there is room again",
    )
    asked = waiting(admin, receipt["task_id"])
    await is_waiting(small, receipt["task_id"])
    await small.node.task_waits.stop()
    assert (await asyncio.wait_for(asked, 10)).json()["status"] == "queued"
    assert (await asyncio.wait_for(waiting(admin, receipt["task_id"]), 10)).status_code == 200
