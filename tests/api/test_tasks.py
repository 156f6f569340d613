"""Tasks over the wire: submitting, reading back, dependencies, cancelling, time and limits."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest

from tests.api.running import Agent, Api, Lease, RunningNode, found

pytestmark = pytest.mark.asyncio(loop_scope="module")
TASKS = "/api/v1/tasks"
JSON = {"Content-Type": "application/json"}
RAW = [
    b'{"$where":1,"a.b":2}',
    b'{"$gt":"","$ne":null,"__proto__":{"x":1},"":0}',
    b"1e2",
    b"-0.0",
    b"1.10",
    b"1E+2",
    b"9223372036854775807",
    b'"\\u00e9\\u0041\\/ \\ud83d\\ude00"',
    '"é😀\u2028"'.encode(),
    b'{"b":1,"a":2}',
    b'[ 1 , {"x" :\t[ ] } ]',
    b"null",
    b"false",
    b'""',
    b'{"nested":{"$set":{"a.b.c":[{"$inc":{"x":1}}]}}}',
]


@pytest.fixture
def capability() -> str:
    """A capability that only this test's agents and tasks have."""
    return f"cap-{uuid.uuid4().hex[:8]}"


async def test_every_field_comes_back(user: Api, viewer: Api) -> None:
    """What was submitted is read back as it was, with what the server adds."""
    dependency = await user.submit()
    later = datetime.now(UTC) + timedelta(days=2)
    given = {
        "name": "everything",
        "description": "line one\nline two",
        "priority": "critical",
        "parameters": {"path": "a.txt"},
        "dependencies": [dependency],
        "required_capabilities": ["z", "a"],
        "on_dependency_failure": "run",
        "max_attempts": 7,
        "backoff": {"kind": "linear", "base_seconds": 2.5, "max_seconds": 60, "jitter": 0.5},
        "non_retryable": ["bad-file", "E42"],
        "timeouts": {"queue_seconds": 60, "execution_seconds": 30.5, "total_seconds": 86400},
        "run_at": later.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "concurrency": {"key": "per customer", "limit": 2, "strategy": "queue"},
        "labels": {"customer": "acme", "Batch_7-x": ""},
    }
    receipt = await user.ok("POST", TASKS, json=given)
    assert receipt["status"] == "scheduled"
    task = await viewer.task(receipt["task_id"])
    assert {name: task.get(name) for name in given} == given
    added = set(task) - set(given)
    assert added == {
        "task_id",
        "dependency_count",
        "status",
        "owner",
        "attempt",
        "waiting_on",
        "log_count",
        "version",
        "created_at",
        "updated_at",
    }
    assert task["owner"] == (await user.ok("GET", "/api/v1/auth/me"))["principal_id"]
    assert (task["attempt"], task["version"], task["log_count"]) == (0, 1, 0)
    assert task["waiting_on"] == [dependency]
    (summary,) = await viewer.ok("GET", f"{TASKS}?name=everything")
    assert summary == {
        name: value
        for name, value in task.items()
        if name not in ("parameters", "backoff", "non_retryable", "timeouts", "concurrency")
    }


async def test_absent_is_absent_and_never_null(user: Api) -> None:
    """What was not given and has no default does not appear."""
    task = await user.task(await user.submit())
    assert None not in task.values()
    assert {"description", "parameters", "result", "run_at", "timeouts"}.isdisjoint(task)
    assert (task["priority"], task["max_attempts"]) == ("medium", 3)
    assert task["on_dependency_failure"] == "fail"


@pytest.mark.parametrize("raw", RAW)
async def test_parameters_come_back_byte_for_byte(user: Api, raw: bytes) -> None:
    """Free-form values are kept as the bytes that came; nothing in them is interpreted."""
    body = b'{"name":"raw","required_capabilities":["x"], "parameters" : ' + raw + b"}"
    receipt = (await user.post(TASKS, content=body, headers=JSON)).json()
    response = await user.get(f"{TASKS}/{receipt['task_id']}")
    assert _member(response, "parameters") == raw


@pytest.mark.parametrize("raw", RAW)
async def test_result_comes_back_byte_for_byte(
    node: RunningNode, admin: Api, user: Api, capability: str, raw: bytes
) -> None:
    """The same for results, and for the parameters that the agent gets."""
    agent = await node.add_agent(admin, capabilities=[capability])
    body = (
        b'{"name":"raw","parameters":' + raw + b',"required_capabilities":["%b"]}'
    ) % capability.encode()
    task_id = (await user.post(TASKS, content=body, headers=JSON)).json()["task_id"]
    claimed = await agent.api.post(f"/api/v1/agents/{agent.agent_id}/leases", json={})
    assert b'"parameters":' + raw in claimed.content
    (lease,) = claimed.json()
    completion = b'{"result":' + raw + b',"fence":%d}' % lease["fence"]
    path = f"/api/v1/leases/{lease['lease_id']}/complete"
    assert (await agent.api.post(path, content=completion, headers=JSON)).status_code == 200
    assert _member(await user.get(f"{TASKS}/{task_id}"), "result") == raw


@pytest.mark.parametrize("key", ["$x", "a.b", "", "a\0b", "__proto__", "x" * 64, "é", "a b"])
async def test_label_keys_are_words(user: Api, key: str) -> None:
    """A key that a database or a language could read as more than a name is 400."""
    problem = await user.refused(400, "POST", TASKS, json={"name": "x", "labels": {key: "v"}})
    assert problem["code"] == "contract-mismatch"


async def test_labels_have_a_bound(user: Api) -> None:
    """Thirty-two labels are taken, thirty-three are not."""
    labels = {f"k{n}": "v" * 200 for n in range(33)}
    await user.refused(400, "POST", TASKS, json={"name": "x", "labels": labels})
    labels.popitem()
    assert (await user.task(await user.submit(labels=labels)))["labels"] == labels


async def test_tasks_are_filtered(
    node: RunningNode, admin: Api, user: Api, other_user: Api
) -> None:
    """By status, priority, owner, agent and name, alone and together."""
    name = f"filter {uuid.uuid4().hex}"
    capability = name[7:20]
    low = await user.submit(name=name, priority="low")
    high = await user.submit(name=name, priority="high", required_capabilities=[capability])
    foreign = await other_user.submit(name=name, priority="low")
    cancelled = await user.submit(name=name)
    await user.ok("DELETE", f"{TASKS}/{cancelled}")
    agent = await node.add_agent(admin, capabilities=[capability])
    await agent.lease(high)
    me = (await user.ok("GET", "/api/v1/auth/me"))["principal_id"]

    async def listed(**query: str) -> list[str]:
        tasks = await user.ok("GET", TASKS, params={"name": name, **query})
        return [task["task_id"] for task in tasks]

    assert await listed() == [cancelled, foreign, high, low]
    assert await listed(status="cancelled") == [cancelled]
    assert await listed(status="running") == [high]
    assert await listed(priority="low") == [foreign, low]
    assert await listed(owner=me, priority="low") == [low]
    assert await listed(agent_id=agent.agent_id) == [high]
    assert await listed(agent_id="agt_nobody") == []


@pytest.mark.parametrize("limit", [1, 3, 7, 50])
async def test_pages_of_tasks_give_each_once(user: Api, limit: int) -> None:
    """Newest first along `Link`, also while new tasks arrive."""
    name = f"page {uuid.uuid4().hex}"
    submitted = [await user.submit(name=name) for _ in range(7)]
    first = await user.get(TASKS, params={"name": name, "limit": limit})
    await user.submit(name=name)
    listed = [task["task_id"] for task in first.json()]
    if "next" in first.links:
        listed += [task["task_id"] for task in await user.pages(first.links["next"]["url"])]
    assert listed == submitted[::-1]


async def test_dependent_waits_for_all(
    node: RunningNode, admin: Api, user: Api, capability: str
) -> None:
    """Blocked until the last dependency completes, then queued; a completed one is no wait."""
    agent = await node.add_agent(admin, capabilities=[capability], slots=4)
    need = {"required_capabilities": [capability]}
    done = await user.submit(**need)
    await (await agent.lease(done)).ok("complete")
    one, two = await user.submit(**need), await user.submit(**need)
    receipt = await user.ok(
        "POST",
        TASKS,
        json={"name": "d", "dependencies": [done, one, two], "required_capabilities": ["x"]},
    )
    assert receipt["status"] == "blocked"
    assert (await user.task(receipt["task_id"]))["waiting_on"] == [one, two]
    await (await agent.lease(one)).ok("complete")
    waiting = await found(
        lambda: user.task(receipt["task_id"]),
        lambda task: task["waiting_on"] == [two],
        "one dependency is off the list",
    )
    assert waiting["status"] == "blocked"
    await (await agent.lease(two)).ok("complete")
    task = await user.task_when(receipt["task_id"], "queued")
    assert task["waiting_on"] == []
    assert task["dependencies"] == [done, one, two]


@pytest.mark.parametrize("ending", ["failed", "cancelled"])
@pytest.mark.parametrize(
    ("policy", "status"), [("fail", "failed"), ("skip-me", "cancelled"), ("run", "queued")]
)
async def test_failed_dependency_decides_through_all_levels(
    node: RunningNode,
    admin: Api,
    user: Api,
    capability: str,
    policy: str,
    status: str,
    ending: str,
) -> None:
    """`fail` and `skip-me` go down the whole chain; `run` queues the next level only."""
    agent = await node.add_agent(admin, capabilities=[capability])
    root = await user.submit(required_capabilities=[capability])
    chain = [root]
    for _ in range(3):
        chain.append(await user.submit(dependencies=[chain[-1]], on_dependency_failure=policy))
    if ending == "failed":
        lease = await agent.lease(root)
        await lease.ok("fail", error={"code": "x", "message": "x", "retryable": False})
    else:
        await user.ok("DELETE", f"{TASKS}/{root}")
    first = await user.task_when(chain[1], status)
    if policy == "run":
        assert {(await user.task(task_id))["status"] for task_id in chain[2:]} == {"blocked"}
        return
    rest = [first, *[await user.task_when(task_id, status) for task_id in chain[2:]]]
    if policy == "fail":
        assert {task["error"]["code"] for task in rest} == {"dependency-failed"}
    else:
        assert {task["reason"] for task in rest} == {"skipped"}


async def test_policies_mix_along_a_chain(user: Api) -> None:
    """Each level decides for itself by what became of the one before."""
    root = await user.submit()
    skipped = await user.submit(dependencies=[root], on_dependency_failure="skip-me")
    failed = await user.submit(dependencies=[skipped], on_dependency_failure="fail")
    runs = await user.submit(dependencies=[failed, root], on_dependency_failure="run")
    await user.ok("DELETE", f"{TASKS}/{root}")
    await user.task_when(skipped, "cancelled")
    await user.task_when(failed, "failed")
    await user.task_when(runs, "queued")


@pytest.mark.parametrize(
    ("policy", "status"), [("fail", "failed"), ("skip-me", "cancelled"), ("run", "queued")]
)
async def test_dependency_that_failed_before_decides_at_once(
    user: Api, policy: str, status: str
) -> None:
    """A task that depends on a cancelled one is what its policy says when the receipt arrives."""
    root = await user.submit()
    await user.ok("DELETE", f"{TASKS}/{root}")
    task = {
        "name": "late",
        "required_capabilities": ["x"],
        "dependencies": [root],
        "on_dependency_failure": policy,
    }
    assert (await user.ok("POST", TASKS, json=task))["status"] == status


async def test_many_dependents_are_released(
    node: RunningNode, admin: Api, user: Api, capability: str
) -> None:
    """A task with hundreds of dependents releases every one of them."""
    agent = await node.add_agent(admin, capabilities=[capability])
    root = await user.submit(required_capabilities=[capability])
    name = f"fan {capability}"
    for _ in range(10):
        await asyncio.gather(*(user.submit(name=name, dependencies=[root]) for _ in range(25)))
    await (await agent.lease(root)).ok("complete")
    await found(
        # One is enough to look at: judging long pages would hold up the loop of the node.
        lambda: user.ok("GET", f"{TASKS}?name={name}&status=blocked&limit=1"),
        lambda blocked: not blocked,
        "no dependent is blocked",
        60,
    )
    queued = await user.pages(f"{TASKS}?name={name}&status=queued&limit=200")
    assert len(queued) == 250


async def test_unknown_dependency_is_not_found(user: Api) -> None:
    """404, and nothing was submitted."""
    name = f"orphan {uuid.uuid4().hex}"
    task = {"name": name, "dependencies": ["tsk_never"]}
    problem = await user.refused(404, "POST", TASKS, json=task)
    assert problem["code"] == "dependency-not-found"
    assert await user.ok("GET", TASKS, params={"name": name}) == []


async def test_duplicate_dependency_is_unprocessable(user: Api) -> None:
    """422 with the place."""
    root = await user.submit()
    task = {"name": "twice", "dependencies": [root, root]}
    problem = await user.refused(422, "POST", TASKS, json=task)
    assert problem["errors"][0]["pointer"] == "/dependencies/1"


async def test_cancel_is_for_the_owner_and_admins(user: Api, other_user: Api, admin: Api) -> None:
    """Another user is 403 and changes nothing; an admin may."""
    task_id = await user.submit()
    before = await user.task(task_id)
    problem = await other_user.refused(403, "DELETE", f"{TASKS}/{task_id}")
    assert problem["code"] == "forbidden"
    assert await user.task(task_id) == before
    assert (await admin.ok("DELETE", f"{TASKS}/{task_id}"))["result"]["status"] == "cancelled"


async def test_cancelling_again_changes_nothing(user: Api) -> None:
    """Cancelling a cancelled task is a success without effect."""
    task_id = await user.submit()
    first = await user.ok("DELETE", f"{TASKS}/{task_id}")
    task = await user.task(task_id)
    assert await user.ok("DELETE", f"{TASKS}/{task_id}") == first
    assert await user.task(task_id) == task


@pytest.mark.parametrize("ending", ["complete", "fail"])
async def test_ended_task_cannot_be_cancelled(
    node: RunningNode, admin: Api, user: Api, capability: str, ending: str
) -> None:
    """A completed or failed task is 409."""
    agent = await node.add_agent(admin, capabilities=[capability])
    task_id = await user.submit(required_capabilities=[capability], max_attempts=1)
    error = {"error": {"code": "x", "message": "x"}} if ending == "fail" else {}
    await (await agent.lease(task_id)).ok(ending, **error)
    problem = await user.refused(409, "DELETE", f"{TASKS}/{task_id}")
    assert problem["code"] == "illegal-transition"


async def test_cancelled_task_is_not_claimed(
    node: RunningNode, admin: Api, user: Api, capability: str
) -> None:
    """It leaves the queue."""
    task_id = await user.submit(required_capabilities=[capability])
    await user.ok("DELETE", f"{TASKS}/{task_id}")
    agent = await node.add_agent(admin, capabilities=[capability])
    assert await agent.claim() == []


async def test_claim_and_cancel_at_once_agree(
    node: RunningNode, admin: Api, user: Api, capability: str
) -> None:
    """Whoever is first wins, and the other one is told the truth."""
    agent = await node.add_agent(admin, capabilities=[capability])
    for _ in range(10):
        task_id = await user.submit(required_capabilities=[capability])
        claimed, cancelled = await asyncio.gather(
            agent.claim(), user.ok("DELETE", f"{TASKS}/{task_id}")
        )
        task = await user.task(task_id)
        if claimed:
            assert cancelled["result"]["cancel_requested"] is True
            assert task["status"] == "running"
            lease = Lease(agent.api, claimed[0]["lease_id"], claimed[0]["fence"], task_id)
            assert (await lease.ok("release"))["status"] == "cancelled"
        else:
            assert task["status"] == cancelled["result"]["status"] == "cancelled"


async def test_scheduled_task_is_queued_when_its_time_comes(user: Api) -> None:
    """`run_at` in the near future: scheduled first, then queued without `run_at`."""
    soon = datetime.now(UTC) + timedelta(seconds=0.7)
    receipt = await user.ok(
        "POST",
        TASKS,
        json={"name": "s", "required_capabilities": ["x"], "run_at": soon.isoformat()},
    )
    assert receipt["status"] == "scheduled"
    task = await user.task_when(receipt["task_id"], "queued")
    assert "run_at" not in task
    assert datetime.fromisoformat(task["updated_at"]) >= soon - timedelta(milliseconds=1)


async def test_scheduled_dependent_is_blocked_when_its_time_comes(user: Api) -> None:
    """With a dependency that has not ended it goes on to blocked, and runs when that ends."""
    root = await user.submit()
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    task = {
        "name": "s",
        "required_capabilities": ["x"],
        "run_at": soon.isoformat(),
        "dependencies": [root],
        "on_dependency_failure": "run",
    }
    receipt = await user.ok("POST", TASKS, json=task)
    assert receipt["status"] == "scheduled"
    await user.task_when(receipt["task_id"], "blocked")
    await user.ok("DELETE", f"{TASKS}/{root}")
    await user.task_when(receipt["task_id"], "queued")


@pytest.mark.parametrize(
    "run_at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-12-31T23:59:60Z"]
)
async def test_time_that_no_calendar_has_is_refused(user: Api, run_at: str) -> None:
    """RFC 3339 allows it, a database does not: 422 (400 where the schema's format says no)."""
    response = await user.post(TASKS, json={"name": "x", "run_at": run_at})
    assert response.status_code in (400, 422), response.text


async def test_time_in_the_past_is_due(user: Api) -> None:
    """A `run_at` that is over does not hold the task up."""
    receipt = await user.ok(
        "POST",
        TASKS,
        json={"name": "x", "required_capabilities": ["x"], "run_at": "2020-01-01T00:00:00.000Z"},
    )
    await user.task_when(receipt["task_id"], "queued")


@pytest.mark.parametrize("what", ["queue", "total"])
async def test_timeout_of_waiting_fails_the_task(user: Api, what: str) -> None:
    """A task that nobody takes in time fails with the timeout's code."""
    task_id = await user.submit(timeouts={f"{what}_seconds": 1})
    task = await user.task_when(task_id, "failed")
    assert task["error"]["code"] == f"{what}-timeout"


async def test_timeout_of_execution_ends_the_attempt(
    node: RunningNode, admin: Api, user: Api, capability: str
) -> None:
    """An attempt that takes too long is tried again; its lease is lost."""
    agent = await node.add_agent(admin, capabilities=[capability])
    task_id = await user.submit(
        required_capabilities=[capability],
        timeouts={"execution_seconds": 1},
        backoff={"kind": "fixed", "base_seconds": 0},
    )
    lease = await agent.lease(task_id)
    await user.task_when(task_id, "queued")
    response = await lease.send("complete")
    assert (response.status_code, response.json()["code"]) == (409, "lease-lost")


async def test_timeout_of_the_whole_ends_a_running_task(
    node: RunningNode, admin: Api, user: Api, capability: str
) -> None:
    """However many attempts are left."""
    agent = await node.add_agent(admin, capabilities=[capability])
    task_id = await user.submit(required_capabilities=[capability], timeouts={"total_seconds": 1})
    lease = await agent.lease(task_id)
    task = await user.task_when(task_id, "failed")
    assert task["error"]["code"] == "total-timeout"
    assert (await lease.send("renew")).status_code == 409


async def test_concurrency_key_is_exact(
    node: RunningNode, admin: Api, user: Api, capability: str
) -> None:
    """However many agents ask at once, no more tasks of the key run than its limit."""
    agents = [await node.add_agent(admin, capabilities=[capability], slots=4) for _ in range(4)]
    limited = {
        "required_capabilities": [capability],
        "concurrency": {"key": capability, "limit": 3},
    }
    for _ in range(8):
        await user.submit(**limited)
    free = await user.submit(required_capabilities=[capability], priority="low")
    leases = await _claim_together(agents)
    assert len(leases) == 4
    assert free in {lease.task_id for lease in leases}
    keyed = [lease for lease in leases if lease.task_id != free]
    await keyed[0].ok("complete")
    assert len(await _claim_together(agents)) == 1


async def _claim_together(agents: list[Agent]) -> list[Lease]:
    claims = await asyncio.gather(*(agent.claim(max_leases=4) for agent in agents))
    return [
        Lease(agent.api, lease["lease_id"], lease["fence"], lease["task"]["task_id"])
        for agent, claim in zip(agents, claims, strict=True)
        for lease in claim
    ]


def _member(response: httpx.Response, name: str) -> bytes:
    """The bytes of a member of the answer's object, as they stand there."""
    members: dict[str, Any] = msgspec.json.decode(response.content, type=dict[str, msgspec.Raw])
    return bytes(members[name])
