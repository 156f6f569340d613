"""Tickets for WebSockets: who gets one, what it is worth, and that it works once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from hive.errors import InvalidToken, Unavailable
from hive.permissions import ROLE_PERMISSIONS, Role
from hive.secrets import WS_TICKET
from hive.tickets import TICKET_SECONDS, Redeemed
from server.tickets import WsTickets
from tests.api.running import Agent, Api, RunningNode, found, running_node
from tests.realtime.client import open_socket

pytestmark = pytest.mark.asyncio(loop_scope="module")

TICKETS = "/api/v1/auth/ws-tickets"
AT_ONCE = 50


async def get_ticket(api: Api) -> str:
    """A new ticket."""
    return str((await api.ok("POST", TICKETS, json={}))["ticket"])


async def close_code(url: str, ticket: str, path: str = "/ws") -> int | None:
    """What a socket with this ticket is closed with; None when it is let in."""
    async with open_socket(url, f"{path}?ticket={ticket}") as socket:
        await socket.send("ping", t=1)
        answers = asyncio.create_task(socket.until("pong"))
        await asyncio.wait({answers}, timeout=10)
        if answers.done() and answers.exception() is None:
            return None
        answers.cancel()
        return await socket.close_code()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(
    tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str
) -> AsyncIterator[list[RunningNode]]:
    """Two nodes of one hive."""
    folder = tmp_path_factory.mktemp("nodes")
    shared: Mapping[str, Any] = {
        "sql_url": SecretStr(f"sqlite:///{folder / 'shared.db'}"),
        "secret_key": SecretStr("correct-horse-battery-staple-0123456789"),
        "mongodb_database": f"test_tickets_{folder.stat().st_ino}",
    }
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(running_node(folder / name, mongodb_uri, **shared))
            for name in ("one", "two")
        ]


async def test_ticket_is_told_once_with_its_life(user: Api) -> None:
    """It has the form of our secrets, and is no resource: there is no place to read it again."""
    response = await user.post(TICKETS, json={})
    assert response.status_code == 200
    assert "Location" not in response.headers
    assert response.json()["expires_in"] == TICKET_SECONDS
    assert WS_TICKET.is_well_formed(response.json()["ticket"])


async def test_ticket_needs_no_body(user: Api) -> None:
    """And takes none that says anything."""
    assert (await user.post(TICKETS)).status_code == 200
    await user.refused(400, "POST", TICKETS, json={"seconds": 600})


async def test_ticket_opens_one_socket(node: RunningNode, user: Api) -> None:
    """The socket is the user's, with the user's rights; the second one is closed with 1008."""
    ticket = await get_ticket(user)
    async with open_socket(node.url, f"/ws?ticket={ticket}") as socket:
        await socket.subscribe("*")
        (peer,) = [one for one in node.node.peers._peers if one.principal is not None]
        assert peer.principal is not None
        me = await user.ok("GET", "/api/v1/auth/me")
        assert peer.principal.session_id == me["session_id"]
        assert peer.principal.permissions == ROLE_PERMISSIONS[Role.USER]
    assert await close_code(node.url, ticket) == 1008


async def test_agent_opens_its_link_with_a_ticket(node: RunningNode, agent: Agent) -> None:
    """Its API key stands behind the ticket, on its own link and on no other's."""
    path = f"/ws/agents/{agent.agent_id}"
    async with open_socket(node.url, f"{path}?ticket={await get_ticket(agent.api)}") as link:
        await link.send("hello")
        await link.until("ready")
    last = "y" if agent.agent_id.endswith("x") else "x"
    other = f"/ws/agents/{agent.agent_id[:-1]}{last}?ticket={await get_ticket(agent.api)}"
    async with open_socket(node.url, other) as link:
        assert await link.close_code() == 4403


async def test_ticket_is_no_bearer_token(node: RunningNode, user: Api) -> None:
    """Over REST it is a token that nobody issued, and it is not used up by that."""
    ticket = await get_ticket(user)
    problem = await node.client(ticket).refused(401, "GET", "/api/v1/auth/me")
    assert problem["code"] == "invalid-token"
    assert await close_code(node.url, ticket) is None


@pytest.mark.parametrize("text", ["x", "azt_", "azt_" + "0" * 39, "azk_x", "%00", "x" * 9_000])
async def test_what_is_no_ticket_costs_no_query(
    node: RunningNode, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """The checksum tells, before a database is asked; the socket is closed with 1008."""

    async def asked(*_: object) -> None:
        raise AssertionError("the database was asked")

    monkeypatch.setattr("storage.sql.tickets.SqlTickets.redeem", asked)
    if len(text) < 8_000:
        async with open_socket(node.url, f"/ws?ticket={text}") as socket:
            assert await socket.close_code() == 1008
    else:
        tickets = node.node.services.tickets
        assert isinstance(tickets, WsTickets)
        with pytest.raises(InvalidToken):
            await tickets.redeem(text)


async def test_ticket_of_a_session_that_ended_meanwhile_is_refused(node: RunningNode) -> None:
    """What counts is what the credential is worth when the ticket is used."""
    api = await node.log_in("admin")
    ticket = await get_ticket(api)
    await api.ok("POST", "/api/v1/auth/logout", json={})
    assert await close_code(node.url, ticket) == 1008


async def test_ticket_of_a_session_that_ended_on_another_node_is_refused(
    nodes: list[RunningNode],
) -> None:
    """At once: the database is asked, not what this node has believed so far."""
    here, there = nodes
    api = await here.log_in("admin")
    assert await close_code(there.url, await get_ticket(api)) is None
    ticket = await get_ticket(api)
    await api.ok("POST", "/api/v1/auth/logout", json={})
    assert await close_code(there.url, ticket) == 1008


async def test_ticket_of_a_revoked_key_is_refused(node: RunningNode, admin: Api) -> None:
    """As that of a session."""
    key = await admin.ok("POST", "/api/v1/api-keys", json={"name": "short"})
    ticket = await get_ticket(node.client(key["api_key"]))
    await admin.ok("DELETE", f"/api/v1/api-keys/{key['key_id']}")
    assert await close_code(node.url, ticket) == 1008


async def test_ticket_from_where_its_key_is_not_allowed_is_refused(
    tmp_path: Path, mongodb_uri: str
) -> None:
    """The addresses of the key are compared with the socket's: 4403."""
    async with running_node(tmp_path, mongodb_uri, trusted_proxies=("127.0.0.0/8",)) as node:
        admin = await node.log_in("admin")
        body = {"name": "office", "allowed_addresses": ["192.0.2.0/24"]}
        key = await admin.ok("POST", "/api/v1/api-keys", json=body)
        office = {"X-Forwarded-For": "192.0.2.7"}
        ticket = await get_ticket(node.client(key["api_key"], headers=office))
        async with open_socket(node.url, f"/ws?ticket={ticket}") as socket:
            assert await socket.close_code() == 4403
        ticket = await get_ticket(node.client(key["api_key"], headers=office))
        async with open_socket(
            node.url, f"/ws?ticket={ticket}", additional_headers=office
        ) as socket:
            await socket.subscribe("*")


async def test_revocation_closes_a_socket_that_came_with_a_ticket(node: RunningNode) -> None:
    """As one that came with the credential itself: 4101."""
    api = await node.log_in("admin")
    async with open_socket(node.url, f"/ws?ticket={await get_ticket(api)}") as socket:
        await socket.subscribe("*")
        await api.ok("POST", "/api/v1/auth/logout", json={})
        assert await socket.close_code() == 4101


async def test_other_pages_get_nowhere_with_a_ticket(node: RunningNode, user: Api) -> None:
    """The origin is looked at first, so that the ticket is not even used up."""
    ticket = await get_ticket(user)
    response = await node.client(judged=False).get(
        f"/ws?ticket={ticket}",
        headers={
            "Origin": "http://evil.example",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        },
    )
    assert response.status_code == 403
    assert await close_code(node.url, ticket) is None


async def test_one_of_many_uses_wins_on_two_nodes(nodes: list[RunningNode]) -> None:
    """Fifty sockets at once, half of them on each node: one is let in."""
    api = await nodes[0].log_in("admin")
    ticket = await get_ticket(api)
    codes = await asyncio.gather(*(close_code(nodes[n % 2].url, ticket) for n in range(AT_ONCE)))
    assert sorted(codes, key=str) == [1008] * (AT_ONCE - 1) + [None]


async def test_ticket_is_in_no_log_and_no_record(
    node: RunningNode, admin: Api, capfd: pytest.CaptureFixture[str]
) -> None:
    """Used, refused or not used at all."""
    ticket, unused = await get_ticket(admin), await get_ticket(admin)
    assert await close_code(node.url, ticket) is None
    assert await close_code(node.url, ticket) == 1008
    await admin.get(f"/api/v1/tasks?ticket={unused}")
    out, err = capfd.readouterr()
    assert "socket.opened" in out + err
    records = await found(
        lambda: admin.get("/api/v1/audit?limit=50"),
        lambda answer: "create_ws_ticket" in answer.text,
        "the calls are recorded",
    )
    for secret in (ticket, unused):
        assert secret not in out + err + records.text


class Nothing:
    """Revocations of which there are none."""

    def changed_since(self, *_: object) -> bool:
        """Never."""
        return False


async def test_ticket_without_a_database_opens_nothing() -> None:
    """A use that can't be ruled out is no use."""

    class Away:
        async def redeem(self, _: str) -> Redeemed | None:
            raise Unavailable

    tickets = WsTickets(Away(), Nothing())  # type: ignore[arg-type]
    secret = WS_TICKET.encode(b"x" * WS_TICKET.entropy_bytes)
    with pytest.raises(Unavailable):
        await tickets.redeem(secret)
