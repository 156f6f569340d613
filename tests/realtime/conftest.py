"""A real Tornado server on loopback with the real-time side, over fakes of the stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
from tornado.netutil import bind_sockets
from tornado.web import Application

from hive.ports import Limits
from server.addresses import AddressResolver
from server.agent_links import AgentLinks
from server.app import make_http_server
from server.authorization import Authorization
from server.binding import bind
from server.contract import Contract
from server.hub import Hub
from server.invocation import Invoker
from server.liveness import LINK_LIMITS, PeerLimits
from server.peers import Peers
from server.websocket import Realtime
from tests.contract.running import Unaudited, Unset
from tests.contracts import our_contract
from tests.realtime.client import JudgedSocket, open_socket
from tests.realtime.fakes import (
    FakeAgents,
    FakeIdentifiers,
    FakeLog,
    FakeTasks,
    authenticate,
    redeem,
)


@dataclass
class RealtimeNode:
    """A running server and everything behind it."""

    url: str
    log: FakeLog
    hub: Hub
    peers: Peers
    links: AgentLinks
    agents: FakeAgents
    tasks: FakeTasks
    realtime: Realtime

    def open(
        self, path: str = "/ws", *, token: str | None = "user", **options: Any
    ) -> AbstractAsyncContextManager[JudgedSocket]:
        """Connect to this server."""
        return open_socket(self.url, path, token=token, **options)

    def link(self, **options: Any) -> AbstractAsyncContextManager[JudgedSocket]:
        """Connect as the agent."""
        return self.open("/ws/agents/agt_1", token="agent", **options)

    def publish(self, event_type: str = "task.created", **fields: Any) -> int:
        """Append to the log and tell the hub; the seq."""
        event = self.log.append(event_type, **fields)
        self.hub.publish([event])
        return event.seq

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds."""
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 - any condition, with a deadline
                await asyncio.sleep(0.01)


StartNode = Callable[..., AbstractAsyncContextManager[RealtimeNode]]


@pytest.fixture(scope="session")
def contract() -> Contract:
    """The real contracts."""
    return our_contract()


@pytest.fixture
async def make_node(contract: Contract) -> AsyncIterator[Callable[..., Any]]:
    """Start servers; `limits` are fields of PeerLimits for both channels."""
    stops: list[Callable[[], Any]] = []

    async def start(
        *,
        ring_events: int = 20_000,
        silence_seconds: float = 1.0,
        per_principal: int = 20,
        log: FakeLog | None = None,
        origins: tuple[str, ...] = ("http://localhost:3000",),
        claim_wait_seconds: float = 0.3,
        **limits: Any,
    ) -> RealtimeNode:
        log = log or FakeLog()
        agents, tasks, identifiers = FakeAgents(), FakeTasks(), FakeIdentifiers()
        services: Any = SimpleNamespace(
            agents=agents,
            tasks=tasks,
            presence=agents,
            dispatcher=tasks,
            identifiers=identifiers,
            limits=Limits(30, 15),
        )
        hub = Hub(log, ring_events=ring_events, silence_seconds=silence_seconds)
        peers = Peers(per_principal=per_principal, tick_seconds=0.05)
        invoker = Invoker(
            bind(contract),
            services,
            authorization=Authorization(Unset()),
            audit=Unaudited(),
            new_identifier=identifiers.new,
            new_call_id=lambda: identifiers.new("aud"),
        )
        links = AgentLinks(services, invoker, claim_wait_seconds=claim_wait_seconds)
        hub.subscribe(links.heard)
        realtime = Realtime(
            contract,
            authenticate,
            redeem,
            hub,
            peers,
            links,
            identifiers,
            AddressResolver(()),
            Unaudited(),
            lambda: identifiers.new("aud"),
            origins=origins,
            limits=replace(PeerLimits(), **limits),
            link_limits=replace(LINK_LIMITS, **limits),
        )
        server = make_http_server(Application(realtime.routes()))
        sockets = bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        await hub.start()
        peers.start()

        async def stop() -> None:
            server.stop()
            await peers.stop()
            await links.stop()
            await hub.stop()
            await server.close_all_connections()

        stops.append(stop)
        url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        return RealtimeNode(url, log, hub, peers, links, agents, tasks, realtime)

    yield start
    for stop in stops:
        await stop()


@pytest.fixture
async def node(make_node: Callable[..., Any]) -> RealtimeNode:
    """A server with the usual limits."""
    started: RealtimeNode = await make_node()
    return started
