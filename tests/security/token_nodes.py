"""For the tests of tokens: forgers with the real keys of a node, two nodes on one database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import jwt
from pydantic import SecretStr

from hive.changes import Actor
from hive.token_keys import TokenAlgorithm
from server.bootstrap import ISSUER
from server.token_keys import SealedTokenKeys
from tests.api.running import PASSWORD, Api, RunningNode, found, running_node
from tests.identity.forging import Forge
from tests.identity.node import Clock

SECRET = "a secret that both of the nodes share, 48 bytes.."
ME = "/api/v1/auth/me"
LOGIN = "/api/v1/auth/login"
REFRESH = "/api/v1/auth/refresh"
MOST_HEADER_BYTES = 15_000
"""A credential beyond may exceed the 16 KiB of headers, above which the connection is closed."""


@dataclass(frozen=True)
class Tokens:
    """What a login gave."""

    access: str
    refresh: str

    @property
    def claims(self) -> dict[str, Any]:
        """What the access token says."""
        return dict(jwt.decode(self.access, options={"verify_signature": False}))


def ring_of(node: RunningNode) -> SealedTokenKeys:
    """The keys of access tokens on a node."""
    keys = node.node.services.token_keys
    assert isinstance(keys, SealedTokenKeys)
    return keys


def turn_clock(*nodes: RunningNode) -> Clock:
    """The time of the nodes' database, to be moved on."""
    clock = Clock()
    for node in nodes:
        ring_of(node)._store._database._clock = clock  # type: ignore[attr-defined]
    return clock


async def log_in(node: RunningNode, username: str = "admin") -> Tokens:
    """Log in with the usual password."""
    body = {"username": username, "password": PASSWORD}
    tokens = await node.client().ok("POST", LOGIN, json=body)
    return Tokens(tokens["access_token"], tokens["refresh_token"])


async def exchange(api: Api, refresh_token: str) -> Tokens:
    """Exchange a refresh token, which has to be good."""
    tokens = await api.ok("POST", REFRESH, json={"refresh_token": refresh_token})
    return Tokens(tokens["access_token"], tokens["refresh_token"])


async def make_forges(node: RunningNode, tokens: Tokens) -> dict[str, Forge]:
    """Somebody who has the keys of all three algorithms, all live, and a live session's claims."""
    for algorithm in (TokenAlgorithm.EDDSA, TokenAlgorithm.RS256):
        await ring_of(node).rotate(Actor("usr_test"), algorithm)
    claims = tokens.claims
    known = ring_of(node)._tokens.ring.known()
    return {
        key.algorithm: Forge(key, ISSUER, claims["sub"], claims["sid"], claims["role"])
        for key in known.values()
    }


def sendable(corpus: Iterator[tuple[str, str]]) -> list[tuple[str, bytes]]:
    """Those that fit into a header as they are: not empty, no controls, no space at an end."""
    return [
        (name, token.encode())
        for name, token in corpus
        if token and token == token.strip() and token.isprintable()
    ]


async def refusal(api: Api, token: bytes) -> int | None:
    """The status that a bearer token gets; None when the connection was closed on it."""
    try:
        response = await api.get(ME, headers={b"Authorization": b"Bearer " + token})
    except httpx.RemoteProtocolError:
        return None
    return response.status_code


@asynccontextmanager
async def two_nodes(directory: Path, mongodb_uri: str) -> AsyncIterator[list[RunningNode]]:
    """Two nodes that share databases and secret."""
    shared = {
        "sql_url": SecretStr(f"sqlite:///{directory / 'shared.sqlite3'}"),
        "secret_key": SecretStr(SECRET),
        "mongodb_database": f"test_{directory.name}".replace("-", "_")[:60],
    }
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(running_node(directory / name, mongodb_uri, **shared))
            for name in ("one", "other")
        ]


async def refused_within(api: Api, seconds: float) -> None:
    """Return once the credential is refused; fail after so long."""

    async def status() -> int:
        return (await api.get(ME)).status_code

    await found(status, lambda seen: seen == 401, "the credential is refused", seconds)


class Canary:
    """Somebody who listens, and whom nobody is to call."""

    def __init__(self) -> None:
        self.calls = 0
        self.url = ""
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._called, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _called(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.calls += 1
        writer.close()
