"""Who says nothing, or a byte at a time, or takes no answer, is cut off; the others go on."""

from __future__ import annotations

import asyncio
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil
import pytest
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from server import app as server_app
from server import http1
from server.app import make_http_server
from server.connection_counts import room_for_connections
from tests.contract.running import Unaudited, serve_small
from tests.edge.wires import Wire, connect

ROOT = Path(__file__).resolve().parents[2]
HEAD = b"GET /open HTTP/1.1\r\nHost: a\r\nX-Slow: "
BODY = b"POST /things HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadlines are short."""
    monkeypatch.setattr(server_app, "HEADER_SECONDS", 0.2)
    monkeypatch.setattr(server_app, "BODY_SECONDS", 0.2)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("sent", [HEAD, BODY, b"G", b"\r\n"], ids=["head", "body", "byte", "line"])
async def test_a_request_that_does_not_go_on_is_408(sent: bytes) -> None:
    """And on record; nothing of it is left behind."""
    audit = Unaudited()
    async with serve_small(audit=audit) as (app, base):
        async with connect(base) as wire:
            await wire.send_bytes(sent)
            await wire.assert_refused(408, "request-timeout")
        assert app.pipeline.running == 0
    assert [(status, code) for _, status, code in audit.recorded] == [(408, "request-timeout")]


@pytest.mark.usefixtures("quick")
async def test_a_connection_that_never_says_anything_is_closed_without_a_word() -> None:
    """There was no request that could be answered or recorded."""
    audit = Unaudited()
    async with serve_small(audit=audit) as (_, base), connect(base) as wire:
        assert await wire.is_closed()
    assert audit.recorded == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("sent", [HEAD, BODY, b""], ids=["head", "body", "late"])
async def test_bytes_that_trickle_gain_no_time(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline is for the whole head, from the connection on, and for the whole body."""
    # A machine that stands still for a second must not reset what was answered in time.
    monkeypatch.setattr(http1, "LINGER_SECONDS", 30.0)
    async with serve_small() as (_, base), connect(base) as wire, asyncio.timeout(30):
        await wire.send_bytes(sent)
        answer = asyncio.create_task(wire.receive())
        trickled = 0
        while not answer.done():
            await wire.send_bytes(b"x")
            trickled += 1
            await asyncio.wait([answer], timeout=0.02)
        received = answer.result()
        assert received is not None
        assert received.status == 408
        # Within 2 s, had the machine nothing else to do.
        assert trickled < 100


@pytest.mark.usefixtures("quick")
async def test_a_connection_that_was_used_may_idle_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The deadline of a head begins with its first byte; proxies keep connections for later."""
    monkeypatch.setattr(http1, "KEEP_ALIVE_SECONDS", 0.6)
    async with serve_small() as (_, base), connect(base) as wire:
        assert await wire.lives()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wire.reader.read(1), 0.3)
        assert await wire.lives()
        began = time.monotonic()
        assert await wire.is_closed()
        assert time.monotonic() - began > 0.5


async def test_a_later_head_may_come_in_pieces(wire: Wire) -> None:
    """Its time begins with its first byte."""
    assert await wire.lives()
    await wire.send_bytes(b"GET /open HTTP/1.1\r\nHo")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(wire.reader.read(1), 0.05)
    await wire.send_bytes(b"st: a\r\n\r\n")
    answer = await wire.receive()
    assert answer is not None
    assert answer.status == 200


class Large(RequestHandler):
    """Answers with more than a socket takes."""

    def get(self) -> None:
        """Answer."""
        self.write(b"x" * 64 * 1024 * 1024)


async def test_a_client_that_takes_no_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer would stay in memory for ever."""
    monkeypatch.setattr(http1, "ANSWER_SECONDS", 0.2)
    server = make_http_server(Application([("/large", Large)], log_function=lambda _: None))
    assert isinstance(server, http1.StrictServer)
    (listening,) = bind_sockets(0, "127.0.0.1", family=socket.AF_INET)
    server.add_sockets([listening])
    async with connect(f"http://127.0.0.1:{listening.getsockname()[1]}") as wire:
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await wire.send("GET /large HTTP/1.1")
        await until(lambda: server.counts.total == 1)
        await until(lambda: server.counts.total == 0)
    server.stop()
    await server.close_all_connections()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it, ten seconds at most."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


async def trickle(wire: Wire, sent: bytes, pause: float) -> float:
    """Send it, then a byte at a time, until the server closes; how long that took."""
    began = time.monotonic()
    closed = asyncio.create_task(wire.receive_all(30))
    await wire.send_bytes(sent)
    while not (await asyncio.wait([closed], timeout=pause))[0]:
        if sent:
            await wire.send_bytes(b"x")
    return time.monotonic() - began


async def keep_asking(base: str, until_done: asyncio.Event) -> list[float]:
    """What a good client sees meanwhile: the durations of its requests."""
    durations = []
    async with connect(base) as wire:
        while not until_done.is_set():
            began = time.monotonic()
            assert await wire.lives()
            durations.append(time.monotonic() - began)
            await asyncio.sleep(0.002)
    return durations


async def withstand(base: str, each: int, idle: int, pause: float) -> tuple[float, list[float]]:
    """The longest life of a slow connection, and what a good client saw."""
    done = asyncio.Event()
    good = asyncio.create_task(keep_asking(base, done))
    async with AsyncExitStack() as stack:
        sent = [HEAD] * each + [BODY] * each + [b""] * idle
        wires = [await stack.enter_async_context(connect(base)) for _ in sent]
        lives = await asyncio.gather(
            *(trickle(wire, first, pause) for wire, first in zip(wires, sent, strict=True))
        )
        done.set()
        return max(lives), await good


@pytest.mark.usefixtures("quick")
async def test_slow_connections_are_gone_and_good_clients_go_on() -> None:
    """In the small: the whole number is `make soak`'s."""
    process = psutil.Process()
    async with serve_small() as (_, base):
        async with connect(base) as wire:
            assert await wire.lives()
        before = process.num_fds()
        longest, durations = await withstand(base, each=50, idle=50, pause=0.05)
        assert longest < 5
        assert durations
        await until(lambda: process.num_fds() <= before + 2)


@asynccontextmanager
async def serve_elsewhere() -> AsyncIterator[tuple[str, psutil.Process]]:
    """The small server in a process of its own, so that the clients' work is not its."""
    program = [sys.executable, "-m", "tests.edge.small_server"]
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(*program, stdin=pipe, stdout=pipe, cwd=ROOT)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        base = (await asyncio.wait_for(child.stdout.readline(), 30)).decode().strip()
        yield base, psutil.Process(child.pid)
    finally:
        child.stdin.close()
        await asyncio.wait_for(child.wait(), 30)


@pytest.mark.soak
async def test_two_thousand_slow_connections_are_gone_within_ten_seconds() -> None:
    """A byte a second in heads and bodies, and 500 that say nothing; good clients hardly notice."""
    assert room_for_connections(6_000) == 6_000
    async with serve_elsewhere() as (base, process):
        alone = asyncio.Event()
        baseline = asyncio.create_task(keep_asking(base, alone))
        await asyncio.sleep(5)
        alone.set()
        usual = statistics.quantiles(await baseline, n=100)[98]
        before = process.num_fds()
        longest, durations = await withstand(base, each=1_000, idle=500, pause=1.0)
        slowest = statistics.quantiles(durations, n=100)[98]
        said = f"p99 {usual * 1000:.1f} ms alone, {slowest * 1000:.1f} ms beside; {longest:.2f} s"
        print(said)  # noqa: T201 - the measurement
        # Ten seconds, and what one loop needs to end 2,500 connections.
        assert longest < 11
        await until(lambda: process.num_fds() <= before + 5)
