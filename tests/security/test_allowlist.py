"""Z5: nobody talks himself onto the allowlist, and one address is everybody's address.

Each variant is sent as bytes, twice: by a peer that nobody trusts, and behind a trusted proxy that
appends the address of its own peer, as proxies do. What a client writes may only make the request
bad, never make it come from elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from websockets.exceptions import InvalidStatus

from server.pipeline import Call
from tests.api.running import PASSWORD, RunningNode, found, running_node
from tests.realtime.client import open_socket

pytestmark = pytest.mark.asyncio(loop_scope="module")

GOOD = "192.0.2.7"
NETWORKS = ("192.0.2.0/24", "2001:db8::/32")
ATTACKER = "203.0.113.9"
SELF = "127.0.0.1"
ASKED = "/api/v1/system/settings"
REFUSED = "address-not-allowed"
WITHOUT_EFFECT = {400, 431}
"""What Tornado and the pipeline say to a request that is none."""

Fields = list[tuple[str, str]]
XFF = "X-Forwarded-For"
NAMES = (
    XFF,
    "x-forwarded-for",
    "X_Forwarded_For",
    "X-Forwarded-For-Original",
    "X-Original-Forwarded-For",
    "X-Forwarded",
    "Forwarded-For",
    "X-Real-IP",
    "X-Real-Ip",
    "X-Client-IP",
    "X-Remote-IP",
    "X-Remote-Addr",
    "X-Originating-IP",
    "X-Cluster-Client-IP",
    "X-ProxyUser-Ip",
    "X-Host",
    "Client-IP",
    "True-Client-IP",
    "CF-Connecting-IP",
    "CF-Connecting-IPv6",
    "CF-Pseudo-IPv4",
    "Fastly-Client-IP",
    "Fly-Client-IP",
    "X-Azure-ClientIP",
    "X-Envoy-External-Address",
    "Via",
)
VALUES = (
    GOOD,
    f"::ffff:{GOOD}",
    "::FFFF:C000:0207",
    "0:0:0:0:0:ffff:192.0.2.7",
    f"[::ffff:{GOOD}]:443",
    "2001:db8::7",
    "[2001:db8::7]",
    "[2001:db8::7]:8443",
    "2001:db8::7%eth0",
    f"{GOOD}:1234",
    f"  {GOOD}\t",
    f'"{GOOD}"',
    f"{GOOD},",
    f",{GOOD},,",
    f"{GOOD}, {GOOD}",
    f"unknown, {GOOD}",
    f"{GOOD}, unknown",
    f"{GOOD};{GOOD}",
    f"{GOOD} {GOOD}",
    f"{GOOD}/24",
    "192.0.2.007",
    "0xC0000207",
    "3221225991",
    f"{SELF}, {GOOD}",
    f"{GOOD}, {SELF}",
    f"{GOOD}, {SELF}, ::1",
    ", ".join([GOOD] * 40),
    ", ".join([SELF] * 31 + [GOOD]),
    ", ".join([GOOD] + [SELF] * 40),
    "1" * 4_000,
)
FORWARDED = (
    f"for={GOOD}",
    f'for="{GOOD}:4711"',
    'for="[2001:db8::7]";proto=https;by=203.0.113.43',
    f"for=unknown, for={GOOD}",
)


def variants() -> list[Fields]:
    """Everything that a client may add to its request."""
    return [
        *([(name, GOOD)] for name in NAMES),
        *([(XFF, value)] for value in VALUES),
        *([("Forwarded", value)] for value in FORWARDED),
        [(XFF, GOOD), (XFF, GOOD)],
        [(XFF, GOOD), ("x-forwarded-for", f"{GOOD}, {GOOD}"), (XFF.upper(), "2001:db8::7")],
        [(XFF, ATTACKER), (XFF, GOOD)],
        [("X-Real-IP", GOOD), (XFF, GOOD), ("Forwarded", f"for={GOOD}")],
        [(XFF + " ", GOOD)],
        [(" " + XFF, GOOD)],
        [(XFF, f"{ATTACKER}\r\n {GOOD}")],
        [("Connection", f"close, {XFF}"), (XFF, GOOD)],
        [(XFF, GOOD)] * 60,
    ]


@dataclass
class Watched:
    """A node, its admin's key, and every call that was recorded."""

    node: RunningNode
    admin_key: str
    office_key: str
    token: str
    calls: list[Call] = field(default_factory=list)

    async def ask(
        self, headers: Fields, credential: str, path: str = ASKED
    ) -> tuple[int, dict[str, Any]]:
        """Send one request as it is; the status and the body of the answer."""
        host, port = self.node.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {host}:{port}",
            f"Authorization: Bearer {credential}",
            *(f"{name}: {value}" for name, value in headers),
            "Connection: close",
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        try:
            async with asyncio.timeout(10):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"^Content-Length: (\d+)", head, re.MULTILINE)
                body = await reader.readexactly(int(length[1])) if length else b"{}"
        finally:
            writer.close()
            await writer.wait_closed()
        return int(head.split()[1]), json.loads(body)


async def watched(node: RunningNode, headers: dict[str, str]) -> Watched:
    """Credentials of an admin, made from where admins may come from; from now on calls are seen."""
    tokens = await node.client(headers=headers).ok(
        "POST",
        "/api/v1/auth/login",
        json={"username": "admin", "password": PASSWORD},
    )
    api = node.client(tokens["access_token"], headers=headers)
    key = await api.ok("POST", "/api/v1/api-keys", json={"name": "admin"})
    office = {"name": "office", "allowed_addresses": list(NETWORKS)}
    office_key = await api.ok("POST", "/api/v1/api-keys", json=office)
    seen = Watched(node, key["api_key"], office_key["api_key"], tokens["access_token"])
    audit = node.node.app.pipeline.audit
    record = audit.record

    async def watching(call: Call, status: int, code: str | None) -> None:
        seen.calls.append(call)
        await record(call, status, code)

    audit.record = watching  # type: ignore[method-assign]
    return seen


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bare(
    tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str
) -> AsyncIterator[Watched]:
    """A node that trusts no proxy."""
    folder = tmp_path_factory.mktemp("bare")
    async with running_node(folder, mongodb_uri, admin_allowlist=NETWORKS) as node:
        yield await watched(node, {})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxied(
    tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str
) -> AsyncIterator[Watched]:
    """A node behind a proxy on the same machine, which the test plays."""
    folder = tmp_path_factory.mktemp("proxied")
    proxies = ("127.0.0.0/8", "::1/128")
    options: dict[str, Any] = {"admin_allowlist": NETWORKS, "trusted_proxies": proxies}
    async with running_node(folder, mongodb_uri, **options) as node:
        yield await watched(node, {XFF: GOOD})


def appending(headers: Fields, peer: str) -> Fields:
    """What most proxies make of a client's headers: one line, the client's address at its end."""
    given = [value for name, value in headers if name.lower() == XFF.lower()]
    others = [(name, value) for name, value in headers if name.lower() != XFF.lower()]
    return [*others, (XFF, ", ".join([*given, peer]))]


def adding_a_line(headers: Fields, peer: str) -> Fields:
    """What the others do: a line of their own behind those that came."""
    return [*headers, (XFF, peer)]


async def test_there_are_enough_variants() -> None:
    """The bar asks for thirty."""
    assert len(variants()) >= 60


async def test_nothing_that_a_client_writes_changes_its_address(bare: Watched) -> None:
    """Without a trusted proxy the peer is the caller, for the allowlist and in the record."""
    for headers in variants():
        bare.calls.clear()
        status, problem = await bare.ask(headers, bare.admin_key)
        if status not in WITHOUT_EFFECT:
            assert (status, problem["code"]) == (403, REFUSED), headers
        assert all(call.address == SELF for call in bare.calls), headers


@pytest.mark.parametrize("proxy", [appending, adding_a_line])
async def test_behind_a_proxy_only_what_the_proxy_wrote_counts(
    proxied: Watched, proxy: Callable[[Fields, str], Fields]
) -> None:
    """The right-most address that is no proxy's is the caller's, whatever stands further left."""
    for headers in variants():
        proxied.calls.clear()
        sent = proxy(headers, ATTACKER)
        status, problem = await proxied.ask(sent, proxied.admin_key)
        if status not in WITHOUT_EFFECT:
            assert (status, problem["code"]) == (403, REFUSED), headers
            assert [call.address for call in proxied.calls] == [ATTACKER], headers


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (GOOD, GOOD),
        (f"::ffff:{GOOD}", GOOD),
        ("::FFFF:C000:0207", GOOD),
        (f"{GOOD}:4711", GOOD),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:DB8:0::7]:4711", "2001:db8::7"),
        (f" {GOOD} ", GOOD),
        (f"{ATTACKER}, {GOOD}, {SELF}", GOOD),
    ],
)
async def test_whoever_is_on_the_list_is_let_in(proxied: Watched, peer: str, address: str) -> None:
    """In every form in which proxies write the address: the refusals above are no accident."""
    status, settings = await proxied.ask([(XFF, peer)], proxied.admin_key)
    assert status == 200
    assert settings["admin_allowlist"] == list(NETWORKS)
    assert proxied.calls[-1].address == address


@pytest.mark.parametrize("peer", ["fe80::1%eth0", "2001:db8::7%eth0", "unknown", "", "_hidden"])
async def test_what_is_no_address_is_the_proxys(proxied: Watched, peer: str) -> None:
    """A zone means another machine on every link; nothing is guessed."""
    status, problem = await proxied.ask([(XFF, peer)], proxied.admin_key)
    assert (status, problem["code"]) == (403, REFUSED)
    assert proxied.calls[-1].address == SELF


async def test_every_admin_operation_is_behind_the_list(bare: Watched) -> None:
    """Those that only admins may run, and no other; the permission is looked at first."""
    api = bare.node.client(bare.admin_key)
    for method, path in (
        ("GET", "/api/v1/users"),
        ("GET", "/api/v1/users/usr_x"),
        ("DELETE", "/api/v1/users/usr_x"),
        ("GET", "/api/v1/audit"),
        ("GET", ASKED),
        ("DELETE", "/api/v1/agents/agt_x"),
    ):
        assert (await api.refused(403, method, path))["code"] == REFUSED
    for path in ("/api/v1/auth/me", "/api/v1/tasks", "/api/v1/agents", "/api/v1/api-keys"):
        await api.ok("GET", path)


async def test_api_key_is_allowed_from_the_same_address(bare: Watched, proxied: Watched) -> None:
    """What can't talk itself onto the admins' list can't talk itself onto a key's."""
    me = "/api/v1/auth/me"
    for headers in variants():
        status, _ = await bare.ask(headers, bare.office_key, me)
        assert status in {403, *WITHOUT_EFFECT}, headers
        sent = appending(headers, ATTACKER)
        status, _ = await proxied.ask(sent, proxied.office_key, me)
        assert status in {403, *WITHOUT_EFFECT}, headers
    assert (await proxied.ask([(XFF, GOOD)], proxied.office_key, me))[0] == 200


async def test_session_and_record_have_the_same_address(proxied: Watched) -> None:
    """The list of sessions and the audit log name the address that the allowlist saw."""
    forged = {XFF: f"{GOOD}, {ATTACKER}", "X-Real-IP": GOOD, "Forwarded": f"for={GOOD}"}
    body = {"username": "admin", "password": PASSWORD}
    login = await proxied.node.client(headers=forged).post("/api/v1/auth/login", json=body)
    api = proxied.node.client(login.json()["access_token"], headers={XFF: GOOD})
    me = await api.ok("GET", "/api/v1/auth/me")
    sessions = await api.ok("GET", "/api/v1/auth/sessions")
    (mine,) = [one for one in sessions if one["session_id"] == me["session_id"]]
    assert mine["address"] == ATTACKER
    request_id = login.headers["X-Request-Id"]

    async def records() -> list[dict[str, Any]]:
        return list(await api.ok("GET", "/api/v1/audit?operation=login&limit=200"))

    kept = await found(
        records,
        lambda seen: [one for one in seen if one["request_id"] == request_id],
        "the login is recorded",
    )
    (record,) = [one for one in kept if one["request_id"] == request_id]
    assert record["address"] == ATTACKER


async def test_sockets_have_the_same_address(proxied: Watched) -> None:
    """A key that is not allowed from the caller's address opens no socket: 4403."""
    for headers in ({}, {XFF: ATTACKER}, {XFF: f"{GOOD}, {ATTACKER}"}, {"X-Real-IP": GOOD}):
        async with open_socket(
            proxied.node.url, token=proxied.office_key, additional_headers=headers
        ) as socket:
            assert await socket.close_code() == 4403
    async with open_socket(
        proxied.node.url, token=proxied.office_key, additional_headers={XFF: GOOD}
    ) as socket:
        await socket.subscribe("*")
        (peer,) = [one for one in proxied.node.node.peers._peers if one.principal]
        assert peer.address == GOOD


async def test_sockets_of_pages_behind_a_proxy_are_told_by_its_scheme(proxied: Watched) -> None:
    """Own is the scheme that the client used; who is no proxy can't say what that was."""
    own = proxied.node.url.removeprefix("http")
    headers = {"Origin": f"https{own}", XFF: GOOD, "X-Forwarded-Proto": "https"}
    async with open_socket(
        proxied.node.url, token=proxied.token, additional_headers=headers
    ) as socket:
        await socket.subscribe("*")
    for scheme, said in (("http", "https"), ("https", "http"), ("https", "ftp")):
        headers = {"Origin": f"{scheme}{own}", XFF: GOOD, "X-Forwarded-Proto": said}
        with pytest.raises(InvalidStatus):
            async with open_socket(
                proxied.node.url, token=proxied.token, additional_headers=headers
            ):
                pass


async def test_nobody_trusts_the_scheme_of_a_client(bare: Watched) -> None:
    """X-Forwarded-Proto of a peer that is no proxy is not read."""
    own = bare.node.url.removeprefix("http")
    headers = {"Origin": f"https{own}", "X-Forwarded-Proto": "https"}
    with pytest.raises(InvalidStatus):
        async with open_socket(bare.node.url, token=bare.token, additional_headers=headers):
            pass
