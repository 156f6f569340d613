"""Pages of other origins (bar T2): what they may send and read, and that nothing is reflected."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from hive.rate_limits import ADDRESS, Policies, default_policies
from server.cors import Cors, vary_by_origin
from server.rate_limits import RateLimits
from storage.memory.rate_limits import MemoryRateLimiter
from tests.contract.running import make_small_app, serve_small

pytestmark = pytest.mark.asyncio(loop_scope="module")

DASHBOARD = "http://localhost:3000"
OTHER = "https://hive.example"
ALLOWED = (DASHBOARD, OTHER)
FOREIGN = (
    "null",
    "*",
    "http://evil.example",
    "https://localhost:3000",
    "http://localhost:3001",
    "http://localhost",
    "http://localhost:3000.evil.example",
    "http://evil-localhost:3000",
    "http://LOCALHOST:3000",
    "http://localhost:3000/",
    "http://localhost:3000, https://hive.example",
    "https://hive.example.evil.example",
    "https://sub.hive.example",
    "http://hive.example",
    "https://hive.example:443",
    "https://user@hive.example",
    "https://hive.example\x85",
    "",
)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
TARGETS = ("/open", "/things", "/nope", "/things/", "/open/raise/unexpected")
CREDENTIALS: tuple[dict[str, str], ...] = (
    {},
    {"Authorization": "Bearer everything"},
    {"Authorization": "Bearer nobody"},
    {"Cookie": "session=1"},
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of the small server, on which two origins are allowed."""
    async with (
        serve_small(origins=ALLOWED, max_body_bytes=1_024) as (_, base),
        httpx.AsyncClient(base_url=base) as client,
    ):
        yield client


def _of_cors(answer: httpx.Response) -> dict[str, str]:
    return {
        name.lower(): value
        for name, value in answer.headers.multi_items()
        if name.lower().startswith("access-control-")
    }


def _varies(answer: httpx.Response) -> bool:
    fields = [field.strip() for field in answer.headers["vary"].split(",")]
    return fields.count("Origin") == 1


async def _ask(
    client: httpx.AsyncClient,
    method: str,
    path: str,
    *origins: str,
    preflight: str | None = None,
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    lines = [(b"Origin", origin.encode("latin-1")) for origin in origins]
    lines += [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    if preflight is not None:
        lines.append((b"Access-Control-Request-Method", preflight.encode()))
    return await client.request(method, path, headers=lines)


@pytest.mark.parametrize("origin", FOREIGN)
async def test_foreign_origin_is_never_answered_to(client: httpx.AsyncClient, origin: str) -> None:
    """No method, path or credential makes the answer say anything of CORS, or name the origin."""
    targets = itertools.cycle(TARGETS)
    for method, headers in itertools.product(METHODS, CREDENTIALS):
        answer = await _ask(client, method, next(targets), origin, headers=headers)
        _says_nothing(answer, origin)
    for method in METHODS:
        answer = await _ask(client, "OPTIONS", next(targets), origin, preflight=method)
        _says_nothing(answer, origin)


@pytest.mark.soak
async def test_foreign_origins_are_never_answered_to(client: httpx.AsyncClient) -> None:
    """All combinations."""
    for origin, method, path, headers in itertools.product(FOREIGN, METHODS, TARGETS, CREDENTIALS):
        for preflight in (None, *METHODS) if method == "OPTIONS" else (None,):
            answer = await _ask(client, method, path, origin, preflight=preflight, headers=headers)
            _says_nothing(answer, origin)


def _says_nothing(answer: httpx.Response, origin: str) -> None:
    assert _of_cors(answer) == {}, f"{answer.request.method} {answer.url}: {answer.headers}"
    assert _varies(answer)
    assert len(origin) < 2 or origin not in str(answer.headers)


@pytest.mark.parametrize("origin", ALLOWED)
async def test_allowed_origin_reads_every_answer(client: httpx.AsyncClient, origin: str) -> None:
    """Whatever the status, of every request that could be read."""
    seen = set()
    cases: list[tuple[str, str, dict[str, str], bytes]] = [
        (method, path, headers, b"")
        for method, path, headers in itertools.product(METHODS, TARGETS, CREDENTIALS)
    ]
    everything = CREDENTIALS[1]
    cases += [
        ("POST", "/things", everything, b"x" * 1_025),
        ("POST", "/things", everything, b"x"),
        ("DELETE", "/things/a", everything, b""),
        ("DELETE", "/things/a", {"Authorization": "Bearer viewer"}, b""),
        ("GET", "/open?" + "x" * 8_192, {}, b""),
        ("PROPFIND", "/open", {}, b""),
    ]
    for method, path, headers, body in cases:
        answer = await client.request(
            method, path, headers={"Origin": origin, **headers}, content=body
        )
        seen.add(answer.status_code)
        assert answer.headers.get_list("access-control-allow-origin") == [origin]
        assert answer.headers.get_list("access-control-allow-credentials") == ["true"]
        assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
        assert _varies(answer)
    assert seen >= {200, 204, 307, 401, 403, 404, 405, 413, 414, 415, 500}


async def test_two_origins_are_none(client: httpx.AsyncClient) -> None:
    """Which of them it is nobody can know, whichever comes first."""
    for pair in itertools.permutations((DASHBOARD, "http://evil.example")):
        assert _of_cors(await _ask(client, "GET", "/open", *pair)) == {}
        answer = await _ask(client, "OPTIONS", "/open", *pair, preflight="GET")
        assert (answer.status_code, _of_cors(answer)) == (403, {})


async def test_without_an_origin_nothing_is_said(client: httpx.AsyncClient) -> None:
    """It is no page; a cache must still keep the answer apart from those for pages."""
    answer = await client.get("/open")
    assert _of_cors(answer) == {}
    assert _varies(answer)


async def test_preflight_is_answered_from_the_contract(client: httpx.AsyncClient) -> None:
    """Methods of the path, headers of the operation; no credential is asked for."""
    for method in ("GET", "HEAD", "POST"):
        answer = await _ask(client, "OPTIONS", "/things", OTHER, preflight=method)
        assert answer.status_code == 204
        assert answer.content == b""
        found = _of_cors(answer)
        assert found.pop("access-control-allow-origin") == OTHER
        assert found.pop("access-control-allow-credentials") == "true"
        assert found.pop("access-control-allow-methods") == "GET, HEAD, POST"
        assert found.pop("access-control-max-age") == "600"
        taken = found.pop("access-control-allow-headers").split(", ")
        assert {"Authorization", "Content-Type", "X-Request-Id", "Signature"} <= set(taken)
        # The small contract declares it at GET alone.
        assert ("Idempotency-Key" in taken) == (method != "POST")
        assert "*" not in taken
        assert not found


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/nope", "GET", 404),
        ("/things", "DELETE", 405),
        ("/things", "get", 405),
        ("/things", "", 405),
        ("/things", "GET, POST", 405),
        ("/open?" + "x" * 8_192, "GET", 414),
    ],
)
async def test_preflight_for_what_is_not_there_is_refused(
    client: httpx.AsyncClient, path: str, method: str, status: int
) -> None:
    """The status that the request itself would get, and nothing of CORS: the browser stops."""
    answer = await _ask(client, "OPTIONS", path, DASHBOARD, preflight=method)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert _of_cors(answer) == {}
    assert _varies(answer)


async def test_preflight_of_a_private_network_is_granted_nothing_more(
    client: httpx.AsyncClient,
) -> None:
    """A public page does not get into a private network by asking."""
    answer = await _ask(
        client,
        "OPTIONS",
        "/things",
        DASHBOARD,
        preflight="GET",
        headers={
            "Access-Control-Request-Private-Network": "true",
            "Access-Control-Request-Local-Network": "true",
        },
    )
    assert answer.status_code == 204
    assert not any("network" in name for name in _of_cors(answer))


async def test_preflight_acts_on_nothing_and_is_no_call() -> None:
    """Its credential is not looked at, and it is in no audit record; a plain OPTIONS is 405."""
    async with (
        serve_small(origins=ALLOWED) as (app, base),
        httpx.AsyncClient(base_url=base) as client,
    ):
        headers = {"Authorization": "Bearer everything"}
        await _ask(client, "OPTIONS", "/things", OTHER, preflight="POST", headers=headers)
        assert app.pipeline.authenticator.asked == []  # type: ignore[attr-defined]
        assert app.pipeline.audit.recorded == []  # type: ignore[attr-defined]
        plain = await _ask(client, "OPTIONS", "/things", OTHER)
        assert (plain.status_code, plain.headers["allow"]) == (405, "GET, HEAD, POST")
        assert plain.headers["access-control-allow-origin"] == OTHER


async def test_preflights_count_for_the_limit_of_the_address() -> None:
    """They cost no credential, so they can't be free."""
    limits = RateLimits(Policies(default_policies({ADDRESS: 2})), MemoryRateLimiter())
    async with (
        serve_small(origins=ALLOWED, limits=limits) as (_, base),
        httpx.AsyncClient(base_url=base) as client,
    ):
        answers = [
            await _ask(client, "OPTIONS", path, OTHER, preflight="GET")
            for path in ("/things", "/nope", "/things")
        ]
    assert [answer.status_code for answer in answers] == [204, 404, 429]
    assert _of_cors(answers[2]) == {}
    assert answers[2].headers["retry-after"]


async def test_nobody_is_allowed_when_the_operator_names_nobody() -> None:
    """No origin is built in."""
    async with serve_small() as (_, base), httpx.AsyncClient(base_url=base) as client:
        for origin in (*ALLOWED, base):
            assert _of_cors(await _ask(client, "GET", "/open", origin)) == {}
            answer = await _ask(client, "OPTIONS", "/open", origin, preflight="GET")
            assert (answer.status_code, _of_cors(answer)) == (403, {})


async def test_every_header_of_the_contract_is_exposed() -> None:
    """Except the one that no script may read."""
    from tests.contracts import our_interface  # noqa: PLC0415 - seconds that others don't need

    operations = our_interface().operations
    cors = make_small_app(operations, origins=ALLOWED).pipeline.cors
    assert isinstance(cors, Cors)
    declared = {
        name
        for bound in operations.values()
        for answer in bound.operation.responses.values()
        for name in answer.headers
    }
    assert {"Link", "Location", "Retry-After", "RateLimit", "Set-Cookie"} <= declared
    exposed = set(cors._exposed.split(", "))
    assert declared - exposed == {"Set-Cookie"}
    assert "*" not in exposed


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (None, "Origin"),
        ("", "Origin"),
        ("Accept-Encoding", "Accept-Encoding, Origin"),
        ("Accept-Encoding,origin", "Accept-Encoding, origin"),
        ("*", "*"),
    ],
)
async def test_vary_names_the_origin_once(given: str | None, written: str) -> None:
    """Beside what other parts of the pipeline vary by."""
    assert vary_by_origin(given) == written
