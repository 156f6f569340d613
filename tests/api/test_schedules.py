"""Schedules over REST: what they make, and who may change them."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentzero_client import AsyncClient
from tests.api.operations import CONTRACT
from tests.api.running import NOBODY_HAS_THIS, Agent, Api, RunningNode, found

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/api/v1/schedules"
FAR = 31_536_000
TASK = {"name": "scheduled work", "required_capabilities": [NOBODY_HAS_THIS]}


async def make(api: Api, **body: Any) -> dict[str, Any]:
    """A new schedule, of which the time is far unless the test says more."""
    timing = {} if "cron" in body else {"interval_seconds": FAR}
    given = {"name": f"s-{uuid.uuid4().hex}", "task": TASK, **timing, **body}
    return dict(await api.ok("POST", PATH, json=given))


async def seen(api: Api, schedule: dict[str, Any]) -> dict[str, Any]:
    """The schedule as it is now."""
    return dict(await api.ok("GET", f"{PATH}/{schedule['schedule_id']}"))


async def tasks_of(api: Api, schedule: dict[str, Any]) -> list[dict[str, Any]]:
    """The tasks that the schedule has made, the newest first."""
    label = f"schedule_id:{schedule['schedule_id']}"
    return list(await api.ok("GET", "/api/v1/tasks", params={"label": label}))


async def test_a_schedule_makes_its_task_again_and_again(user: Api) -> None:
    """Each has its own identifier, the owner, the labels and the parameters of the template."""
    schedule = await make(
        user,
        interval_seconds=1,
        overlap="allow",
        task={**TASK, "parameters": {"pages": [1.0, 2]}, "labels": {"team": "blue"}},
    )
    last = await found(
        lambda: seen(user, schedule), lambda one: one["counts"]["made"] >= 2, "two tasks are made"
    )
    await user.ok("DELETE", f"{PATH}/{schedule['schedule_id']}")
    tasks = await tasks_of(user, schedule)
    assert len({task["task_id"] for task in tasks}) >= 2
    assert last["last_run"]["task_id"] in {task["task_id"] for task in tasks}
    task = await user.task(tasks[0]["task_id"])
    assert task["owner"] == schedule["owner"]
    assert task["labels"] == {"team": "blue", "schedule_id": schedule["schedule_id"]}
    assert task["parameters"] == {"pages": [1.0, 2]}


async def test_parameters_are_kept_byte_for_byte(user: Api) -> None:
    """Neither the schedule nor its tasks read what is free-form."""
    task = b'{"name":"t","required_capabilities":["nobody-has-this"],"parameters":[1.0,1e2]}'
    body = b'{"name":"%s","interval_seconds":86400,"task":%s}'
    response = await user.post(
        PATH,
        content=body % (uuid.uuid4().hex.encode(), task),
        headers={"Content-Type": "application/json"},
    )
    schedule = response.json()
    assert b'"parameters":[1.0,1e2]' in response.content
    receipt = await user.ok("POST", f"{PATH}/{schedule['schedule_id']}/run")
    shown = await user.get(f"/api/v1/tasks/{receipt['task_id']}")
    assert b'"parameters":[1.0,1e2]' in shown.content


async def test_what_a_schedule_is_made_of_is_shown_as_it_was_given(user: Api) -> None:
    """The whole configuration comes back; lists have all of it but the task."""
    given = {
        "description": "every working day",
        "cron": "30 2 * * MON-FRI",
        "time_zone": "Europe/Berlin",
        "overlap": "buffer-one",
        "catch_up_seconds": 3600,
        "jitter_seconds": 30,
        "starts_at": "2030-01-01T00:00:00.000Z",
        "ends_at": "2031-01-01T00:00:00.000Z",
    }
    schedule = await make(user, **given)
    assert given.items() <= schedule.items()
    assert schedule["task"] == TASK
    assert schedule["next_run_at"] == "2030-01-01T01:30:00.000Z"
    listed = await user.ok("GET", PATH, params={"name": schedule["name"]})
    assert listed == [{name: value for name, value in schedule.items() if name != "task"}]


async def test_the_next_times_are_told(user: Api) -> None:
    """In UTC, with the end of the schedule at most; a fixed time in the gap comes at its end."""
    schedule = await make(
        user,
        cron="30 2 * * *",
        time_zone="Europe/Berlin",
        starts_at="2030-03-30T00:00:00Z",
        ends_at="2030-04-01T12:00:00Z",
    )
    times = await user.ok("GET", f"{PATH}/{schedule['schedule_id']}/times", params={"limit": 100})
    assert times["times"] == [
        "2030-03-30T01:30:00.000Z",
        "2030-03-31T01:00:00.000Z",
        "2030-04-01T00:30:00.000Z",
    ]


async def test_a_paused_schedule_makes_nothing_until_it_is_resumed(user: Api) -> None:
    """Pausing and resuming are repeated without a change."""
    schedule = await make(user, interval_seconds=1, paused=True)
    path = f"{PATH}/{schedule['schedule_id']}"
    assert (schedule["status"], "next_run_at" in schedule) == ("paused", False)
    assert (await user.ok("POST", f"{path}/pause"))["version"] == 1
    resumed = await user.ok("POST", f"{path}/resume")
    assert (resumed["status"], resumed["paused"], resumed["version"]) == ("active", False, 2)
    await found(lambda: seen(user, schedule), lambda one: one["counts"]["made"], "it makes a task")
    paused = await user.ok("POST", f"{path}/pause")
    made = paused["counts"]["made"]
    assert paused["status"] == "paused"
    await user.ok("POST", f"{path}/run")
    assert (await seen(user, schedule))["counts"]["made"] == made + 1


async def test_run_makes_a_task_now_and_once_under_a_key(user: Api) -> None:
    """A repetition gives the same task, and it counts once."""
    schedule = await make(user)
    path = f"{PATH}/{schedule['schedule_id']}"
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    first = await user.post(f"{path}/run", headers=headers)
    again = await user.post(f"{path}/run", headers=headers)
    assert (first.status_code, first.json()) == (201, again.json())
    assert first.headers["location"] == f"/api/v1/tasks/{first.json()['task_id']}"
    now = await seen(user, schedule)
    assert now["counts"] == {"made": 1, "skipped": 0, "missed": 0}
    assert now["last_run"]["task_id"] == first.json()["task_id"]
    assert now["next_run_at"] == schedule["next_run_at"]


async def test_an_update_replaces_the_whole_and_keeps_what_happened(user: Api) -> None:
    """What is left out is gone; counts and last run stay; the same configuration is no change."""
    schedule = await make(user, description="old", jitter_seconds=5)
    path = f"{PATH}/{schedule['schedule_id']}"
    await user.ok("POST", f"{path}/run")
    body = {"name": schedule["name"], "task": TASK, "cron": "0 4 * * *"}
    updated = await user.ok("PUT", path, json=body)
    assert "description" not in updated
    assert "interval_seconds" not in updated
    assert (updated["jitter_seconds"], updated["counts"]["made"]) == (0, 1)
    assert (await user.ok("PUT", path, json=body))["version"] == updated["version"]
    await user.refused(412, "PUT", path, json=body, headers={"If-Match": '"1"'})


async def test_a_schedule_ends_with_its_last_time(user: Api) -> None:
    """It is `ended` then, and a later end makes it active again."""
    schedule = await make(user, ends_at="2026-01-01T00:00:00Z")
    assert (schedule["status"], "next_run_at" in schedule) == ("ended", False)
    body = {"name": schedule["name"], "task": TASK, "interval_seconds": FAR}
    updated = await user.ok("PUT", f"{PATH}/{schedule['schedule_id']}", json=body)
    assert updated["status"] == "active"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/cron"),
        ({"cron": "0 0 * * *", "interval_seconds": 60}, "/cron"),
        ({"cron": "61 * * * *"}, "/cron"),
        ({"cron": "0 0 31 2 *"}, "/cron"),
        ({"cron": "0 0 * * *", "time_zone": "Mars/Olympus"}, "/time_zone"),
        ({"cron": "0 0 * * *", "time_zone": "Europe"}, "/time_zone"),
        ({"interval_seconds": 60, "time_zone": "Europe/Berlin"}, "/time_zone"),
        ({"cron": "0 0 * * *", "anchor": "2030-01-01T00:00:00Z"}, "/anchor"),
        (
            {
                "interval_seconds": 60,
                "starts_at": "2030-01-02T00:00:00Z",
                "ends_at": "2030-01-01T00:00:00Z",
            },
            "/ends_at",
        ),
    ],
)
async def test_what_would_never_fire_is_refused(
    user: Api, body: dict[str, Any], pointer: str
) -> None:
    """422, with the place."""
    given = {"name": f"s-{uuid.uuid4().hex}", "task": TASK, **body}
    problem = await user.refused(422, "POST", PATH, json=given)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]


async def test_a_scheduled_task_waits_for_nothing_else(user: Api) -> None:
    """Its template has all that a submission has but times and dependencies."""
    schemas = CONTRACT.openapi["components"]["schemas"]
    given = dict(schemas["TaskCreate"]["properties"])
    for name in ("run_at", "dependencies", "on_dependency_failure"):
        del given[name]
        body = {"name": "never", "task": {**TASK, name: []}, "interval_seconds": FAR}
        await user.refused(400, "POST", PATH, json=body)
    offered = dict(schemas["ScheduledTask"]["properties"])
    assert (offered.pop("labels"), given.pop("labels")) != (None, None)
    assert offered == given


async def test_only_the_owner_and_admins_change_a_schedule(
    user: Api, other_user: Api, viewer: Api, admin: Api
) -> None:
    """Others see it, and get 403 for the rest; to an admin it stays the owner's."""
    schedule = await make(user)
    path = f"{PATH}/{schedule['schedule_id']}"
    assert await seen(viewer, schedule) == schedule
    body = {"name": "mine", "task": TASK, "cron": "0 0 * * *"}
    for method, verb in (("POST", "/pause"), ("POST", "/resume"), ("POST", "/run"), ("DELETE", "")):
        await other_user.refused(403, method, path + verb)
    await other_user.refused(403, "PUT", path, json=body)
    receipt = await admin.ok("POST", f"{path}/run")
    assert (await user.task(receipt["task_id"]))["owner"] == schedule["owner"]
    await admin.ok("DELETE", path)
    problem = await user.refused(404, "GET", path)
    assert problem["code"] == "schedule-not-found"


async def test_a_name_is_its_owners_once(user: Api, other_user: Api) -> None:
    """Somebody else may use it, and so may the owner after the schedule is gone."""
    name = f"s-{uuid.uuid4().hex}"
    schedule = await make(user, name=name)
    problem = await user.refused(
        409, "POST", PATH, json={"name": name, "task": TASK, "interval_seconds": FAR}
    )
    assert problem["code"] == "name-taken"
    await make(other_user, name=name)
    await user.ok("DELETE", f"{PATH}/{schedule['schedule_id']}")
    await make(user, name=name)


async def test_an_owner_has_a_bounded_number_of_schedules(
    node: RunningNode, other_user: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ten at once for the last three places three get one; a deleted one makes room."""
    del node
    mine = (await other_user.ok("GET", "/api/v1/auth/me"))["principal_id"]
    there = len(await other_user.ok("GET", PATH, params={"owner": mine}))
    monkeypatch.setattr("storage.mongo.schedules.MAX_PER_OWNER", there + 3)
    bodies = [{"name": f"s-{n}", "task": TASK, "interval_seconds": FAR} for n in range(10)]
    answers = await asyncio.gather(*(other_user.post(PATH, json=body) for body in bodies))
    assert sorted(one.status_code for one in answers) == [201] * 3 + [409] * 7
    refused = next(one for one in answers if one.status_code == 409)
    assert refused.json()["code"] == "too-many-schedules"
    made = next(one.json() for one in answers if one.status_code == 201)
    await other_user.ok("DELETE", f"{PATH}/{made['schedule_id']}")
    await make(other_user)


async def test_lists_filter_and_page(admin: Api) -> None:
    """By status, owner and name, in both orders, page by page."""
    mine = (await admin.ok("GET", "/api/v1/auth/me"))["principal_id"]
    made = [await make(admin, paused=bool(n % 2)) for n in range(4)]
    ids = [one["schedule_id"] for one in made]
    listed = await admin.pages(f"{PATH}?owner={mine}&limit=3")
    assert [one["schedule_id"] for one in listed][-4:] == ids
    newest = await admin.pages(f"{PATH}?owner={mine}&order=desc&status=paused&fields=next_run_at")
    assert [one["schedule_id"] for one in newest][:2] == [ids[3], ids[1]]
    assert "cron" not in newest[0]


async def test_a_time_that_overlaps_is_skipped_while_an_agent_works(
    node: RunningNode, admin: Api
) -> None:
    """The task that runs holds the next ones up; the one after its end is made."""
    agent: Agent = await node.add_agent(admin, capabilities=["overlapping"])
    task = {"name": "long", "required_capabilities": ["overlapping"]}
    schedule = await make(admin, interval_seconds=1, task=task)
    (claimed,) = await agent.claim(wait_seconds=10)
    await found(
        lambda: seen(admin, schedule), lambda one: one["counts"]["skipped"] >= 1, "one is skipped"
    )
    assert (await seen(admin, schedule))["counts"]["made"] == 1
    await agent.api.ok(
        "POST", f"/api/v1/leases/{claimed['lease_id']}/complete", json={"fence": claimed["fence"]}
    )
    await found(
        lambda: seen(admin, schedule), lambda one: one["counts"]["made"] == 2, "another is made"
    )
    await admin.ok("DELETE", f"{PATH}/{schedule['schedule_id']}")


async def test_the_history_has_what_happened_to_a_schedule(user: Api) -> None:
    """One event a change, in order, with the schedule as it was then and without its task."""
    schedule = await make(user)
    path = f"{PATH}/{schedule['schedule_id']}"
    for verb in ("pause", "resume", "run"):
        await user.ok("POST", f"{path}/{verb}")
    await user.ok("PUT", path, json={"name": schedule["name"], "task": TASK, "cron": "0 0 * * *"})
    await user.ok("DELETE", path)
    params = {"subject": schedule["schedule_id"]}
    events = await found(
        lambda: user.ok("GET", "/api/v1/events", params=params),
        lambda events: len(events) == 6,
        "six events are there",
    )
    assert [event["type"].removeprefix("schedule.") for event in events] == [
        "created", "paused", "resumed", "fired", "updated", "deleted",
    ]  # fmt: skip
    assert events[3]["data"]["counts"]["made"] == 1
    assert {event["source"] for event in events} == {path}
    assert not any("task" in event["data"] for event in events)


async def test_the_first_time_is_after_now(user: Api) -> None:
    """Of an interval with an anchor in the past, on the anchor's grid."""
    schedule = await make(user, interval_seconds=3600, anchor="2020-01-01T00:20:00Z")
    following = datetime.fromisoformat(schedule["next_run_at"])
    assert (following.minute, following.second, following.microsecond) == (20, 0, 0)
    assert timedelta(0) < following - datetime.now(UTC) + timedelta(minutes=1)
    assert following - datetime.now(UTC) <= timedelta(hours=1, minutes=1)


async def test_the_python_client_has_schedules(node: RunningNode, user: Api) -> None:
    """Every operation once, typed."""
    start = datetime(2030, 1, 1, tzinfo=UTC)
    async with AsyncClient(node.url, token=user.credential) as client:
        name = f"s-{uuid.uuid4().hex}"
        made = await client.schedules.create(
            name, TASK, interval_seconds=FAR, starts_at=start, overlap="allow", paused=True
        )
        assert (made.status, made.starts_at, made.task) == ("paused", start, TASK)
        schedule_id = made.schedule_id
        assert (await client.schedules.resume(schedule_id)).next_run_at == start
        assert await client.schedules.times(schedule_id, limit=1) == [start]
        receipt = await client.schedules.run(schedule_id)
        seen = await client.schedules.get(schedule_id)
        assert seen.last_run is not None
        assert (seen.last_run.task_id, seen.counts.made) == (receipt.task_id, 1)
        updated = await client.schedules.update(
            schedule_id, name=name, task=TASK, cron="0 0 * * *", if_match=seen.version
        )
        assert (updated.cron, updated.interval_seconds) == ("0 0 * * *", None)
        assert (await client.schedules.pause(schedule_id)).paused
        listed = [one.schedule_id async for one in client.schedules.list(name=name)]
        assert listed == [schedule_id]
        await client.schedules.delete(schedule_id)
        assert [one async for one in client.schedules.list(name=name)] == []
