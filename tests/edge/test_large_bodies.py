"""Bodies over the general limit: only of operations that take them, of who may, and while they fit.

The pipeline and the contract are the product's; behind them stands what a test puts there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from handlers.context import Context, Reply
from hive.artifacts import Bytes
from server.app import HiveApplication
from server.binding import BoundOperation
from server.large_bodies import AT_ONCE, LargeBodies
from tests.contract.running import make_small_app, serve
from tests.contracts import our_contract
from tests.edge.wires import AUTHORIZED, Wire, connect
from tests.servers import eventually

KIB = 1024
GENERAL, LARGE = 64 * KIB, 1024 * KIB
PUT = "PUT /api/v1/leases/lse_1/artifacts/a.bin?fence=1 HTTP/1.1"
GET = "GET /api/v1/tasks/tsk_1/artifacts/a.bin HTTP/1.1"
OCTETS = "Content-Type: application/octet-stream"
CONTRACT = our_contract()


@dataclass
class Edge:
    """The application, and what its handlers were given and give."""

    app: HiveApplication | None = None
    base: str = ""
    taken: list[bytes] = field(default_factory=list)
    content: Bytes = field(default_factory=lambda: Bytes(0, pieces_of(0)))

    async def attach(self, _: Context, *, content: bytes, **__: Any) -> Reply:
        """In the place of `attach_artifact`."""
        self.taken.append(content)
        return Reply({})

    async def get(self, _: Context, **__: Any) -> Reply:
        """In the place of `get_task_artifact`."""
        return Reply(self.content, headers={"ETag": '"x"'})

    @property
    def room(self) -> int:
        """What is left for large bodies."""
        assert self.app is not None
        return self.app.pipeline.large_bodies.room

    @property
    def is_idle(self) -> bool:
        """Nothing is under way, and nothing is held."""
        assert self.app is not None
        load: Any = self.app.pipeline.load
        return (self.app.pipeline.running, load.running, self.room) == (0, 0, AT_ONCE * LARGE)


async def pieces_of(count: int, size: int = KIB) -> AsyncIterator[bytes]:
    """So many pieces of so many bytes."""
    for number in range(count):
        yield bytes([number % 256]) * size


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    """The edge with small limits."""
    edge = Edge()
    operations = {
        "attach_artifact": BoundOperation(CONTRACT.operations["attach_artifact"], edge.attach),
        "get_task_artifact": BoundOperation(CONTRACT.operations["get_task_artifact"], edge.get),
    }
    edge.app = make_small_app(operations, max_body_bytes=GENERAL, max_large_body_bytes=LARGE)
    async with serve(edge.app) as edge.base:
        yield edge


@pytest.fixture
async def wire(edge: Edge) -> AsyncIterator[Wire]:
    """A connection."""
    async with connect(edge.base) as wire:
        yield wire


async def put(wire: Wire, size: int, *lines: str) -> tuple[int, str]:
    """Status and code of the answer to a body of this size."""
    await wire.send(PUT, OCTETS, f"Content-Length: {size}", *lines, body=b"x" * size)
    answer = await wire.receive()
    assert answer is not None
    return answer.status, answer.problem.get("code", "")


async def test_a_large_body_arrives_as_it_was(edge: Edge, wire: Wire) -> None:
    """Up to the limit of its operation; then there is room as before."""
    for size in (0, GENERAL, GENERAL + 1, LARGE):
        assert await put(wire, size, AUTHORIZED) == (200, "")
    assert [len(body) for body in edge.taken] == [0, GENERAL, GENERAL + 1, LARGE]
    assert set(edge.taken[-1]) == set(b"x")
    await eventually(lambda: edge.is_idle, "everything is given back")


async def test_one_byte_more_is_413(edge: Edge, wire: Wire) -> None:
    """It is read and thrown away; the connection lives on."""
    assert await put(wire, LARGE + 1, AUTHORIZED) == (413, "content-too-large")
    assert await put(wire, 1, AUTHORIZED) == (200, "")
    assert edge.taken == [b"x"]


async def test_a_large_body_says_how_large_it_is(edge: Edge, wire: Wire) -> None:
    """In chunks, without a length, it has the limit of all others."""
    for chunks, status in ((4, 200), (5, 413)):
        body = (b"4000\r\n" + b"x" * 0x4000 + b"\r\n") * chunks + b"0\r\n\r\n"
        await wire.send(PUT, OCTETS, AUTHORIZED, "Transfer-Encoding: chunked", body=body)
        answer = await wire.receive()
        assert answer is not None
        assert answer.status == status
    assert [len(body) for body in edge.taken] == [GENERAL]


async def test_other_operations_keep_their_limit(wire: Wire) -> None:
    """Whoever asks; unknown paths, too."""
    for line in (GET.replace("GET", "POST"), PUT.replace("leases", "nowhere")):
        await wire.send(
            line, AUTHORIZED, f"Content-Length: {GENERAL + 1}", body=b"x" * (GENERAL + 1)
        )
        answer = await wire.receive()
        assert answer is not None
        assert answer.status == 413


@pytest.mark.parametrize(
    ("credential", "refusal"),
    [
        ("", (401, "unauthenticated")),
        ("Authorization: Bearer wrong", (401, "invalid-token")),
        ("Authorization: Bearer viewer", (403, "forbidden")),
    ],
)
async def test_nothing_is_kept_for_who_may_not(
    edge: Edge,
    wire: Wire,
    credential: str,
    refusal: tuple[int, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are told so; a small body and a large one have the same answer."""
    reserved: list[int] = []
    monkeypatch.setattr(LargeBodies, "reserve", lambda _, size: reserved.append(size))
    lines = [credential] if credential else []
    for size in (LARGE, 1):
        assert await put(wire, size, *lines) == refusal
    assert (reserved, edge.taken) == ([], [])


async def test_who_asks_before_sending_is_told_before_sending(edge: Edge, wire: Wire) -> None:
    """`Expect: 100-continue`: 401 for nobody, and leave for who may."""
    head = (PUT, OCTETS, f"Content-Length: {LARGE}", "Expect: 100-continue")
    await wire.send(*head, AUTHORIZED)
    assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await wire.send_bytes(b"x" * LARGE)
    answer = await wire.receive()
    assert answer is not None
    assert answer.status == 200
    await wire.send(*head)
    answer = await wire.receive()
    assert answer is not None
    assert (answer.status, answer.headers["connection"]) == (401, "close")
    assert len(edge.taken) == 1


async def test_as_many_arrive_at_once_as_there_is_room_for(edge: Edge) -> None:
    """One more is 503 `overloaded`; when one has gone, in the middle of it, there is room again."""
    head = (PUT, OCTETS, AUTHORIZED, f"Content-Length: {LARGE}")
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(connect(edge.base)) for _ in range(AT_ONCE)]
        for each in wires:
            await each.send(*head, body=b"x" * (LARGE - 1))
        await eventually(lambda: edge.room == 0, "all of them have begun")
        async with connect(edge.base) as another:
            assert await put(another, LARGE, AUTHORIZED) == (503, "overloaded")
            assert await put(another, GENERAL, AUTHORIZED) == (200, "")
            wires[0].writer.close()
            await eventually(lambda: edge.room == LARGE, "one has gone")
            assert await put(another, LARGE, AUTHORIZED) == (200, "")
        for each in wires[1:]:
            await each.send_bytes(b"x")
            answer = await each.receive()
            assert answer is not None
            assert answer.status == 200
    await eventually(lambda: edge.is_idle, "everything is given back")


async def test_only_bytes_are_taken(edge: Edge, wire: Wire) -> None:
    """Another media type is 415, and a coding, too."""
    for line in ("Content-Type: application/json", f"{OCTETS}\r\nContent-Encoding: gzip"):
        await wire.send(PUT, line, AUTHORIZED, "Content-Length: 2", body=b"{}")
        answer = await wire.receive()
        assert answer is not None
        assert (answer.status, answer.problem["code"]) == (415, "unsupported-media-type")
        assert "application/octet-stream" in answer.problem["detail"]
    assert edge.taken == []


async def test_an_answer_in_pieces_is_whole(edge: Edge, wire: Wire) -> None:
    """With its length; HEAD has the same headers, and 304 nothing of it."""
    edge.content = Bytes(5 * KIB, pieces_of(5))
    await wire.send(GET, AUTHORIZED)
    answer = await wire.receive()
    assert answer is not None
    assert answer.body == b"".join(bytes([n]) * KIB for n in range(5))
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-request-id"]
    await wire.send(GET.replace("GET", "HEAD"), AUTHORIZED)
    head = await wire.receive(head_only=True)
    assert head is not None
    assert head.headers["content-length"] == str(5 * KIB)
    await wire.send(GET, AUTHORIZED, 'If-None-Match: "x"')
    known = await wire.receive()
    assert known is not None
    assert (known.status, known.headers["etag"]) == (304, '"x"')
    await eventually(lambda: edge.is_idle, "everything is given back")


async def test_a_slow_reader_gets_one_piece_after_the_other(edge: Edge) -> None:
    """Nothing is read ahead: what the server holds is what the kernel does not take."""
    made = 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal made
        async for piece in pieces_of(200, LARGE):
            made += 1
            yield piece

    edge.content = Bytes(200 * LARGE, counted())
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", int(edge.base.rpartition(":")[2]), limit=KIB
    )
    writer.write(f"{GET}\r\nHost: a\r\n{AUTHORIZED}\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    await eventually(lambda: made > 0, "it has begun")
    before = -1
    while made != before:
        before = made
        for _ in range(1000):
            await asyncio.sleep(0)
    assert made < 50
    writer.close()
    await eventually(lambda: edge.is_idle, "a reader that has gone is counted out")


async def test_an_answer_that_breaks_off_is_seen_to(edge: Edge, wire: Wire) -> None:
    """The connection ends before the length that was announced; nothing is left behind."""

    async def broken() -> AsyncIterator[bytes]:
        async for piece in pieces_of(2):
            yield piece
        raise RuntimeError("gone")

    edge.content = Bytes(5 * KIB, broken())
    await wire.send(GET, AUTHORIZED)
    received = await wire.receive_all()
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"Content-Length: 5120" in head
    assert len(body) == 2 * KIB
    await eventually(lambda: edge.is_idle, "it is counted out")
