"""Raw TCP connections: what is sent is what was written, and every byte that comes back is seen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

AUTHORIZED = "Authorization: Bearer everything"
SECONDS = 10


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
        self.reader = reader
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

    async def receive(self, *, head_only: bool = False) -> Answered | None:
        """Read one response; None when the connection ends before."""
        try:
            encoded = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), SECONDS)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        first, *lines = encoded.decode("latin-1").splitlines()
        headers = {k.lower(): v.strip() for k, _, v in (li.partition(":") for li in lines if li)}
        length = 0 if head_only else int(headers.get("content-length", "0"))
        body = await asyncio.wait_for(self.reader.readexactly(length), SECONDS)
        return Answered(int(first.split()[1]), headers, body)

    async def receive_all(self, seconds: float = SECONDS) -> bytes:
        """Everything until the server closes."""
        with suppress(ConnectionError):
            return await asyncio.wait_for(self.reader.read(), seconds)
        return b""

    async def is_closed(self) -> bool:
        """Wait until the server closes; tell whether it sent nothing more."""
        return await self.receive_all() == b""

    async def lives(self) -> bool:
        """Whether another request is answered."""
        await self.send("GET /open HTTP/1.1")
        answer = await self.receive()
        return answer is not None and answer.status == 200

    async def assert_refused(self, status: int, code: str) -> Answered:
        """Fail unless this is the one answer, whole as every answer is, and the end."""
        answer = await self.receive()
        assert answer is not None, "closed without an answer"
        assert (answer.status, answer.problem["code"]) == (status, code), answer
        assert answer.problem["status"] == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-request-id"] == answer.problem["request_id"]
        assert answer.headers["connection"] == "close"
        assert await self.is_closed(), "something came behind the refusal"
        return answer


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
