"""A node of three dies, or stands still and wakes up late: another one does its work."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from agentzero_client import AsyncClient
from server.duties import LEASE_SECONDS, RETRY_SECONDS
from tests.api.running import Agent, Api, found
from tests.cluster.load import Load
from tests.cluster.nodes import (
    FAILOVER_SECONDS,
    Cluster,
    ClusterNode,
    running_cluster,
    seqs_without_a_hole,
)
from tests.edge.certificates import write_pair
from tests.edge.proxying import NAME, Proxy, find_nginx, running_nginx

PROGRAM = find_nginx()
PATIENCE_SECONDS = 30.0
"""How late a busy machine may be; how fast it goes is measured by `make bench`."""


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str, redis_url: str, sql_url: str
) -> Iterator[Cluster]:
    """Three nodes."""
    with running_cluster(
        tmp_path_factory.mktemp("cluster"),
        mongodb_uri=mongodb_uri,
        redis_url=redis_url,
        sql_url=sql_url,
    ) as running:
        yield running


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    """Three nodes that run, whatever the test before did with them."""
    shared.start()
    return shared


@pytest.fixture
def proxy(cluster: Cluster, tmp_path: Path) -> Iterator[Proxy]:
    """Nginx in front of the nodes."""
    if PROGRAM is None:
        pytest.skip("no nginx (on Debian: apt-get install nginx-light)")
    pair = write_pair(tmp_path, "proxy", names=(NAME,), addresses=())
    with running_nginx(PROGRAM, tmp_path, pair, *(node.port for node in cluster.nodes)) as running:
        yield running


@asynccontextmanager
async def logged_in(cluster: Cluster, *nodes: ClusterNode) -> AsyncIterator[list[Api]]:
    """The admin, at each of the nodes."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(await cluster.log_in(node)) for node in nodes]


async def recorded(api: Api, task_id: str, event_type: str) -> None:
    """Return once the log has this event of the task."""
    path = f"/api/v1/events?subject={task_id}"
    await found(
        lambda: api.ok("GET", path),
        lambda events: event_type in {event["type"] for event in events},
        f"{event_type} of {task_id} is in the log",
        PATIENCE_SECONDS,
    )


async def work_goes_on(submits: Api, claims: Api) -> None:
    """A task that one node takes is done by an agent of another, and both know."""
    name = f"worker-{len(await submits.ok('GET', '/api/v1/agents?limit=200'))}"
    registered = await submits.ok("POST", "/api/v1/agents", json={"name": name})
    async with Api(str(claims.base_url), registered["api_key"]) as own:
        agent = Agent(registered["agent_id"], own)
        task_id = await submits.submit(required_capabilities=[])
        lease = await agent.lease(task_id)
        await lease.ok("complete", result={"done": True})
    await submits.task_when(task_id, "completed", PATIENCE_SECONDS)
    await recorded(submits, task_id, "task.completed")


async def taken_over(cluster: Cluster, duty: str, lost: ClusterNode) -> None:
    """Return once another node has the duty."""

    async def holder() -> ClusterNode:
        return cluster.holder(duty)

    await found(holder, lambda node: node is not lost, f"{duty} is taken over", PATIENCE_SECONDS)


def test_a_duty_is_free_in_time() -> None:
    """The longest a lease can outlive its holder, and the next try of another node behind it."""
    assert LEASE_SECONDS + RETRY_SECONDS < FAILOVER_SECONDS - 0.5


@pytest.mark.timeout(180)
async def test_a_killed_node_is_replaced(cluster: Cluster) -> None:
    """Work goes on at the two that are left, the log has no hole, and the third comes back."""
    await cluster.ready()
    lost = cluster.holder("recorder")
    one, two = cluster.others(lost)
    async with logged_in(cluster, one, two) as (first, second):
        await work_goes_on(first, second)
        before = cluster.term("recorder")
        lost.kill()
        await work_goes_on(second, first)
        await taken_over(cluster, "recorder", lost)
        await taken_over(cluster, "reaper", lost)
        assert cluster.term("recorder") > before
        cluster.start()
        async with logged_in(cluster, lost) as (back,):
            await work_goes_on(back, first)
            newest = await seqs_without_a_hole(first)
            assert await seqs_without_a_hole(back) >= newest


@pytest.mark.more
@pytest.mark.timeout(180)
async def test_nobody_notices_that_a_node_is_replaced(cluster: Cluster, proxy: Proxy) -> None:
    """SIGTERM under load behind nginx: no request fails, and it ends with 0 within 15 s."""
    await cluster.ready()
    await _replace(cluster, proxy, cluster.nodes[:1])


@pytest.mark.more
@pytest.mark.timeout(600)
async def test_nobody_notices_that_all_nodes_are_replaced(cluster: Cluster, proxy: Proxy) -> None:
    """A rolling restart, three times around."""
    await cluster.ready()
    await _replace(cluster, proxy, [*cluster.nodes] * 3)


async def _replace(cluster: Cluster, proxy: Proxy, replaced: Sequence[ClusterNode]) -> None:
    async with logged_in(cluster, cluster.nodes[-1]) as (direct,):
        credential = str(direct.credential)
    trust = ssl.create_default_context(cafile=proxy.directory / "proxy.pem")
    address = f"https://{NAME}:{proxy.port}"
    async with (
        Load(address, credential, trust) as load,
        AsyncClient(address, token=credential, tls=trust) as watching,
        watching.watch(["task.created"]) as watch,
    ):
        for node in replaced:
            await load.goes_on()
            code = await asyncio.to_thread(node.stop, 15.0)
            assert code == 0, node.log_path.read_text()[-4_000:]
            await load.goes_on()
            if node is not replaced[-1]:
                # It dies with the thread that launches it.
                node.launch()
                await asyncio.to_thread(node.listens)
        await load.stop()
        assert load.failures == []
        seen: set[str] = set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not load.submitted <= seen:
                event = await anext(watch)
                seen.add(str(event.subject))


@pytest.mark.more
@pytest.mark.timeout(240)
async def test_a_node_that_stood_still_does_no_harm(cluster: Cluster) -> None:
    """What it held is taken over; awake again, it has lost it, and the log stays dense."""
    await cluster.ready()
    for _ in range(3):
        lost = cluster.holder("recorder")
        one, two = cluster.others(lost)
        async with logged_in(cluster, one, two) as (first, second):
            lost.pause()
            try:
                await work_goes_on(first, second)
                await taken_over(cluster, "recorder", lost)
                term = cluster.term("recorder")
            finally:
                lost.resume()
            async with logged_in(cluster, lost) as (back,):
                await work_goes_on(back, second)
                assert cluster.holder("recorder") is not lost
                assert cluster.term("recorder") == term
                await seqs_without_a_hole(back)


@pytest.mark.soak
@pytest.mark.timeout(1_200)
async def test_fifty_kills_of_whoever_records(cluster: Cluster) -> None:
    """Each time somebody else goes on, and nothing is missing from the log."""
    await cluster.ready()
    for _ in range(50):
        lost = cluster.holder("recorder")
        one, two = cluster.others(lost)
        async with logged_in(cluster, one, two) as (first, second):
            lost.kill()
            await work_goes_on(first, second)
            await taken_over(cluster, "recorder", lost)
            cluster.start()
            await work_goes_on(second, first)
            await seqs_without_a_hole(second)
