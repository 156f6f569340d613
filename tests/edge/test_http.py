"""The edge on raw sockets: limits, framing, bombs and what ends a connection."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from server import app as server_app
from tests.contract.running import serve_small

AUTHORIZED = "Authorization: Bearer everything"


@dataclass(frozen=True)
class Answered:
    """One response of a raw exchange."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Wire:
    """One TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def send(self, *lines: str, body: bytes = b"") -> None:
        """Send a head and a body; that the server has closed the connection is no error."""
        head = "\r\n".join([lines[0], "Host: a", *lines[1:], "", ""]).encode("latin-1")
        await self.send_bytes(head + body)

    async def send_bytes(self, data: bytes) -> None:
        """Send as it is."""
        with suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def receive(self) -> Answered | None:
        """Read one response; None when the connection ends before."""
        try:
            head = (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 10)).decode(
                "latin-1"
            )
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        first, *lines = head.splitlines()
        headers = {k.lower(): v.strip() for k, _, v in (li.partition(":") for li in lines if li)}
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Answered(int(first.split()[1]), headers, body)

    async def is_closed(self) -> bool:
        """Wait until the server closes; tell whether it sent nothing more."""
        try:
            return await asyncio.wait_for(self._reader.read(), 10) == b""
        except ConnectionError:
            return True


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    """A connection to the small server, whose bodies end at 64 KiB."""
    async with serve_small(max_body_bytes=64 * 1024) as (_, base), connect(base) as wire:
        yield wire


@asynccontextmanager
async def connect(base: str) -> AsyncIterator[Wire]:
    """A connection of its own."""
    host, port = base.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def _lives(wire: Wire) -> bool:
    await wire.send("GET /open HTTP/1.1")
    answer = await wire.receive()
    return answer is not None and answer.status == 200


async def test_a_body_at_the_limit_is_read_and_one_byte_more_is_413(wire: Wire) -> None:
    """The body is drained, so the connection lives on."""
    for size, status in ((65_536, 400), (65_537, 413), (4 * 1024 * 1024, 413)):
        await wire.send(
            "POST /things HTTP/1.1", AUTHORIZED, "Content-Type: application/json",
            f"Content-Length: {size}", body=b" " * size,
        )  # fmt: skip
        answer = await wire.receive()
        assert answer is not None
        assert answer.status == status
        assert answer.headers["content-type"] == "application/problem+json"
    assert await _lives(wire)


async def test_a_chunked_body_has_the_same_limit(wire: Wire) -> None:
    """No Content-Length to look at; the bytes count."""
    head = ("POST /things HTTP/1.1", AUTHORIZED, "Content-Type: application/json")
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    for count, status in ((4, 400), (5, 413)):
        await wire.send(*head, "Transfer-Encoding: chunked", body=chunk * count + b"0\r\n\r\n")
        answer = await wire.receive()
        assert answer is not None
        assert answer.status == status
    assert await _lives(wire)


async def test_a_body_over_8_mib_is_refused_before_it_is_sent(wire: Wire) -> None:
    """A client that waits gets 413 at once, and the connection closes."""
    await wire.send("POST /things HTTP/1.1", AUTHORIZED, "Content-Length: 104857600")
    answer = await wire.receive()
    assert answer is not None
    assert (answer.status, answer.problem["code"]) == (413, "content-too-large")
    assert answer.headers["connection"] == "close"
    assert await wire.is_closed()


@pytest.mark.parametrize("length", ["8388609", "9" * 18, "9" * 400])
async def test_an_absurd_length_is_413(wire: Wire, length: str) -> None:
    """On any path, even an unknown one; nothing is read."""
    await wire.send("POST /nowhere HTTP/1.1", f"Content-Length: {length}")
    answer = await wire.receive()
    assert answer is not None
    assert answer.status == 413
    assert await wire.is_closed()


async def test_a_chunked_body_without_an_end_is_cut(wire: Wire) -> None:
    """After 8 MiB the connection closes; memory never held more than the limit."""
    await wire.send("POST /things HTTP/1.1", AUTHORIZED, "Transfer-Encoding: chunked")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    for _ in range(200):
        await wire.send_bytes(chunk)
        if wire.writer.transport.is_closing():
            break
    answer = await wire.receive()
    assert answer is None or answer.status == 413
    assert await wire.is_closed()


async def test_expect_100_is_answered_before_a_body_that_would_be_refused(wire: Wire) -> None:
    """The client is spared the sending."""
    await wire.send("POST /things HTTP/1.1", "Expect: 100-continue", "Content-Length: 65537")
    answer = await wire.receive()
    assert answer is not None
    assert answer.status == 413


@pytest.mark.parametrize(("length", "status"), [(8192, 400), (8193, 414)])
async def test_the_url_has_a_limit(wire: Wire, length: int, status: int) -> None:
    """8 KiB, path and query together."""
    target = "/open?" + "x" * (length - 6)
    await wire.send(f"GET {target} HTTP/1.1")
    answer = await wire.receive()
    assert answer is not None
    assert answer.status == status
    assert len(answer.body) < 2048
    assert await _lives(wire)


@pytest.mark.parametrize(("fields", "status"), [(99, 200), (100, 431)])
async def test_header_fields_have_a_limit(wire: Wire, fields: int, status: int) -> None:
    """100, Host included, however they are named; one more ends the connection."""
    await wire.send("GET /open HTTP/1.1", *["X-A: 1"] * fields)
    answer = await wire.receive()
    assert answer is not None
    assert answer.status == status
    assert await (_lives(wire) if status == 200 else wire.is_closed())


async def test_more_than_16_kib_of_headers_are_431(wire: Wire) -> None:
    """Nothing of them is looked at."""
    await wire.send("GET /open HTTP/1.1", "X-A: " + "a" * 17_000)
    answer = await wire.receive()
    assert answer is not None
    assert (answer.status, answer.problem["code"]) == (431, "headers-too-large")
    assert await wire.is_closed()


async def test_thousands_of_query_fields_are_a_problem(wire: Wire) -> None:
    """Tornado alone would answer with a bare 400 and close."""
    await wire.send("GET /open?" + "&".join(["a"] * 4000) + " HTTP/1.1")
    answer = await wire.receive()
    assert answer is not None
    assert (answer.status, answer.problem["code"]) == (400, "contract-mismatch")
    assert await _lives(wire)


@pytest.mark.parametrize(
    ("content_type", "more", "body"),
    [
        ("application/json", "Content-Encoding: gzip", gzip.compress(b"[" * 10_000_000)),
        ("multipart/form-data; boundary=x", "X-A: 1", b"--x\r\n\r\n\r\n" * 5000),
        ("application/x-www-form-urlencoded", "X-A: 1", b"a=1&" * 15_000),
    ],
    ids=["gzip", "multipart", "form"],
)
async def test_bombs_are_415_unopened(
    wire: Wire, content_type: str, more: str, body: bytes
) -> None:
    """Nothing unpacks or parses what the contract does not declare."""
    await wire.send(
        "POST /things HTTP/1.1", AUTHORIZED, f"Content-Type: {content_type}", more,
        f"Content-Length: {len(body)}", body=body,
    )  # fmt: skip
    answer = await wire.receive()
    assert answer is not None
    assert answer.status == 415
    assert await _lives(wire)


@pytest.mark.parametrize(
    "framing",
    [
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Content-Length: +5"],
        ["Content-Length: 1_0"],
        ["Content-Length: 0x5"],
        ["Content-Length : 5"],
        ["X: a\r\n b"],
        ["X: a\0b"],
        ["Host: b"],
    ],
)
async def test_ambiguous_framing_ends_the_connection(wire: Wire, framing: list[str]) -> None:
    """One 400 and a close: what follows is never read as a second request."""
    await wire.send(
        "POST /things HTTP/1.1",
        *framing,
        body=b"5\r\n     \r\n0\r\n\r\nGET /open HTTP/1.1\r\nHost: a\r\n\r\n",
    )
    answer = await wire.receive()
    assert answer is not None
    assert (answer.status, answer.problem["code"]) == (400, "malformed-request")
    assert await wire.is_closed()


@pytest.mark.parametrize(
    "target",
    ["/open%00", "/open\x80", "/things/%ff", "/things/%c0%ae", "/things/a%2fb", "/things/%2e%2e",
     "/things/a%5cb", "/things/%0d%0aX:%201", "/things/%zz", "http://b/nope", "//open"],
)  # fmt: skip
async def test_an_odd_target_is_not_found(wire: Wire, target: str) -> None:
    """404, and the connection lives on."""
    await wire.send(f"GET {target} HTTP/1.1", AUTHORIZED)
    answer = await wire.receive()
    assert answer is not None
    assert (answer.status, answer.problem["code"]) == (404, "not-found")
    assert await _lives(wire)


@pytest.mark.parametrize(
    "query", ["limit=%zz", "kind=%ff", "kind=%00", "%00=1", "limit=%", "kind=\x80"]
)
async def test_an_odd_query_is_a_problem(wire: Wire, query: str) -> None:
    """Bad escapes, bad UTF-8 and NUL are 400."""
    await wire.send(f"GET /things?{query} HTTP/1.1", AUTHORIZED)
    answer = await wire.receive()
    assert answer is not None
    assert (answer.status, answer.problem["code"]) == (400, "contract-mismatch")


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND", "FINISH", "WRITE_ERROR", "connect", "get"])
async def test_an_unknown_method_is_405_with_allow(wire: Wire, method: str) -> None:
    """No method of the handler's class can be called by its name."""
    await wire.send(f"{method} /open HTTP/1.1")
    answer = await wire.receive()
    assert answer is not None
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"


async def test_head_has_no_body(wire: Wire) -> None:
    """The next request on the connection is answered where it should be."""
    for path, status in (("/things", 401), ("/open", 200)):
        await wire.send_bytes(f"HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        head = await asyncio.wait_for(wire._reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(f"HTTP/1.1 {status} ".encode())
        assert await _lives(wire)


async def test_pipelined_requests_are_answered_in_order(wire: Wire) -> None:
    """Two heads in one packet, two answers."""
    await wire.send_bytes(
        b"GET /open HTTP/1.1\r\nHost: a\r\nX-Request-Id: 1\r\n\r\n"
        b"GET /nope HTTP/1.1\r\nHost: a\r\nX-Request-Id: 2\r\n\r\n"
    )
    for request_id, status in (("1", 200), ("2", 404)):
        answer = await wire.receive()
        assert answer is not None
        assert (answer.headers["x-request-id"], answer.status) == (request_id, status)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /open HTTP/1.1\r\nHost: a\r\nX-Slow: ",
        b"POST /things HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345",
    ],
    ids=["idle", "header", "body"],
)
async def test_a_connection_that_says_nothing_more_is_closed(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """The deadlines hold while idle, within the headers and within the body."""
    monkeypatch.setattr(server_app, "HEADER_SECONDS", 0.2)
    monkeypatch.setattr(server_app, "BODY_SECONDS", 0.2)
    async with serve_small() as (app, base):
        async with connect(base) as wire:
            await wire.send_bytes(sent)
            if sent:
                answer = await wire.receive()
                assert answer is not None
                assert (answer.status, answer.problem["code"]) == (408, "request-timeout")
            assert await wire.is_closed()
        assert app.pipeline.running == 0
