"""W1 and W2: which pages may open a socket, and how long one stays open without a credential."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr
from websockets.exceptions import InvalidStatus

from hive.permissions import Role
from server.bootstrap import ISSUER
from server.liveness import PeerLimits
from server.tokens import AccessTokens
from tests.api.running import PASSWORD, Api, RunningNode, found, running_node
from tests.realtime.client import open_socket

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALLOWED_SECONDS = 1.0
UNKNOWN_SECONDS = 5.0
DASHBOARD = "https://hive.example.com"
SITES = (None, "same-origin", "same-site", "none", "cross-site")


def origins_of(own: str) -> list[str]:
    """Pages that may not: `own` is the server's host and port."""
    host, port = own.split(":")
    return [
        "null",
        "",
        "http://evil.example",
        "https://evil-example.com",
        "https://evil-hive.example.com",
        "https://example.com.evil.example",
        "https://hive.example.com.evil.example",
        "https://example.com",
        "https://sub.hive.example.com",
        "http://hive.example.com",
        "https://hive.example.com:8443",
        "https://hive.example.com:443",
        "https://HIVE.example.com",
        "https://hive.example.com/",
        "https://hive.example.com.",
        "https://hive.example.com@evil.example",
        f"https://{own}",
        f"http://{host}:{int(port) + 1}",
        f"http://{host}",
        f"http://localhost:{port}",
        f"http://{own}.evil.example",
        f"http://evil.example/{own}",
        f"http://{own}, http://evil.example",
        f"{DASHBOARD} http://evil.example",
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(
    tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str
) -> AsyncIterator[RunningNode]:
    """A node that lets pages of one other origin in."""
    folder = tmp_path_factory.mktemp("guarded")
    async with running_node(folder, mongodb_uri, cors_origins=(DASHBOARD,)) as node:
        yield node


async def refused(node: RunningNode, headers: dict[str, str], path: str, token: str | None) -> None:
    """The upgrade has to be answered with 403 and a problem."""
    with pytest.raises(InvalidStatus) as refusal:
        async with open_socket(node.url, path, token=token, additional_headers=headers):
            pass
    response = refusal.value.response
    assert response.status_code == 403, headers
    assert json.loads(response.body or b"")["code"] == "forbidden"


async def test_pages_of_other_origins_open_no_socket(guarded: RunningNode) -> None:
    """W1: 403 whatever `Sec-Fetch-Site` says, on every channel, although the token is good."""
    token = (await guarded.log_in("admin")).credential
    own = guarded.url.removeprefix("http://")
    paths = itertools.cycle(["/ws", "/ws/agents/agt_x"])
    for origin, site in itertools.product(origins_of(own), SITES):
        headers = {"Origin": origin} | ({"Sec-Fetch-Site": site} if site else {})
        await refused(guarded, headers, next(paths), token)


async def test_allowed_pages_open_a_socket(guarded: RunningNode) -> None:
    """The server's own and the operator's: the refusals above are no accident."""
    token = (await guarded.log_in("admin")).credential
    for origin in (guarded.url, DASHBOARD):
        headers = {"Origin": origin, "Sec-Fetch-Site": "same-origin"}
        async with open_socket(guarded.url, token=token, additional_headers=headers) as socket:
            await socket.subscribe("*")


@pytest.mark.parametrize("origin", [None, "own"])
async def test_cookie_opens_no_socket(guarded: RunningNode, origin: str | None) -> None:
    """Neither the refresh cookie nor one with an access token, of whichever page."""
    body = {"username": "admin", "password": PASSWORD, "cookie": True}
    page = {"Origin": guarded.url}
    login = await guarded.client().post("/api/v1/auth/login", json=body, headers=page)
    refresh = login.headers["Set-Cookie"].partition(";")[0]
    access = login.json()["access_token"]
    headers = {
        "Cookie": f"{refresh}; access_token={access}; token={access}; Authorization={access}"
    }
    if origin is not None:
        headers["Origin"] = guarded.url
    async with open_socket(guarded.url, additional_headers=headers) as socket:
        await socket.send("subscribe", events=["*"])
        assert await socket.close_code() == 1008


async def test_no_page_needs_an_explicit_credential(guarded: RunningNode) -> None:
    """Without an `Origin` a token opens the socket, and nothing else does."""
    token = (await guarded.log_in("admin")).credential
    async with open_socket(guarded.url, token=token) as socket:
        await socket.subscribe("*")
    async with open_socket(guarded.url) as socket:
        await socket.send("subscribe", events=["*"])
        assert await socket.close_code() == 1008


async def test_socket_without_a_credential_is_gone_in_time(node: RunningNode) -> None:
    """W2: within 5 s, and none of what happens meanwhile is told."""
    assert PeerLimits().connect_seconds == UNKNOWN_SECONDS
    agent = "/ws/agents/agt_x"

    async def seconds(path: str) -> tuple[float, int | None]:
        async with open_socket(node.url, path) as socket:
            began = time.monotonic()
            code = await socket.close_code()
            return time.monotonic() - began, code

    for took, code in await asyncio.gather(*map(seconds, ("/ws", agent, "/ws"))):
        assert took <= UNKNOWN_SECONDS
        assert code == 1008


async def test_expiry_closes_within_a_second(node: RunningNode) -> None:
    """W2: 4100, measured from the `exp` of the token."""
    api = await node.log_in("admin")
    me = await api.ok("GET", "/api/v1/auth/me")
    tokens = AccessTokens(node.accounts._keys.signing, issuer=ISSUER, lifetime_seconds=2)
    token = tokens.issue(me["principal_id"], me["session_id"], Role(me["role"])).encoded
    ends = time.time() + 2
    async with open_socket(node.url, token=token) as socket:
        await socket.subscribe("*")
        assert await socket.close_code() == 4100
    # `exp` has no fractions: it may be up to a second before what was asked for.
    assert -1 <= time.time() - ends <= ALLOWED_SECONDS


async def test_revocation_closes_within_a_second_on_every_node(
    tmp_path: Path, mongodb_uri: str
) -> None:
    """W2: 4101, however the socket came by its credential, on the other node, too."""
    shared: dict[str, Any] = {
        "sql_url": SecretStr(f"sqlite:///{tmp_path / 'shared.db'}"),
        "secret_key": SecretStr("correct-horse-battery-staple-0123456789"),
        "mongodb_database": f"test_{uuid.uuid4().hex}",
    }
    async with (
        running_node(tmp_path / "one", mongodb_uri, **shared) as here,
        running_node(tmp_path / "two", mongodb_uri, **shared) as there,
    ):
        api = await here.log_in("admin")
        token = api.credential
        ways: list[Callable[[], Awaitable[dict[str, Any]]]] = [
            lambda: _in_header(token),
            lambda: _in_query(token),
            lambda: _as_ticket(api),
        ]
        async with AsyncExitStack() as stack:
            sockets = [
                await stack.enter_async_context(open_socket(node.url, **await way()))
                for node, way in itertools.product((here, there), ways)
            ]
            for socket in sockets:
                await socket.subscribe("*")
            await api.ok("POST", "/api/v1/auth/logout", json={})
            revoked = time.monotonic()
            codes = await asyncio.gather(*(socket.close_code() for socket in sockets))
            assert time.monotonic() - revoked <= ALLOWED_SECONDS
            assert codes == [4101] * len(sockets)


async def _in_header(token: str | None) -> dict[str, Any]:
    return {"token": token}


async def _in_query(token: str | None) -> dict[str, Any]:
    return {"path": f"/ws?token={token}"}


async def _as_ticket(api: Api) -> dict[str, Any]:
    ticket = (await api.ok("POST", "/api/v1/auth/ws-tickets", json={}))["ticket"]
    return {"path": f"/ws?ticket={ticket}"}


async def test_token_of_the_query_is_accepted_and_in_no_log(
    node: RunningNode, capfd: pytest.CaptureFixture[str]
) -> None:
    """W2: the original contract's way works; neither log nor audit record has the token."""
    api = await node.log_in("admin")
    bad = f"{api.credential}x"
    async with open_socket(node.url, f"/ws?token={api.credential}&cursor=0") as socket:
        await socket.subscribe("*")
    async with open_socket(node.url, f"/ws?token={bad}") as socket:
        assert await socket.close_code() == 1008
    with pytest.raises(InvalidStatus):
        async with open_socket(
            node.url,
            f"/ws?token={api.credential}",
            additional_headers={"Origin": "http://evil.example"},
        ):
            pass
    await api.get(f"/api/v1/nowhere?token={api.credential}")
    out, err = capfd.readouterr()
    assert "socket.opened" in out + err
    records = await found(
        lambda: api.get("/api/v1/audit?limit=50"),
        lambda answer: "login" in answer.text,
        "the calls are recorded",
    )
    signature = str(api.credential).rpartition(".")[2]
    assert signature not in out + err + records.text


async def test_ticket_is_used_once(node: RunningNode) -> None:
    """W2: thirty seconds and one socket are all that it is for."""
    api = await node.log_in("admin")
    answer = await api.ok("POST", "/api/v1/auth/ws-tickets", json={})
    assert answer["expires_in"] <= 30
    path = f"/ws?ticket={answer['ticket']}"
    async with open_socket(node.url, path) as socket:
        await socket.subscribe("*")
        async with open_socket(node.url, path) as second:
            assert await second.close_code() == 1008
        await socket.send("ping")
        await socket.until("pong")
