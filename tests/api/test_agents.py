"""Agents over the wire: registering, lists, updates, control, heartbeats and claims."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from tests.api.running import Agent, Api, RunningNode, found

pytestmark = pytest.mark.asyncio(loop_scope="module")
AGENTS = "/api/v1/agents"


async def test_registered_agent_has_what_was_given(admin: Api, viewer: Api) -> None:
    """All fields come back, defaults are filled in, and the key is in this one answer only."""
    given = {
        "name": "full",
        "agent_type": "research",
        "capabilities": ["web_search", "data.extract"],
        "slots": 7,
        "labels": {"zone": "eu", "note": "any <text> ünïcode 😀"},
    }
    registered = await admin.ok("POST", AGENTS, json=given)
    assert given.items() <= registered.items()
    assert registered["status"] == "idle"
    assert registered["desired_state"] == "active"
    assert registered["version"] == 1
    assert registered["api_key"].startswith("azk_")
    seen = await viewer.ok("GET", f"{AGENTS}/{registered['agent_id']}")
    assert seen == {
        **{k: v for k, v in registered.items() if k != "api_key"},
        "leases": [],
    }


async def test_registering_needs_only_a_name(admin: Api) -> None:
    """The defaults are type worker, one slot, no capabilities and no labels."""
    registered = await admin.ok("POST", AGENTS, json={"name": "only a name"})
    assert registered["agent_type"] == "worker"
    assert registered["slots"] == 1
    assert registered["capabilities"] == []
    assert registered["labels"] == {}


async def test_name_that_is_taken_conflicts(admin: Api) -> None:
    """Names are unique, and free again after the agent is unregistered."""
    first = await admin.ok("POST", AGENTS, json={"name": "unique"})
    problem = await admin.refused(409, "POST", AGENTS, json={"name": "unique"})
    assert problem["code"] == "name-taken"
    await admin.ok("DELETE", f"{AGENTS}/{first['agent_id']}")
    again = await admin.ok("POST", AGENTS, json={"name": "unique"})
    assert again["agent_id"] != first["agent_id"]


async def test_agents_are_filtered_by_type_and_status(node: RunningNode, admin: Api) -> None:
    """`agent_type` and `status` select, alone and together."""
    kind = f"kind-{uuid.uuid4().hex[:8]}"
    idle, paused = [await node.add_agent(admin, agent_type=kind) for _ in range(2)]
    await admin.ok("POST", f"{AGENTS}/{paused.agent_id}/control", json={"action": "pause"})

    async def listed(query: str) -> list[str]:
        return [agent["agent_id"] for agent in await admin.pages(f"{AGENTS}?{query}")]

    assert await listed(f"agent_type={kind}") == [idle.agent_id, paused.agent_id]
    assert await listed(f"agent_type={kind}&status=paused") == [paused.agent_id]
    assert await listed(f"agent_type={kind}&status=idle") == [idle.agent_id]
    assert await listed(f"agent_type={kind}&status=offline") == []
    assert paused.agent_id in await listed("status=paused")


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 200])
async def test_pages_of_agents_give_each_once(node: RunningNode, admin: Api, limit: int) -> None:
    """The pages along `Link` have every agent once, oldest first, and keep the filter."""
    kind = f"page-{uuid.uuid4().hex[:8]}"
    added = [(await node.add_agent(admin, agent_type=kind)).agent_id for _ in range(5)]
    pages = await admin.pages(f"{AGENTS}?agent_type={kind}&limit={limit}")
    assert [agent["agent_id"] for agent in pages] == added


async def test_cursor_of_another_list_is_refused(node: RunningNode, admin: Api) -> None:
    """A cursor is signed for its list: elsewhere, or changed, it is malformed."""
    for _ in range(2):
        await node.add_agent(admin)
    response = await admin.get(f"{AGENTS}?limit=1")
    cursor = response.links["next"]["url"].split("cursor=")[1]
    problem = await admin.refused(400, "GET", f"/api/v1/tasks?cursor={cursor}")
    assert problem["code"] == "malformed-cursor"
    changed = ("y" if cursor[0] == "x" else "x") + cursor[1:]
    await admin.refused(400, "GET", f"{AGENTS}?cursor={changed}")
    await admin.refused(400, "GET", f"{AGENTS}?cursor=agt_1")


async def test_update_replaces_the_configuration(admin: Api, agent: Agent) -> None:
    """PUT replaces; the same configuration again changes nothing."""
    path = f"{AGENTS}/{agent.agent_id}"
    wanted = {
        "name": f"renamed-{agent.agent_id}",
        "agent_type": "audit",
        "capabilities": ["b", "a"],
        "slots": 3,
        "labels": {"a": "1"},
    }
    updated = await admin.ok("PUT", path, json=wanted)
    assert wanted.items() <= updated.items()
    assert updated["version"] == 2
    assert (await admin.ok("PUT", path, json=wanted))["version"] == 2


async def test_update_is_whole(admin: Api, agent: Agent) -> None:
    """A PUT without every field does not match the contract."""
    problem = await admin.refused(
        400, "PUT", f"{AGENTS}/{agent.agent_id}", json={"name": "half", "slots": 2}
    )
    assert problem["code"] == "contract-mismatch"


async def test_update_to_a_taken_name_conflicts(node: RunningNode, admin: Api) -> None:
    """Another agent's name is 409, and nothing changes."""
    one, other = [await node.add_agent(admin) for _ in range(2)]
    name = (await admin.ok("GET", f"{AGENTS}/{one.agent_id}"))["name"]
    before = await admin.ok("GET", f"{AGENTS}/{other.agent_id}")
    wanted = {"name": name, "agent_type": "x", "capabilities": [], "slots": 1, "labels": {}}
    problem = await admin.refused(409, "PUT", f"{AGENTS}/{other.agent_id}", json=wanted)
    assert problem["code"] == "name-taken"
    assert await admin.ok("GET", f"{AGENTS}/{other.agent_id}") == before


@pytest.mark.parametrize(
    ("method", "verb", "body"),
    [
        ("GET", "", None),
        ("DELETE", "", None),
        (
            "PUT",
            "",
            {"name": "x", "agent_type": "x", "capabilities": [], "slots": 1, "labels": {}},
        ),
        ("POST", "/control", {"action": "pause"}),
        ("POST", "/heartbeat", {}),
        ("POST", "/leases", {}),
    ],
)
async def test_unregistered_agent_is_gone(
    admin: Api, agent: Agent, method: str, verb: str, body: Any
) -> None:
    """Every operation on an unregistered agent is 404, and its key is refused at once."""
    await admin.ok("DELETE", f"{AGENTS}/{agent.agent_id}")
    request = {} if body is None else {"json": body}
    problem = await admin.refused(404, method, f"{AGENTS}/{agent.agent_id}{verb}", **request)
    assert problem["code"] == "agent-not-found"
    assert (await agent.api.refused(401, "GET", AGENTS))["detail"] == "Invalid token"
    listed = await admin.pages(f"{AGENTS}?limit=200")
    assert agent.agent_id not in {one["agent_id"] for one in listed}


async def test_two_registrations_of_one_name_leave_one(admin: Api) -> None:
    """Of several at once exactly one wins."""
    answers = await asyncio.gather(
        *(admin.post(AGENTS, json={"name": "contended"}) for _ in range(6))
    )
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 5


@pytest.mark.parametrize(
    ("action", "desired", "status"),
    [
        ("pause", "paused", "paused"),
        ("drain", "draining", "draining"),
        ("resume", "active", "idle"),
    ],
)
async def test_enforced_control_is_true_at_once(
    user: Api, agent: Agent, action: str, desired: str, status: str
) -> None:
    """Pause, drain and resume say what was asked and what is true; a user may ask."""
    path = f"{AGENTS}/{agent.agent_id}"
    answer = await user.ok("POST", f"{path}/control", json={"action": action, "reason": "a test"})
    assert answer == {
        "agent_id": agent.agent_id,
        "action": action,
        "desired_state": desired,
        "status": status,
    }
    seen = await user.ok("GET", path)
    assert (seen["desired_state"], seen["status"]) == (desired, status)


@pytest.mark.parametrize("action", ["restart", "stop"])
async def test_requested_control_waits_for_the_process(
    user: Api, agent: Agent, action: str
) -> None:
    """Restart and stop change no status; the heartbeat brings them until they are taken."""
    path = f"{AGENTS}/{agent.agent_id}/control"
    answer = await user.ok("POST", path, json={"action": action, "reason": "new release"})
    control = answer["control"]
    assert answer["status"] == "idle"
    assert (control["action"], control["reason"]) == (action, "new release")
    assert (await agent.heartbeat())["controls"] == [control]
    assert (await agent.heartbeat())["controls"] == [control]
    assert (await agent.heartbeat(controls_taken=control["control_id"]))["controls"] == []
    assert (await agent.heartbeat())["controls"] == []


async def test_taking_a_control_leaves_later_ones(user: Api, agent: Agent) -> None:
    """`controls_taken` acknowledges up to that one and no further."""
    path = f"{AGENTS}/{agent.agent_id}/control"
    asked = [
        (await user.ok("POST", path, json={"action": action}))["control"]["control_id"]
        for action in ("restart", "stop", "restart")
    ]
    assert asked == sorted(set(asked))
    left = (await agent.heartbeat(controls_taken=asked[1]))["controls"]
    assert [control["control_id"] for control in left] == asked[2:]


async def test_too_many_untaken_controls_conflict(user: Api, agent: Agent) -> None:
    """The list of requests has a bound."""
    path = f"{AGENTS}/{agent.agent_id}/control"
    for _ in range(16):
        await user.ok("POST", path, json={"action": "restart"})
    await user.refused(409, "POST", path, json={"action": "restart"})


async def test_heartbeat_says_what_is_wanted(node: RunningNode, user: Api, agent: Agent) -> None:
    """The reply has status, desired state and the periods; the agent shows when it was heard of."""
    reply = await agent.heartbeat(free_slots=1, load=0.5)
    assert reply["status"] == "idle"
    assert reply["desired_state"] == "active"
    assert reply["heartbeat_seconds"] == node.settings.agent_timeout_seconds / 3
    assert reply["lease_seconds"] == node.settings.lease_seconds
    await user.ok("POST", f"{AGENTS}/{agent.agent_id}/control", json={"action": "drain"})
    assert (await agent.heartbeat())["desired_state"] == "draining"


async def test_agent_works_for_itself_only(node: RunningNode, admin: Api, agent: Agent) -> None:
    """An agent can't send heartbeats nor claim for another; an admin can."""
    other = await node.add_agent(admin)
    for verb in ("heartbeat", "leases"):
        await agent.api.refused(403, "POST", f"{AGENTS}/{other.agent_id}/{verb}", json={})
        await admin.ok("POST", f"{AGENTS}/{other.agent_id}/{verb}", json={})


async def test_claim_of_nothing_is_an_empty_array(agent: Agent) -> None:
    """With nothing to do the array is empty, at once and after a wait."""
    assert await agent.claim() == []
    assert await agent.claim(max_leases=5, wait_seconds=0.05) == []


async def test_claim_gives_what_can_be_run(node: RunningNode, admin: Api, user: Api) -> None:
    """A task goes to an agent that has all its capabilities."""
    need = [f"cap-{uuid.uuid4().hex[:8]}", f"cap-{uuid.uuid4().hex[:8]}"]
    half = await node.add_agent(admin, capabilities=need[:1])
    whole = await node.add_agent(admin, capabilities=[*need, "more"])
    task_id = await user.submit(
        required_capabilities=need, parameters={"a": [1, 2]}, labels={"k": "v"}, priority="high"
    )
    assert await half.claim() == []
    (lease,) = await whole.claim()
    assert lease["task"] == {
        "task_id": task_id,
        "name": "work",
        "priority": "high",
        "parameters": {"a": [1, 2]},
        "dependencies": [],
        "dependency_count": 0,
        "required_capabilities": need,
        "attempt": 1,
        "max_attempts": 3,
        "labels": {"k": "v"},
    }
    assert lease["fence"] == 1
    held = await admin.ok("GET", f"{AGENTS}/{whole.agent_id}")
    assert held["leases"] == [
        {k: lease[k] for k in ("lease_id", "fence", "expires_at")} | {"task_id": task_id}
    ]
    # The identifier is its holder's; others see that there is a lease.
    for other in (user, half.api):
        seen = await other.ok("GET", f"{AGENTS}/{whole.agent_id}")
        assert [sorted(each) for each in seen["leases"]] == [["expires_at", "fence", "task_id"]]
    own = await whole.api.ok("GET", f"{AGENTS}/{whole.agent_id}")
    assert own["leases"] == held["leases"]
    task = await user.task(task_id)
    assert task["status"] == "running"
    assert task["lease"] == {
        "agent_id": whole.agent_id,
        "fence": 1,
        "expires_at": lease["expires_at"],
    }


async def test_urgent_tasks_come_first(node: RunningNode, admin: Api, user: Api) -> None:
    """By priority, and in the order of submission within one."""
    capability = f"cap-{uuid.uuid4().hex[:8]}"
    wanted = {"required_capabilities": [capability]}
    order = ["medium", "low", "critical", "high", "critical", "medium"]
    submitted = [(priority, await user.submit(priority=priority, **wanted)) for priority in order]
    ranks = ["critical", "high", "medium", "low"]
    expected = [task_id for p, task_id in sorted(submitted, key=lambda pair: ranks.index(pair[0]))]
    agent = await node.add_agent(admin, capabilities=[capability], slots=6)
    claimed = [lease["task"]["task_id"] for lease in await agent.claim(max_leases=6)]
    assert claimed == expected


async def test_claims_never_exceed_the_slots(node: RunningNode, admin: Api, user: Api) -> None:
    """However many ask at once, an agent of three slots holds three leases at most."""
    capability = f"cap-{uuid.uuid4().hex[:8]}"
    for _ in range(8):
        await user.submit(required_capabilities=[capability])
    agent = await node.add_agent(admin, capabilities=[capability], slots=3)
    claims = await asyncio.gather(*(agent.claim(max_leases=2) for _ in range(6)))
    leases = [lease for claim in claims for lease in claim]
    assert len(leases) == 3
    assert len({lease["task"]["task_id"] for lease in leases}) == 3
    assert await agent.claim(max_leases=5) == []
    held = await admin.ok("GET", f"{AGENTS}/{agent.agent_id}")
    assert len(held["leases"]) == 3


async def test_waiting_claim_is_woken_by_a_submission(
    node: RunningNode, admin: Api, user: Api
) -> None:
    """A claim that waits gets the task long before its wait is over."""
    capability = f"cap-{uuid.uuid4().hex[:8]}"
    agent = await node.add_agent(admin, capabilities=[capability])
    claim = asyncio.create_task(agent.claim(wait_seconds=30))
    await _waiting(node, agent)
    task_id = await user.submit(required_capabilities=[capability])
    (lease,) = await asyncio.wait_for(claim, 3)
    assert lease["task"]["task_id"] == task_id


async def test_waiting_claim_is_woken_by_a_free_slot(
    node: RunningNode, admin: Api, user: Api
) -> None:
    """A fully busy agent that waits gets the next task when it completes one."""
    capability = f"cap-{uuid.uuid4().hex[:8]}"
    agent = await node.add_agent(admin, capabilities=[capability])
    first, second = [await user.submit(required_capabilities=[capability]) for _ in range(2)]
    lease = await agent.lease(first)
    claim = asyncio.create_task(agent.claim(wait_seconds=30))
    await _waiting(node, agent)
    await lease.ok("complete")
    (next_lease,) = await asyncio.wait_for(claim, 3)
    assert next_lease["task"]["task_id"] == second


async def test_waiting_claim_is_woken_by_a_resume(node: RunningNode, admin: Api, user: Api) -> None:
    """A paused agent that waits gets work as soon as it is resumed."""
    capability = f"cap-{uuid.uuid4().hex[:8]}"
    agent = await node.add_agent(admin, capabilities=[capability])
    path = f"{AGENTS}/{agent.agent_id}/control"
    await user.ok("POST", path, json={"action": "pause"})
    task_id = await user.submit(required_capabilities=[capability])
    claim = asyncio.create_task(agent.claim(wait_seconds=30))
    await _waiting(node, agent)
    await user.ok("POST", path, json={"action": "resume"})
    (lease,) = await asyncio.wait_for(claim, 4)
    assert lease["task"]["task_id"] == task_id


@pytest.mark.parametrize("action", ["pause", "drain"])
async def test_agent_that_takes_no_work_gets_nothing(
    node: RunningNode, admin: Api, user: Api, action: str
) -> None:
    """A paused or draining agent gets an empty array while work is queued."""
    capability = f"cap-{uuid.uuid4().hex[:8]}"
    agent = await node.add_agent(admin, capabilities=[capability])
    path = f"{AGENTS}/{agent.agent_id}/control"
    await user.ok("POST", path, json={"action": action})
    task_id = await user.submit(required_capabilities=[capability])
    assert await agent.claim(wait_seconds=0.1) == []
    assert (await user.task(task_id))["status"] == "queued"


async def test_status_follows_the_work(node: RunningNode, admin: Api, user: Api) -> None:
    """An agent is busy while it holds a lease, idle after it, and the log has both changes."""
    capability = f"cap-{uuid.uuid4().hex[:8]}"
    agent = await node.add_agent(admin, capabilities=[capability])
    task_id = await user.submit(required_capabilities=[capability])
    lease = await agent.lease(task_id)
    await _status(admin, agent, "busy")
    await lease.ok("complete")
    await _status(admin, agent, "idle")
    events = await found(
        lambda: admin.pages(f"/api/v1/events?subject={agent.agent_id}&type=agent.status_changed"),
        lambda seen: len(seen) == 2,
        "two changes of status in the log",
    )
    assert [event["data"]["status"] for event in events] == ["busy", "idle"]


async def test_fewer_slots_take_effect_as_leases_end(
    node: RunningNode, admin: Api, user: Api
) -> None:
    """An agent whose slots were taken away keeps its leases, and gets none until it has room."""
    capability = f"cap-{uuid.uuid4().hex[:8]}"
    for _ in range(4):
        await user.submit(required_capabilities=[capability])
    agent = await node.add_agent(admin, capabilities=[capability], slots=2)
    leases = await agent.claim(max_leases=2)
    before = await admin.ok("GET", f"{AGENTS}/{agent.agent_id}")
    fields = ("name", "agent_type", "capabilities", "labels")
    await admin.ok(
        "PUT",
        f"{AGENTS}/{agent.agent_id}",
        json={**{name: before[name] for name in fields}, "slots": 1},
    )
    assert await agent.claim(max_leases=2) == []
    for lease in leases:
        await agent.api.ok(
            "POST", f"/api/v1/leases/{lease['lease_id']}/complete", json={"fence": lease["fence"]}
        )
    assert len(await agent.claim(max_leases=2)) == 1


async def _waiting(node: RunningNode, agent: Agent) -> None:
    """Return once a claim of the agent waits."""
    waiters = node.node.services.dispatcher._waiters  # type: ignore[attr-defined]

    async def look() -> bool:
        return any(waiter.agent_id == agent.agent_id for waiter in waiters)

    await found(look, bool, "the claim waits")


async def _status(admin: Api, agent: Agent, status: str) -> None:
    await found(
        lambda: admin.ok("GET", f"{AGENTS}/{agent.agent_id}"),
        lambda seen: seen["status"] == status,
        f"the agent is {status}",
    )
