"""Two nodes of one hive, and requests that are steady enough to show when a right ends.

A request is one round over a connection that stays open; nothing but the two clocks readings and
the status is looked at, so that some hundred a second are possible.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import SecretStr

from tests.api.running import PASSWORD, dropped_afterwards, running_node
from tests.servers import ServerProcess

SECRET = "correct-horse-battery-staple-0123456789"
TIMEOUT_SECONDS = 10.0


@asynccontextmanager
async def nodes_in_process(
    folder: Path, mongodb_uri: str, sql_url: str
) -> AsyncIterator[list[str]]:
    """The URLs of two nodes in the event loop of the test."""
    shared: dict[str, Any] = {
        "sql_url": SecretStr(sql_url),
        "secret_key": SecretStr(SECRET),
        "mongodb_database": f"test_{uuid.uuid4().hex}",
    }
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(running_node(folder / name, mongodb_uri, **shared))
            for name in ("one", "two")
        ]
        yield [node.url for node in nodes]


@contextmanager
def node_processes(folder: Path, mongodb_uri: str, sql_url: str) -> Iterator[list[str]]:
    """The URLs of two nodes that run as users run them."""
    database = f"test_{uuid.uuid4().hex}"
    shared = {
        "SQL_URL": sql_url,
        "MONGODB_URI": mongodb_uri,
        "MONGODB_DATABASE": database,
        "SECRET_KEY": SECRET,
        "ADMIN_PASSWORD": PASSWORD,
        "RATE_LIMIT_ENABLED": "false",
        "LOG_LEVEL": "warning",
    }
    servers = [ServerProcess(folder / name, **shared) for name in ("one", "two")]
    with dropped_afterwards(mongodb_uri, database):
        try:
            yield [server.start() for server in servers]
        finally:
            for server in servers:
                server.kill()


@dataclass(frozen=True, slots=True)
class Answered:
    """One request: when it began and ended (monotonic, seconds), and its status."""

    node: int
    began: float
    ended: float
    status: int
    name: str = ""

    @property
    def accepted(self) -> bool:
        """The server did what was asked."""
        return self.status < 400


class Wire:
    """One connection with one credential."""

    def __init__(self, url: str, credential: str) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname or "", address.port or 0
        self._credential = credential
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of one answer."""
        assert self._reader is not None
        assert self._writer is not None
        content = b"" if body is None else json.dumps(body).encode()
        kind = "" if body is None else "Content-Type: application/json\r\n"
        self._writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\n{kind}"
            f"Authorization: Bearer {self._credential}\r\n"
            f"Content-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        async with asyncio.timeout(TIMEOUT_SECONDS):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(head.partition("content-length:")[2].partition("\r\n")[0])
            answer = await self._reader.readexactly(length)
        return int(head[9:12]), json.loads(answer)


@dataclass
class Load:
    """Steady requests to every node with one credential, until told to stop."""

    urls: list[str]
    credential: str
    per_second: float
    clients: int = 2
    answers: list[Answered] = field(default_factory=list)

    @asynccontextmanager
    async def going(self, path: str) -> AsyncIterator[Self]:
        """Keep asking while the block runs; raises what a client met."""
        async with asyncio.TaskGroup() as tasks:
            clients = [
                tasks.create_task(self._client(number % len(self.urls), path))
                for number in range(self.clients)
            ]
            try:
                yield self
            finally:
                for client in clients:
                    client.cancel()

    async def _client(self, node: int, path: str) -> None:
        period = self.clients / self.per_second
        async with Wire(self.urls[node], self.credential) as wire:
            due = time.monotonic()
            while True:
                began = time.monotonic()
                status, _ = await wire.ask("GET", path)
                self.answers.append(Answered(node, began, time.monotonic(), status))
                due = max(due + period, began)
                await asyncio.sleep(due - time.monotonic())
