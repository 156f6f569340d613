"""The response cache on running nodes: what changes is seen, and nobody sees what they may not."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from hive.events import Event
from hive.permissions import Principal, Role
from server.bootstrap.response_cache import open_response_cache
from server.rest import RestHandler
from server.settings import Settings, SettingsError, load_settings
from tests.api.running import Api, RunningNode, found, running_node
from tests.servers import RedisProcess, eventually, running_redis

SECRET = "correct-horse-battery-staple-0123456789"
AGENTS = "/api/v1/agents"
CHANGES = 8


@asynccontextmanager
async def two_nodes(
    directory: Path, mongodb_uri: str, **options: Any
) -> AsyncIterator[list[RunningNode]]:
    """Two nodes of one hive."""
    shared = {
        "sql_url": SecretStr(f"sqlite:///{directory / 'shared.sqlite3'}"),
        "secret_key": SecretStr(SECRET),
        "mongodb_database": f"test_{uuid.uuid4().hex}",
        **options,
    }
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(running_node(directory / name, mongodb_uri, **shared))
            for name in ("one", "other")
        ]


class Delivered:
    """The newest version of each agent whose event a node has heard of."""

    def __init__(self, node: RunningNode) -> None:
        self.versions: dict[str, int] = {}
        node.node.hub.subscribe(self._heard)

    def _heard(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.type.startswith("agent."):
                self.versions[event.subject] = int(event.id.rpartition(":")[2])


async def warm(api: Api, path: str = AGENTS) -> None:
    """Ask until a kept answer comes."""

    async def is_kept() -> bool:
        return "Age" in (await api.get(path)).headers

    await found(is_kept, bool, f"{path} is kept")


async def shown_version(api: Api, agent_id: str) -> int:
    """The version that the list shows of an agent."""
    listed = {one["agent_id"]: one for one in await api.ok("GET", AGENTS)}
    return int(listed[agent_id]["version"])


@pytest.mark.parametrize("where", [pytest.param("memory", marks=pytest.mark.more), "redis"])
async def test_what_is_read_after_an_event_came_is_never_older(
    tmp_path: Path, mongodb_uri: str, redis_url: str, where: str
) -> None:
    """Two nodes change an agent and are read all the time; each read shows what it has to.

    On the node that made a change, the change at once; on the other what its hub has spread.
    """
    options = {"response_cache": where, "redis_url": SecretStr(redis_url)}
    async with two_nodes(tmp_path, mongodb_uri, **options) as (one, other):
        api = await one.log_in("admin")
        agent = await one.add_agent(api, labels={})
        writers = (api, other.client(api.credential))
        delivered = Delivered(other)
        done = asyncio.Event()
        kept = 0

        async def read(node: RunningNode) -> None:
            nonlocal kept
            client = node.client(api.credential, judged=False)
            while not done.is_set():
                least = delivered.versions.get(agent.agent_id, 0) if node is other else 0
                response = await client.get(AGENTS)
                kept += "Age" in response.headers
                listed = {row["agent_id"]: row["version"] for row in response.json()}
                assert listed.get(agent.agent_id, 0) >= least

        async with asyncio.TaskGroup() as group:
            for reader in (one, other):
                group.create_task(read(reader))
            spec = {"name": "changed", "agent_type": "worker", "capabilities": [], "slots": 1}
            for n in range(CHANGES):
                # Only one of the nodes writes the log; the other hears of its own changes later.
                writer = writers[n % 2]
                changed = await writer.ok(
                    "PUT",
                    f"{AGENTS}/{agent.agent_id}",
                    json={**spec, "labels": {"n": str(n)}},
                    headers={"If-Match": "*"},
                )
                assert await shown_version(writer, agent.agent_id) >= changed["version"]
                if n % 4 != 3:
                    continue
                await eventually(
                    lambda least=changed["version"]: (  # type: ignore[misc]
                        delivered.versions.get(agent.agent_id, 0) >= least
                    ),
                    "the other node hears of it",
                )
            done.set()
        assert kept > CHANGES
        if where == "redis":
            await _share(api, other.client(api.credential))


async def _share(here: Api, there: Api) -> None:
    """Ask until one node gives what the other has made: with its age, and the same ETag."""

    async def from_the_other() -> tuple[bool, bool]:
        made, given = await here.get(AGENTS), await there.get(AGENTS)
        return "Age" in given.headers, made.headers["ETag"] == given.headers["ETag"]

    await found(from_the_other, lambda seen: seen == (True, True), "it is shared")


async def test_without_redis_every_answer_is_made(tmp_path: Path, mongodb_uri: str) -> None:
    """Redis goes away under load: no request fails, and changes are seen."""
    with running_redis(tmp_path / "redis") as redis:
        await _lose_redis(tmp_path / "node", mongodb_uri, redis)


async def _lose_redis(directory: Path, mongodb_uri: str, redis: RedisProcess) -> None:
    options = {"response_cache": "redis", "redis_url": SecretStr(redis.url)}
    async with running_node(directory, mongodb_uri, **options) as node:
        api = await node.log_in("admin")
        await warm(api)
        redis.kill()
        agent = await node.add_agent(api)
        for _ in range(5):
            assert await shown_version(api, agent.agent_id) >= 1
        assert "Age" not in (await api.get(AGENTS)).headers


def test_off_means_off() -> None:
    """Without a cache nothing is kept, listened to or shared."""
    nothing: Any = None
    off = Settings(response_cache="off")
    assert open_response_cache(off, *[nothing] * 5) is None


def test_redis_has_to_be_named() -> None:
    """A cache for several nodes without a Redis stops start-up, by the variable's name."""
    with pytest.raises(SettingsError, match="AGENTZERO_RESPONSE_CACHE: redis needs"):
        load_settings({"AGENTZERO_RESPONSE_CACHE": "redis"})
    env = {"AGENTZERO_RESPONSE_CACHE": "Redis", "AGENTZERO_REDIS_URL": "redis://cache"}
    assert load_settings(env).response_cache == "redis"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_handler_whose_answer_is_for_all_does_not_learn_who_asks(
    node: RunningNode, admin: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it can't give one caller's answer to another; other handlers know their caller."""
    known: list[Principal | None] = []
    made = RestHandler._context

    def noting(handler: RestHandler, principal: Principal | None, *more: Any, **named: Any) -> Any:
        known.append(principal)
        return made(handler, principal, *more, **named)

    monkeypatch.setattr(RestHandler, "_context", noting)
    await admin.get(AGENTS, params={"agent_type": "nobody-asked-before"})
    await admin.get("/api/v1/auth/me")
    assert [principal is None for principal in known] == [True, False]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("path", [AGENTS, "/api/v1/hive/status", "/openapi.json"])
async def test_an_answer_that_is_kept_says_so(node: RunningNode, admin: Api, path: str) -> None:
    """`Age` on what was made before; clients ask each time (`no-cache`); the bytes are the same."""
    await warm(admin, path)
    response = await admin.get(path)
    assert response.headers["Cache-Control"] == "private, no-cache"
    assert response.headers["Age"].isdecimal()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_kept_answer_is_validated_like_any_other(node: RunningNode, admin: Api) -> None:
    """If-None-Match is looked at behind the cache: 304, with the age."""

    async def validated() -> tuple[int, bool]:
        tag = (await admin.get(AGENTS)).headers["ETag"]
        again = await admin.get(AGENTS, headers={"If-None-Match": tag})
        return again.status_code, "Age" in again.headers

    await found(validated, lambda seen: seen == (304, True), "304 of a kept answer")


@pytest.mark.asyncio(loop_scope="module")
async def test_who_may_not_read_gets_no_kept_answer(node: RunningNode, admin: Api) -> None:
    """Neither without a credential, nor with a revoked one, nor without the permission."""
    await node.add_user("reader", Role.VIEWER)
    reader = await node.log_in("reader")
    agent = await node.add_agent(admin)
    without = await admin.ok(
        "POST", "/api/v1/api-keys", json={"name": "tasks", "scopes": ["tasks:read"]}
    )
    await warm(reader)
    for client, status in (
        (node.client(), 401),
        (node.client("azk_nobody"), 401),
        (node.client(without["api_key"]), 403),
    ):
        await warm(admin)
        response = await client.get(AGENTS)
        assert response.status_code == status
        assert agent.agent_id not in response.text
        assert "Age" not in response.headers
    await reader.ok("POST", "/api/v1/auth/logout", json={})
    await warm(admin)
    response = await reader.get(AGENTS)
    assert response.status_code == 401
    assert agent.agent_id not in response.text


@pytest.mark.asyncio(loop_scope="module")
async def test_a_change_is_read_back_at_once(node: RunningNode, admin: Api) -> None:
    """Registering, changing, pausing and removing: the next list shows each, however warm it is."""
    agent = await node.add_agent(admin)
    await warm(admin)
    for action, status in (("pause", "paused"), ("drain", "draining"), ("resume", "idle")):
        await admin.ok("POST", f"{AGENTS}/{agent.agent_id}/control", json={"action": action})
        listed = {one["agent_id"]: one for one in await admin.ok("GET", AGENTS)}
        assert listed[agent.agent_id]["status"] == status
        await warm(admin)
    await admin.ok("DELETE", f"{AGENTS}/{agent.agent_id}")
    assert agent.agent_id not in {one["agent_id"] for one in await admin.ok("GET", AGENTS)}


@pytest.mark.asyncio(loop_scope="module")
async def test_the_status_counts_what_was_submitted(node: RunningNode, admin: Api) -> None:
    """A task is counted in the next answer."""
    before = (await admin.ok("GET", "/api/v1/hive/status"))["tasks"]["queued"]
    await warm(admin, "/api/v1/hive/status")
    await admin.submit()
    after = (await admin.ok("GET", "/api/v1/hive/status"))["tasks"]["queued"]
    assert after == before + 1


@pytest.mark.asyncio(loop_scope="module")
async def test_a_query_that_is_refused_is_refused_while_others_are_kept(
    node: RunningNode, admin: Api
) -> None:
    """Arguments are judged before the cache is asked."""
    await warm(admin)
    await admin.refused(400, "GET", f"{AGENTS}?limit=0")
    await admin.refused(400, "GET", f"{AGENTS}?nothing=1")
