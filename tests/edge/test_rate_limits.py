"""The limits on a running node: what is charged to whom, what the answer says, and no way around.

Every test speaks from addresses of its own, which the node believes of its proxy, 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
import pytest_asyncio

from hive.permissions import Role
from hive.rate_limits import default_policies
from tests.api.running import PASSWORD, Agent, Api, RunningNode, running_node
from tests.edge.limited import limits, limits_of
from tests.realtime.client import open_socket

pytestmark = pytest.mark.asyncio(loop_scope="module")

AGENTS = "/api/v1/agents"
FAR = 1_000_000
_addresses = (f"198.51.{n // 250}.{n % 250 + 1}" for n in itertools.count())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(
    tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str
) -> AsyncIterator[RunningNode]:
    """The product with limits, behind a proxy."""
    options = {"rate_limit_enabled": True, "trusted_proxies": "127.0.0.1"}
    async with running_node(tmp_path_factory.mktemp("limited"), mongodb_uri, **options) as running:
        yield running


@pytest.fixture
def address() -> str:
    """An address that nobody had before."""
    return next(_addresses)


async def somebody(node: RunningNode, role: Role, address: str) -> Api:
    """A new user of that role, logged in, who speaks from that address."""
    name = f"somebody-{next(_addresses)}"
    await node.add_user(name, role)
    here = node.client(headers={"X-Forwarded-For": address})
    credentials = {"username": name, "password": PASSWORD}
    tokens = await here.ok("POST", "/api/v1/auth/login", json=credentials)
    return node.client(tokens["access_token"], headers={"X-Forwarded-For": address})


async def statuses(
    count: int, client: Api, path: str = AGENTS, method: str = "GET", **request: Any
) -> Counter[int]:
    """So many requests, eight at a time, and what was answered."""
    left = iter(range(count))
    seen: Counter[int] = Counter()

    async def ask() -> None:
        for _ in left:
            seen[(await client.request(method, path, **request)).status_code] += 1

    await asyncio.gather(*(ask() for _ in range(8)))
    return seen


def standing(headers: Mapping[str, str]) -> dict[str, tuple[int, int, int, int]]:
    """By policy: quota, window, remaining, reset; the two header fields name the same policies."""
    policies = re.findall(r'"([a-z-]+)";q=(\d+);w=(\d+)(?:, |$)', headers["RateLimit-Policy"])
    left = re.findall(r'"([a-z-]+)";r=(\d+);t=(\d+)(?:, |$)', headers["RateLimit"])
    assert [name for name, *_ in policies] == [name for name, *_ in left]
    return {
        name: (int(q), int(w), int(r), int(t))
        for (name, q, w), (_, r, t) in zip(policies, left, strict=True)
    }


async def test_request_101_of_a_user_within_a_minute_is_429(
    node: RunningNode, address: str
) -> None:
    """As the original test has it: the status is that of the last of 101 in a row."""
    judged = await somebody(node, Role.USER, address)
    # Judging takes longer than asking, and it has to be within a minute.
    forwarded = {"X-Forwarded-For": address}
    user = node.client(judged.credential, judged=False, headers=forwarded)
    seen = [await user.get(AGENTS) for _ in range(101)]
    assert [one.status_code for one in seen] == [200] * 100 + [429]
    last = seen[-1]
    problem = last.json()
    assert (problem["code"], problem["violated"]) == ("rate-limited", ["read"])
    assert 0 < int(last.headers["Retry-After"]) <= 60
    for number, one in enumerate(seen[:100], start=1):
        left = standing(one.headers)
        assert left["read"][:3] == (100, 60, 100 - number)
        assert left["address"][:2] == (600, 60)
        assert 0 < left["read"][3] <= 60
    assert standing(last.headers)["read"] == (100, 60, 0, int(last.headers["Retry-After"]))


@pytest.mark.parametrize(
    ("role", "read", "heavy"), [(Role.ADMIN, 8, 10), (Role.USER, 4, 5), (Role.VIEWER, 2, 2)]
)
async def test_the_role_multiplies_the_limit(
    node: RunningNode, address: str, role: Role, read: int, heavy: int
) -> None:
    """Twice for admins, half and rounded down for viewers; being refused otherwise counts."""
    someone = await somebody(node, role, address)
    with limits(node, read=4):
        seen = await statuses(12, someone)
        assert seen == {200: read, 429: 12 - read}
    seen = await statuses(12, someone, "/api/v1/audit/export")
    assert seen[429] == 12 - heavy


async def test_each_class_has_a_window_of_its_own(node: RunningNode, address: str) -> None:
    """Who may not write any more may still read and submit."""
    user = await somebody(node, Role.USER, address)
    task = {"name": "work", "required_capabilities": ["nobody-has-this"]}
    with limits(node, write=3, task_submit=2):
        wrote = await statuses(5, user, "/api/v1/auth/ws-tickets", "POST", json={})
        assert wrote[429] == 2
        submitted = await statuses(4, user, "/api/v1/tasks", "POST", json=task)
        assert (submitted[200], submitted[429]) == (2, 2)
        assert (await user.get(AGENTS)).status_code == 200


async def test_a_key_and_a_session_of_one_user_are_one_bucket(
    node: RunningNode, address: str
) -> None:
    """However many credentials, from however many addresses."""
    user = await somebody(node, Role.USER, address)
    body = {"name": "k", "scopes": ["agents:read"]}
    made = await user.ok("POST", "/api/v1/api-keys", json=body)
    others = [
        node.client(made["api_key"], headers={"X-Forwarded-For": one})
        for one in itertools.islice(_addresses, 3)
    ]
    with limits(node, read=10):
        seen: Counter[int] = Counter()
        for client in [user, *others] * 5:
            seen[(await client.get(AGENTS)).status_code] += 1
    assert seen == {200: 10, 429: 10}


async def test_all_users_of_an_address_share_its_window(node: RunningNode, address: str) -> None:
    """Whoever they are; and what is refused for one reason is charged to neither."""
    people = [await somebody(node, Role.USER, address) for _ in range(3)]
    with limits(node, address=15 + 3, read=10):
        seen = [await statuses(10, one) for one in people]
        assert [one[200] for one in seen] == [10, 5, 0]
        refused = await people[1].refused(429, "GET", AGENTS)
        assert refused["violated"] == ["address"]
        # Their own windows were not touched while the address had nothing left.
        with limits(node, address=FAR, read=10):
            left = standing((await people[2].get(AGENTS)).headers)
            assert left["read"][2] == 9


@pytest.mark.parametrize("path", ["/openapi.json", "/health/live"])
async def test_public_operations_are_charged_to_the_address(node: RunningNode, path: str) -> None:
    """Rotating through the addresses of an IPv6 /64 is one address; health is never refused."""
    with limits(node, read=5):
        seen: Counter[int] = Counter()
        for number in range(12):
            client = node.client(headers={"X-Forwarded-For": f"2001:db8:7:7::{number:x}:1"})
            answer = await client.get(path)
            seen[answer.status_code] += 1
            assert ("RateLimit" in answer.headers) is (path != "/health/live")
        assert seen == ({200: 12} if path == "/health/live" else {200: 5, 429: 7})
        client = node.client(headers={"X-Forwarded-For": "2001:db8:7:8::1"})
        assert (await client.get(path)).status_code == 200


async def test_logins_are_charged_to_the_address_alone(node: RunningNode, address: str) -> None:
    """Twenty a minute, of whomever; others log in from elsewhere."""
    body = {"username": "nobody", "password": PASSWORD}
    here = node.client(headers={"X-Forwarded-For": address})
    with limits(node, auth=6):
        seen = await statuses(10, here, "/api/v1/auth/login", "POST", json=body)
        assert seen == {401: 6, 429: 4}
        elsewhere = node.client(headers={"X-Forwarded-For": next(_addresses)})
        await elsewhere.refused(401, "POST", "/api/v1/auth/login", json=body)


@pytest.mark.parametrize(
    "path",
    ["/api/v1/agents/", "/API/V1/AGENTS", "//api/v1/agents", "/api/v1/%61gents", "/nowhere"],
)
async def test_what_is_no_operation_is_charged_to_the_address(
    node: RunningNode, address: str, path: str
) -> None:
    """Variants of a path reach nothing, and not for free; nor do other methods."""
    here = httpx.AsyncClient(base_url=node.url, headers={"X-Forwarded-For": address})
    node.opened.append(here)
    with limits(node, address=5):
        seen = Counter([(await here.get(path)).status_code for _ in range(8)])
        assert seen[429] == 3
        assert (await here.request("PATCH", AGENTS)).status_code == 429


async def test_an_ipv6_network_is_one_address(node: RunningNode) -> None:
    """Whatever is asked for; the next /64 is another."""
    there = httpx.AsyncClient(base_url=node.url)
    node.opened.append(there)
    with limits(node, address=5):
        seen: Counter[int] = Counter()
        for number in range(8):
            forwarded = {"X-Forwarded-For": f"2001:db8:9:9:{number:x}::1"}
            seen[(await there.get("/nowhere", headers=forwarded)).status_code] += 1
        assert seen == {404: 5, 429: 3}
        forwarded = {"X-Forwarded-For": "2001:db8:9:a::1"}
        assert (await there.get("/nowhere", headers=forwarded)).status_code == 404


async def test_failed_authentications_are_charged_to_the_address(
    node: RunningNode, address: str
) -> None:
    """Guessing of tokens is bounded; over WebSockets, too."""
    guessing = node.client("not-a-token", headers={"X-Forwarded-For": address})
    with limits(node, address=5):
        assert await statuses(3, guessing) == {401: 3}
        for code in (1008, 1008, 4429):
            forwarded = {"X-Forwarded-For": address}
            path = "/ws?token=neither"
            async with open_socket(node.url, path, additional_headers=forwarded) as socket:
                assert await socket.close_code() == code
        assert await statuses(3, guessing) == {429: 3}


async def _new_agent(node: RunningNode) -> Agent:
    admin = await somebody(node, Role.ADMIN, next(_addresses))
    agent = await node.add_agent(admin)
    there = node.client(agent.api.credential, headers={"X-Forwarded-For": next(_addresses)})
    return Agent(agent.agent_id, there)


async def test_commands_on_a_socket_are_charged_as_the_operation_that_they_run(
    node: RunningNode,
) -> None:
    """Requests and frames of an agent are one bucket."""
    agent = await _new_agent(node)
    path = f"/ws/agents/{agent.agent_id}"
    with limits(node, agent=6):
        async with open_socket(node.url, path, token=agent.api.credential) as link:
            await link.send("hello", version="1.0.0")
            await link.until("ready")
            for _ in range(2):
                await agent.heartbeat()
            seen = []
            for number in range(8):
                await link.send("heartbeat", id=f"h{number}")
                seen.append(await link.until("result"))
            granted = [one["status"] for one in seen].index(429)
            assert granted <= 4
            assert [one["status"] for one in seen[granted:]] == [429] * (8 - granted)
            problem = seen[-1]["problem"]
            assert (problem["code"], problem["violated"]) == ("rate-limited", ["agent"])
            url = f"/api/v1/agents/{agent.agent_id}/heartbeat"
            await agent.api.refused(429, "POST", url, json={})


async def test_agents_are_not_charged_to_their_address(node: RunningNode) -> None:
    """A rack of agents behind one address has all of its buckets."""
    agents = [await _new_agent(node) for _ in range(2)]
    with limits(node, agent=20, address=5):
        for agent in agents:
            url = f"/api/v1/agents/{agent.agent_id}/heartbeat"
            began = time.monotonic()
            seen = await statuses(25, agent.api, url, "POST", json={})
            # The bucket fills up meanwhile.
            assert 20 <= seen[200] <= 21 + (time.monotonic() - began) * 20 / 60
            answer = await agent.api.post(url, json={})
            assert list(standing(answer.headers)) == ["agent"]


async def test_limits_change_at_run_time(node: RunningNode, address: str) -> None:
    """With the next decision, both ways; what was taken before still counts."""
    user = await somebody(node, Role.USER, address)
    with limits(node, read=3):
        assert await statuses(5, user) == {200: 3, 429: 2}
    assert (await user.get(AGENTS)).status_code == 200
    with limits(node, read=2):
        refused = await user.get(AGENTS)
        assert standing(refused.headers)["read"][:3] == (2, 60, 0)
        assert refused.status_code == 429


async def test_no_policy_can_be_left_out(node: RunningNode) -> None:
    """A change that forgets one changes nothing."""
    charging = limits_of(node)
    with pytest.raises(ValueError, match="no policy for address, agent"):
        charging.policies.replace({})
    assert charging.policies.by_name == default_policies()


async def test_a_batch_of_anything_is_one_request_that_is_refused(
    node: RunningNode, address: str
) -> None:
    """There are no batches to hide requests in: an array, or a page without end, is 400."""
    user = await somebody(node, Role.USER, address)
    await user.refused(400, "GET", f"{AGENTS}?limit=1000000000")
    for path in ("/api/v1/tasks", "/api/v1/auth/login"):
        await user.refused(400, "POST", path, json=[{"name": "a"}] * 101)


async def test_a_batch_costs_what_its_tasks_would_cost(node: RunningNode, address: str) -> None:
    """All of it or nothing is charged; one that never fits is told so; a replay costs one."""
    user = await somebody(node, Role.USER, address)
    batch = "/api/v1/tasks/batch"

    def tasks(count: int) -> dict[str, Any]:
        return {"tasks": [{"name": "x", "required_capabilities": ["nobody"]}] * count}

    with limits(node, task_submit=10, address=FAR):
        keyed = {"Idempotency-Key": "batch"}
        answer = await user.post(batch, json=tasks(6), headers=keyed)
        assert answer.status_code == 200, answer.text
        assert answer.headers["RateLimit"].startswith('"task-submit";r=4;')
        assert '"address";' in answer.headers["RateLimit"]
        again = await user.post(batch, json=tasks(6), headers=keyed)
        assert again.headers["RateLimit"].startswith('"task-submit";r=3;')
        problem = await user.refused(422, "POST", batch, json=tasks(11))
        assert problem["code"] == "more-than-limit"
        problem = await user.refused(429, "POST", batch, json=tasks(3))
        assert problem["violated"] == ["task-submit"]
        assert (await user.post(batch, json=tasks(1))).status_code == 200
        assert len(await user.ok("GET", "/api/v1/tasks?name=x&limit=50")) == 7
