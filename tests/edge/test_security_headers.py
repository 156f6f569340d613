"""The security headers (bar T1) on every answer: every route, every status, whoever made it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.api.running import RunningNode, running_node
from tests.contract.running import serve_small
from tests.contracts import our_contract

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXPECTED = {
    "content-security-policy": (
        "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
FEATURES = {"camera", "microphone", "geolocation", "payment", "usb", "display-capture"}
DASHBOARD = "http://localhost:3000"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(
    tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str
) -> AsyncIterator[RunningNode]:
    """The product, behind a proxy that it trusts."""
    async with running_node(
        tmp_path_factory.mktemp("headers"), mongodb_uri, trusted_proxies=("127.0.0.1/32",)
    ) as running:
        yield running


def check(answer: httpx.Response) -> None:
    """All of them once, and nothing that tells what the server is made of."""
    told = f"{answer.request.method} {answer.url} -> {answer.status_code}: {answer.headers}"
    for name, value in EXPECTED.items():
        assert answer.headers.get_list(name) == [value], told
    policy = answer.headers["permissions-policy"]
    assert {feature.removesuffix("=()") for feature in policy.split(", ")} >= FEATURES, told
    assert all(feature.endswith("=()") for feature in policy.split(", ")), told
    assert "cache-control" in answer.headers, told
    assert "Origin" in answer.headers["vary"], told
    assert not {"server", "x-powered-by", "strict-transport-security"} & answer.headers.keys(), told
    if answer.content:
        assert "content-type" in answer.headers, told


async def test_every_operation_has_them_for_everybody(node: RunningNode) -> None:
    """With and without a credential, and with a method that the path does not have."""
    operations = our_contract().operations.values()
    admin = await node.log_in("admin")
    clients = (node.client(judged=False), node.client(admin.credential, judged=False))
    statuses = set()
    for operation in operations:
        path = operation.path.replace("{", "").replace("}", "")
        for client in clients:
            # What it answers is tested elsewhere; nothing here is complete enough to change much.
            answer = await client.request(operation.method, f"{path}?nothing-takes-this=1")
            check(answer)
            statuses.add(answer.status_code)
        answer = await clients[0].request("OPTIONS", path)
        check(answer)
        assert answer.status_code == 405
    assert {400, 401} <= statuses


async def test_answers_of_success_and_of_no_change_have_them(node: RunningNode) -> None:
    """200, 201, 204, 304 and HEAD."""
    api = node.client((await node.log_in("admin")).credential, judged=False)
    seen = {}
    body = {"name": "with-headers"}
    made = await api.post("/api/v1/agents", json=body)
    path = f"/api/v1/agents/{made.json()['agent_id']}"
    got = await api.get(path)
    answers = [
        made,
        got,
        await api.head(path),
        await api.get(path, headers={"If-None-Match": got.headers["etag"]}),
        await api.get("/health/live"),
        await api.get("/api/v1/agents/"),
        await api.options(
            path, headers={"Origin": DASHBOARD, "Access-Control-Request-Method": "GET"}
        ),
        await api.post("/api/v1/agents", json=body),
        await api.delete(path),
    ]
    for answer in answers:
        check(answer)
        seen[answer.status_code] = answer
    assert {200, 201, 204, 304, 307, 409} <= seen.keys()


async def test_refusals_of_sockets_have_them(node: RunningNode) -> None:
    """No upgrade, a foreign page, another method, an address that is not UTF-8."""
    client = node.client(judged=False)
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    answers = [
        await client.get("/ws"),
        await client.post("/ws"),
        await client.get("/ws", headers={**upgrade, "Origin": "http://evil.example"}),
        await client.get("/ws", headers={**upgrade, "Origin": "null"}),
        await client.get("/ws/agents/agt_1", headers={"Origin": DASHBOARD}),
        await client.get("/ws/agents/%ff"),
    ]
    for answer in answers:
        check(answer)
    assert [answer.status_code for answer in answers] == [426, 405, 403, 403, 426, 400]
    assert answers[4].headers["access-control-allow-origin"] == DASHBOARD
    assert "access-control-allow-origin" not in answers[2].headers


async def test_refusals_of_the_edge_have_them() -> None:
    """413, 414, 415, 431, 500 and unknown methods."""
    async with (
        serve_small(max_body_bytes=1_024) as (_, base),
        httpx.AsyncClient(base_url=base, headers={"Authorization": "Bearer everything"}) as client,
    ):
        wide = {f"X-{n}": "1" for n in range(120)}
        answers = [
            await client.post("/things", content=b"x" * 1_025),
            await client.get("/open?" + "x" * 8_192),
            await client.post("/things", content=b"x"),
            await client.get("/open", headers=wide),
            await client.get("/open/raise/unexpected"),
            await client.request("PROPFIND", "/open"),
            await client.get("/nope"),
        ]
    for answer in answers:
        check(answer)
    assert [a.status_code for a in answers] == [413, 414, 415, 431, 500, 405, 404]


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /open HTTP/1.1\r\n\r\n",
        b"GET /open HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /open HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
    ids=["no host", "two lengths", "large headers", "no HTTP"],
)
async def test_answers_to_malformed_requests_have_them(sent: bytes) -> None:
    """What no handler ever sees."""
    async with serve_small() as (_, base):
        host, port = base.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        raw = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    check(
        httpx.Response(
            int(first.split()[1]), headers=headers, content=body, request=httpx.Request("GET", base)
        )
    )


@pytest.mark.parametrize(
    ("proto", "hsts"), [("https", 1), ("http", 0), ("wss", 0), ("http,https", 1), ("https,http", 0)]
)
async def test_proxy_tells_whether_tls_was_spoken(node: RunningNode, proto: str, hsts: int) -> None:
    """The last proxy's word counts; HSTS is for answers over TLS only (RFC 6797, section 7.2)."""
    client = node.client(judged=False)
    headers = {"X-Forwarded-Proto": proto}
    for path in ("/health/live", "/nope", "/ws", "/api/v1/agents"):
        answer = await client.get(path, headers=headers)
        assert len(answer.headers.get_list("strict-transport-security")) == hsts


async def test_nobody_but_a_trusted_proxy_tells_it() -> None:
    """A client that is no proxy of ours says what it likes."""
    async with serve_small() as (_, base), httpx.AsyncClient(base_url=base) as client:
        check(await client.get("/open", headers={"X-Forwarded-Proto": "https"}))
