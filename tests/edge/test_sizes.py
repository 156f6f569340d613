"""One byte, one field more than a limit has an answer that says so (docs/limits.md)."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import psutil
import pytest

from server.connection_counts import ConnectionCounts, room_for_connections
from server.request_heads import MAX_HEADER_BYTES
from tests.contract.running import make_small_app, serve, serve_small
from tests.edge.wires import AUTHORIZED, Wire, connect

MIB = 1024 * 1024


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
    assert await wire.lives()


async def test_a_chunked_body_has_the_same_limit(wire: Wire) -> None:
    """No Content-Length to look at; the bytes count."""
    head = ("POST /things HTTP/1.1", AUTHORIZED, "Content-Type: application/json")
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    for count, status in ((4, 400), (5, 413)):
        await wire.send(*head, "Transfer-Encoding: chunked", body=chunk * count + b"0\r\n\r\n")
        answer = await wire.receive()
        assert answer is not None
        assert answer.status == status
    assert await wire.lives()


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
    assert await wire.lives()


@pytest.mark.parametrize(("fields", "status"), [(99, 200), (100, 431)])
async def test_header_fields_have_a_limit(wire: Wire, fields: int, status: int) -> None:
    """100, Host included, however they are named; one more ends the connection."""
    await wire.send("GET /open HTTP/1.1", *["X-A: 1"] * fields)
    answer = await wire.receive()
    assert answer is not None
    assert answer.status == status
    assert await (wire.lives() if status == 200 else wire.is_closed())


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
    assert await wire.lives()


def head_of(size: int) -> bytes:
    """A legal head of so many bytes."""
    start = b"GET /open HTTP/1.1\r\nHost: a\r\nX-A: "
    return start + b"a" * (size - len(start) - 4) + b"\r\n\r\n"


async def test_headers_of_exactly_16_kib_are_read(wire: Wire) -> None:
    """The limit is the request line, the fields and the empty line together."""
    await wire.send_bytes(head_of(MAX_HEADER_BYTES))
    answer = await wire.receive()
    assert answer is not None
    assert answer.status == 200
    await wire.send_bytes(head_of(MAX_HEADER_BYTES + 1))
    await wire.assert_refused(431, "headers-too-large")


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GET /open HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * MIB, 431, "headers-too-large"),
        (b"GET /open HTTP/1.1\r\n" + b"X-A: 1\r\n" * 20_000, 431, "headers-too-large"),
        (b"GET /" + b"a" * MIB, 414, "uri-too-long"),
        (b"\x00" * MIB, 414, "uri-too-long"),
    ],
    ids=["one field", "many fields", "target", "zeros"],
)
async def test_a_head_without_an_end_is_refused(
    wire: Wire, sent: bytes, status: int, code: str
) -> None:
    """As soon as it is longer than it may be."""
    await wire.send_bytes(sent)
    await wire.assert_refused(status, code)


async def test_an_oversize_request_is_refused_at_once_and_costs_no_memory() -> None:
    """100 MB to a path that is none: 413 before any came, and the process stays as it was."""
    process = psutil.Process()
    async with serve_small() as (_, base):
        async with connect(base) as wire:
            assert await wire.lives()
        before = process.memory_info().rss
        for path in ("/nowhere", "/things"):
            async with connect(base) as wire:
                await wire.send(f"POST {path} HTTP/1.1", "Content-Length: 100000000")
                answer = await wire.receive()
                assert answer is not None
                assert answer.status == 413
                for _ in range(100):
                    await wire.send_bytes(b"x" * MIB)
                    if wire.reader.at_eof():
                        break
        assert process.memory_info().rss - before < 8 * MIB


async def test_a_client_that_sends_on_can_read_its_refusal(wire: Wire) -> None:
    """Closing at once would reset the connection, and the reset overtake the answer."""
    await wire.send("POST /things HTTP/1.1", "Content-Length: 9000000")
    await asyncio.gather(*(wire.send_bytes(b"x" * 65_536) for _ in range(16)))
    answer = await wire.receive()
    assert answer is not None
    assert answer.status == 413


async def test_connections_from_one_address_are_bounded() -> None:
    """One more is closed; when one has gone there is room again."""
    app = make_small_app({})
    async with serve(app, max_connections_per_address=3) as base, AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(connect(base)) for _ in range(3)]
        for each in wires:
            await each.send("GET /nowhere HTTP/1.1")
            assert (await each.receive()) is not None
        async with connect(base) as refused:
            assert await refused.is_closed()
        wires[0].writer.close()
        async with asyncio.timeout(5):
            while True:
                async with connect(base) as fourth:
                    await fourth.send("GET /nowhere HTTP/1.1")
                    if await fourth.receive() is not None:
                        break


async def test_a_trusted_proxy_has_as_many_connections_as_there_are() -> None:
    """All clients come from its address."""
    app = make_small_app({}, trusted_proxies=["127.0.0.1/32"])
    async with (
        serve(app, max_connections=2, max_connections_per_address=1) as base,
        connect(base) as first,
        connect(base) as second,
        connect(base) as third,
    ):
        for each in (first, second):
            await each.send("GET /nowhere HTTP/1.1")
            assert (await each.receive()) is not None
        assert await third.is_closed()


def test_counts_return_to_nothing() -> None:
    """Neither a refusal nor an address that has gone leaves anything behind."""
    counts = ConnectionCounts(3, 2)
    assert [counts.enter(one) for one in ("a", "a", "a", "b", "c")] == [
        True, True, False, True, False,
    ]  # fmt: skip
    for one in ("a", "a", "b"):
        counts.leave(one)
    assert counts.total == 0
    assert not counts._open


def test_connections_leave_files_for_the_stores() -> None:
    """More than the system grants is not promised."""
    assert room_for_connections(16) == 16
    assert room_for_connections(2**40) < 2**40
