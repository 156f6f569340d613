"""Who may connect, with which credential, from which page."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.realtime.conftest import RealtimeNode

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def bearer(token: str) -> str:
    """The subprotocol that carries a token."""
    return "agentzero.bearer." + urlsafe_b64encode(token.encode()).decode().rstrip("=")


async def test_the_subprotocol_is_selected_when_offered(node: RealtimeNode) -> None:
    """And nothing else is."""
    async with node.open(subprotocols=["chat", "agentzero.v1"]) as socket:
        assert socket.socket.subprotocol == "agentzero.v1"


async def test_only_unknown_subprotocols_close_with_4406(node: RealtimeNode) -> None:
    """The client speaks something else."""
    async with node.open(subprotocols=["chat"]) as socket:
        assert socket.socket.subprotocol is None
        assert await socket.close_code() == 4406


async def test_a_token_in_a_subprotocol_is_taken_and_never_echoed(node: RealtimeNode) -> None:
    """What a browser can do without putting the token into an address."""
    offered = ["agentzero.v1", bearer("user")]
    async with node.open(token=None, subprotocols=offered) as socket:
        assert socket.socket.subprotocol == "agentzero.v1"
        await socket.subscribe("*")


@pytest.mark.parametrize("offered", ["agentzero.bearer.", "agentzero.bearer.!", bearer("bad")])
async def test_an_unreadable_token_in_a_subprotocol_closes_with_1008(
    node: RealtimeNode, offered: str
) -> None:
    """It counts as a credential that nobody issued."""
    async with node.open(
        token=None, additional_headers={"Sec-WebSocket-Protocol": offered}
    ) as socket:
        assert await socket.close_code() == 1008


async def test_the_header_comes_before_the_subprotocol_and_the_query(node: RealtimeNode) -> None:
    """The first credential that is present is the one that counts."""
    async with node.open(
        "/ws?token=bad", token="user", subprotocols=["agentzero.v1", bearer("bad")]
    ) as socket:
        await socket.subscribe("*")
    async with node.open(
        "/ws?token=user", token=None, subprotocols=["agentzero.v1", bearer("bad")]
    ) as socket:
        assert await socket.close_code() == 1008


async def test_the_ticket_comes_behind_the_header_and_before_the_rest(node: RealtimeNode) -> None:
    """A good credential further down makes a bad one above it no better."""
    path = "/ws?token=bad&ticket=azt_user"
    async with node.open(path, token=None, subprotocols=["agentzero.v1", bearer("bad")]) as socket:
        await socket.subscribe("*")
    async with node.open("/ws?token=user&ticket=azt_bad", token=None) as socket:
        assert await socket.close_code() == 1008
    async with node.open("/ws?ticket=azt_user", token="bad") as socket:
        assert await socket.close_code() == 1008


@pytest.mark.parametrize(
    "path", ["/ws?ticket=user", "/ws?token=azt_user", "/ws?ticket=", "/ws?ticket=azt_user&ticket=x"]
)
async def test_a_ticket_is_no_token_and_a_token_no_ticket(node: RealtimeNode, path: str) -> None:
    """Each counts in its place only, and only alone."""
    async with node.open(path, token=None) as socket:
        assert await socket.close_code() == 1008


async def test_a_ticket_as_a_bearer_is_refused(node: RealtimeNode) -> None:
    """In the header, the subprotocol and the first frame."""
    async with node.open(token="azt_user") as socket:
        assert await socket.close_code() == 1008
    async with node.open(token=None, subprotocols=["agentzero.v1", bearer("azt_user")]) as socket:
        assert await socket.close_code() == 1008
    async with node.open(token=None) as socket:
        await socket.send("connect", token="azt_user")
        assert await socket.close_code() == 1008


async def test_two_tokens_in_the_query_close_with_1008(node: RealtimeNode) -> None:
    """Ambiguous is refused."""
    async with node.open("/ws?token=user&token=admin", token=None) as socket:
        assert await socket.close_code() == 1008


async def test_a_token_in_connect_is_taken(node: RealtimeNode) -> None:
    """The first frame may bring it."""
    async with node.open(token=None) as socket:
        await socket.send("connect", token="user")
        welcome = await socket.expect("welcome")
        assert welcome["limits"]["frame_bytes"] == 65_536
        assert "recovered" not in welcome
        await socket.subscribe("*")


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://evil",
        "http://evil-localhost:3000",
        "http://localhost:3000.evil",
        "https://localhost:3000",
        "http://localhost:3001",
        "http://localhost",
        "http://LOCALHOST:3000",
        "",
    ],
)
@pytest.mark.parametrize("site", [None, "same-origin", "none", "cross-site"])
async def test_other_pages_are_refused_with_403(
    node: RealtimeNode, origin: str, site: str | None
) -> None:
    """Whatever `Sec-Fetch-Site` says, and although the token is good."""
    headers = {"Origin": origin} | ({"Sec-Fetch-Site": site} if site else {})
    with pytest.raises(InvalidStatus) as refused:
        async with node.open(additional_headers=headers):
            pass
    response = refused.value.response
    assert response.status_code == 403
    assert response.headers["Content-Type"] == "application/problem+json"
    assert json.loads(response.body or b"")["code"] == "forbidden"


async def test_the_origin_in_another_scheme_is_refused(node: RealtimeNode) -> None:
    """The same host over https is another origin."""
    own = node.url.replace("http://", "https://")
    with pytest.raises(InvalidStatus):
        async with node.open(additional_headers={"Origin": own}):
            pass


async def test_the_own_and_the_allowed_origin_may_connect(node: RealtimeNode) -> None:
    """Pages of this server, and those that the operator named."""
    for origin in (node.url, "http://localhost:3000"):
        async with node.open(origin=origin) as socket:
            await socket.subscribe("*")


async def test_allowed_origins_are_a_setting(make_node: Callable[..., Any]) -> None:
    """Without the default the default is refused."""
    node = await make_node(origins=("https://app.example",))
    async with node.open(origin="https://app.example") as socket:
        await socket.subscribe("*")
    with pytest.raises(InvalidStatus):
        async with node.open(origin="http://localhost:3000"):
            pass


@pytest.mark.parametrize(
    "missing", ["Connection", "Upgrade", "Sec-WebSocket-Version", "Sec-WebSocket-Key"]
)
async def test_what_is_no_upgrade_is_answered_with_426(node: RealtimeNode, missing: str) -> None:
    """With a problem, and the version that is spoken."""
    headers = {name: value for name, value in UPGRADE.items() if name != missing}
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.get(f"{node.url}/ws?token=user", headers=headers)
    assert response.status_code == 426
    assert response.headers["Sec-WebSocket-Version"] == "13"
    assert response.json()["code"] == "upgrade-required"


async def test_other_methods_are_answered_with_405(node: RealtimeNode) -> None:
    """With a problem and `Allow`."""
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.post(f"{node.url}/ws")
    assert (response.status_code, response.headers["Allow"]) == (405, "GET")
    assert response.json()["code"] == "method-not-allowed"


async def test_the_token_of_the_query_is_in_no_log(
    node: RealtimeNode, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even when the server fails on the connection."""
    secret = "-".join(["very"] * 9)
    monkeypatch.setattr("server.websocket.EventsHandler.make_peer", lambda *_: 1 / 0)
    async with node.open(f"/ws?token={secret}", token=None) as socket:
        assert await socket.close_code() == 4000
    monkeypatch.setattr("server.websocket.RealtimeHandler._find_refusal", lambda *_: 1 / 0)
    with pytest.raises(InvalidStatus):
        async with node.open(f"/ws?token={secret}", token=None):
            pass
    out, err = capfd.readouterr()
    assert "ZeroDivisionError" in out + err
    assert secret not in out + err


@pytest.mark.parametrize("path", ["/ws?token=%ff", "/ws?cursor=%ff&token=user"])
async def test_a_query_that_is_not_utf8_is_refused_with_a_code(
    node: RealtimeNode, path: str
) -> None:
    """As any other credential that nobody issued, or cursor that is no number."""
    async with node.open(path, token=None) as socket:
        assert await socket.close_code() in {1008, 4400}


async def test_a_path_that_is_not_utf8_is_a_bad_request(node: RealtimeNode) -> None:
    """With a problem."""
    with pytest.raises(InvalidStatus) as refused:
        async with node.open("/ws/agents/%ff", token="agent"):
            pass
    assert refused.value.response.status_code == 400
    assert json.loads(refused.value.response.body or b"")["code"] == "contract-mismatch"


async def test_compression_is_not_negotiated(node: RealtimeNode) -> None:
    """It would cost 145 KiB a connection, and let a bomb in."""
    async with node.open(compression="deflate") as socket:
        assert socket.socket.protocol.extensions == []
