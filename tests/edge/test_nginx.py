"""`deploy/nginx.conf` in front of a node: nothing is lost, nothing gets around it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from agentzero_client import AsyncClient
from tests.api.running import PASSWORD, Api, RunningNode, found, running_node
from tests.contract.running import Unaudited, serve_small
from tests.edge.certificates import write_pair
from tests.edge.proxying import NAME, Proxy, find_nginx, running_nginx
from tests.edge.test_smuggling import HARMLESS, MALFORMED
from tests.edge.wires import Wire

PROGRAM = find_nginx()
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(PROGRAM is None, reason="no nginx (on Debian: apt-get install nginx-light)"),
]

CLIENT = "127.0.0.9"
HSTS = "max-age=63072000; includeSubDomains"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(
    tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str
) -> AsyncIterator[RunningNode]:
    """A node that trusts the machine's nginx."""
    async with running_node(
        tmp_path_factory.mktemp("behind"), mongodb_uri, trusted_proxies=("127.0.0.1/32",)
    ) as running:
        yield running


@pytest.fixture(scope="module")
def trusted(place: Path) -> ssl.SSLContext:
    """Trust in nginx's certificate."""
    return ssl.create_default_context(cafile=place / "proxy.pem")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where nginx has its files, its certificate among them."""
    directory = tmp_path_factory.mktemp("nginx")
    write_pair(directory, "proxy", names=(NAME,), addresses=())
    return directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxy(place: Path, node: RunningNode) -> AsyncIterator[Proxy]:
    """Nginx in front of the node."""
    assert PROGRAM is not None
    pair = write_pair(place, "proxy", names=(NAME,), addresses=())
    with running_nginx(PROGRAM, place, pair, int(node.url.rpartition(":")[2])) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(proxy: Proxy, node: RunningNode, place: Path) -> AsyncIterator[Api]:
    """The admin, who comes through nginx from another address than nginx itself."""
    token = (await node.log_in("admin")).credential
    transport = httpx.AsyncHTTPTransport(
        verify=ssl.create_default_context(cafile=place / "proxy.pem"), local_address=CLIENT
    )
    async with Api(f"https://{NAME}:{proxy.port}", token, transport=transport) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def unjudged(api: Api, trusted: ssl.SSLContext) -> AsyncIterator[Api]:
    """The admin, for what the contract says nothing of."""
    async with Api(str(api.base_url), api.credential, judged=False, verify=trusted) as client:
        yield client


async def _address_of(api: Api, request_id: str) -> str:
    """The address that the audit log has for a request."""

    async def look() -> list[dict[str, Any]]:
        records = await api.ok("GET", "/api/v1/audit?limit=200")
        return [one for one in records if one["request_id"] == request_id]

    (record,) = await found(look, bool, f"{request_id} is recorded")
    return str(record["address"])


async def test_requests_come_through_as_they_are(api: Api, unjudged: Api) -> None:
    """Judged by the contract; each header once, HSTS, the client's request identifier."""
    answer = await api.get("/api/v1/agents", headers={"X-Request-Id": "through-nginx"})
    assert answer.status_code == 200
    assert answer.headers.get_list("x-request-id") == ["through-nginx"]
    assert answer.headers.get_list("strict-transport-security") == [HSTS]
    names = [name for name, _ in answer.headers.multi_items()]
    assert sorted(set(names)) == sorted(names)
    assert await _address_of(api, "through-nginx") == CLIENT
    for path in ("//api/v1/agents", "/api/v1/%61gents", "/api/v1/x/../agents", "/api/v1/agents%2f"):
        raw = httpx.Request("GET", api.base_url, headers=api.headers)
        raw.extensions["target"] = path.encode()
        assert (await unjudged.send(raw)).status_code == 404


async def test_sockets_come_through(proxy: Proxy, node: RunningNode, trusted: Any) -> None:
    """Upgrade, events, and the page of the server's own address."""
    key = (await node.log_in("admin")).credential
    async with AsyncClient(f"https://{NAME}:{proxy.port}", token=key, tls=trusted) as client:
        agent = await client.agents.register("behind-nginx")
        async with client.watch(["agent.registered"], cursor=0) as watch:
            event = await asyncio.wait_for(anext(aiter(watch)), 20)
        assert event.data["agent_id"] == agent.agent_id


async def test_pages_open_sockets_by_their_public_origin(
    api: Api, proxy: Proxy, trusted: ssl.SSLContext
) -> None:
    """The server's own page, with the scheme that the browser knows; no other (bar W1)."""
    own = f"https://{NAME}:{proxy.port}"
    headers = {"Authorization": f"Bearer {api.credential}"}
    url = own.replace("https", "wss") + "/ws"
    async with connect(url, ssl=trusted, origin=Origin(own), additional_headers=headers):
        pass
    for origin in (
        f"http://{NAME}:{proxy.port}",
        f"https://{NAME}",
        "https://evil.example",
        "null",
    ):
        with pytest.raises(InvalidStatus) as refusal:
            await connect(url, ssl=trusted, origin=Origin(origin), additional_headers=headers)
        assert refusal.value.response.status_code == 403


async def test_cookies_are_for_pages_of_the_public_address(api: Api, node: RunningNode) -> None:
    """The scheme and the host that the browser knows, not those between nginx and the node."""
    own = str(api.base_url).rstrip("/")
    body = {"username": "admin", "password": PASSWORD, "cookie": True}
    for origin, status in ((own, 200), (own.replace("https", "http"), 403), (node.url, 403)):
        answer = await api.post("/api/v1/auth/login", json=body, headers={"Origin": origin})
        assert answer.status_code == status, origin


SPOOFS: list[list[tuple[str, str]]] = [
    [("X-Forwarded-For", "10.0.0.1")],
    [("X-Forwarded-For", "10.0.0.1, 127.0.0.1")],
    [("X-Forwarded-For", "10.0.0.1"), ("X-Forwarded-For", "127.0.0.1")],
    [("x-forwarded-for", "127.0.0.1"), ("X-FORWARDED-FOR", "10.0.0.1")],
    [("X-Forwarded-For", "::ffff:127.0.0.1")],
    [("X-Forwarded-For", ",, ,127.0.0.1")],
    [("X_Forwarded_For", "10.0.0.1")],
    [("X-Real-IP", "10.0.0.1"), ("Forwarded", 'for="10.0.0.1";proto=http')],
    [("CF-Connecting-IP", "10.0.0.1"), ("True-Client-IP", "10.0.0.1")],
    [("X-Client-IP", "10.0.0.1"), ("X-Cluster-Client-IP", "10.0.0.1")],
    [("Connection", "X-Forwarded-For, X-Forwarded-Proto")],
    [("X-Forwarded-Proto", "http"), ("X-Forwarded-Host", "evil.example")],
]


async def test_nobody_chooses_an_address(api: Api) -> None:
    """The audit log, the limits and the allowlists go by the address that nginx saw (bar Z5)."""
    for number, headers in enumerate(SPOOFS):
        answer = await api.get(
            "/api/v1/auth/me",
            headers=[*headers, ("X-Request-Id", f"spoof-{number}"), *api.headers.multi_items()],
        )
        assert answer.status_code == 200
        assert answer.headers.get_list("strict-transport-security") == [HSTS]
    for number, headers in enumerate(SPOOFS):
        assert await _address_of(api, f"spoof-{number}") == CLIENT, headers


async def test_artifacts_come_through_whole(api: Api) -> None:
    """They are larger than any other body, there and back; one that is too large has our answer."""
    agent = await api.ok("POST", "/api/v1/agents", json={"name": "uploads-behind-nginx"})
    await api.submit(required_capabilities=[])
    path = f"/api/v1/agents/{agent['agent_id']}/leases"
    (lease,) = await api.ok("POST", path, json={"wait_seconds": 10})
    path = f"/api/v1/leases/{lease['lease_id']}/artifacts/a.bin?fence={lease['fence']}"
    headers = {"Content-Type": "application/octet-stream"}
    content = bytes(range(256)) * 8192
    made = await api.ok("PUT", path, content=content, headers=headers)
    assert (await api.get(made["url"])).content == content
    answer = await api.put(path, content=bytes(16 * 1_048_576 + 1), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "content-too-large")


async def test_refusals_of_nginx_look_like_ours(api: Api, unjudged: Api) -> None:
    """413, 414, 431: problems with all the headers, and an identifier that is in the log."""
    answers = [
        await api.post("/api/v1/agents", content=b"x" * 1_048_577),
        await unjudged.get("/health/live?" + "x" * 9_000),
        await unjudged.get("/health/live", headers={"X-Large": "x" * 9_000}),
    ]
    assert [answer.status_code for answer in answers] == [413, 414, 431]
    for answer in answers:
        problem = answer.json()
        assert problem["status"] == answer.status_code
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["strict-transport-security"] == HSTS
        assert answer.headers["x-request-id"] == problem["request_id"]


async def test_port_without_tls_refuses_the_api(proxy: Proxy) -> None:
    """Pages are led over, the API is refused."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy.plain_port}") as plain:
        page = await plain.get("/health/live")
        assert (page.status_code, page.headers["location"]) == (
            308,
            f"https://{NAME}/health/live",
        )
        refusals = [
            await plain.get("/api/v1/agents"),
            await plain.get("/ws?token=a"),
            await plain.post("/"),
            await plain.get("/", headers={"Authorization": "Bearer a"}),
            await plain.get("/?token=a"),
        ]
    for answer in refusals:
        assert (answer.status_code, answer.json()["code"]) == (403, "tls-required")
        assert "location" not in answer.headers
        assert "strict-transport-security" not in answer.headers


async def test_other_names_get_no_certificate(proxy: Proxy, trusted: ssl.SSLContext) -> None:
    """Whoever comes under another name has not come to us."""
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(
            "127.0.0.1", proxy.port, ssl=trusted, server_hostname="evil.example"
        )


async def test_no_token_is_in_the_logs_of_nginx(unjudged: Api, proxy: Proxy) -> None:
    """A token in the address of a socket is in neither of them."""
    answer = await unjudged.get("/ws?token=canary-in-a-query&ticket=canary-too")
    assert answer.status_code == 426
    await unjudged.get("/nope?token=canary-as-well", headers={"X-Request-Id": "canaries-are-past"})
    await found(_read(proxy), lambda log: "canaries-are-past" in log, "nginx has logged it")
    assert "canary" not in proxy.log


async def test_node_that_is_away_is_a_problem(place: Path, trusted: ssl.SSLContext) -> None:
    """503 with Retry-After, as the node says it itself."""
    assert PROGRAM is not None
    directory = place / "alone"
    directory.mkdir()
    pair = write_pair(place, "proxy-alone", names=(NAME,), addresses=())
    context = ssl.create_default_context(cafile=pair.certificate)
    with running_nginx(PROGRAM, directory, pair, 1) as alone:
        async with httpx.AsyncClient(verify=context) as client:
            answer = await client.get(f"https://{NAME}:{alone.port}/api/v1/agents")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"] == "1"


async def test_nothing_is_smuggled_through(place: Path) -> None:
    """Of each message the node sees at most the requests that nginx has seen (bar D1)."""
    assert PROGRAM is not None
    directory = place / "smuggling"
    directory.mkdir()
    pair = write_pair(place, "proxy-smuggling", names=(NAME,), addresses=())
    context = ssl.create_default_context(cafile=pair.certificate)
    audit = Unaudited()
    messages = {**MALFORMED, **{name: message for name, (message, _) in HARMLESS.items()}}
    async with serve_small(audit=audit, trusted_proxies=("127.0.0.1",)) as (_, base):
        with running_nginx(PROGRAM, directory, pair, int(base.rpartition(":")[2])) as proxy:
            sent = [
                _send(proxy, context, message, f"/hidden-{number}")
                for number, message in enumerate(messages.values())
            ]
            answers = dict(zip(messages, await asyncio.gather(*sent), strict=True))
        # The workers of nginx have ended: its log is whole.
        log = proxy.log
    seen = [(call.path, call.request_id) for call, _, _ in audit.recorded]
    assert len(seen) > len(HARMLESS)
    forwarded = [line.split() for line in log.splitlines() if " HTTP" not in line]
    known = [(line[2], line[-1]) for line in forwarded if len(line) == 6]
    for number, name in enumerate(messages):
        hidden = f"/hidden-{number}"
        by_node = [one for one in seen if one[0] == hidden]
        by_nginx = [one for one in known if one[0] == hidden]
        assert len(by_node) <= len(by_nginx) <= 1, name
        assert answers[name].count(b"HTTP/1.1 ") <= 2, name
    assert len(seen) <= len(known)


async def _send(proxy: Proxy, context: ssl.SSLContext, message: bytes, hidden: str) -> bytes:
    """Send the message and a request behind it; everything that comes back."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", proxy.port, ssl=context, server_hostname=NAME
    )
    wire = Wire(reader, writer)
    behind = f"GET {hidden} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n"
    await wire.send_bytes(message.replace(b"Host: a", f"Host: {NAME}".encode()) + behind.encode())
    answer = b""
    # A message whose end nginx waits for is given up.
    with suppress(TimeoutError, ConnectionError, ssl.SSLError):
        async with asyncio.timeout(3):
            while chunk := await reader.read(65_536):
                answer += chunk
    writer.close()
    return answer


def _read(proxy: Proxy) -> Any:
    async def read() -> str:
        return proxy.log

    return read
