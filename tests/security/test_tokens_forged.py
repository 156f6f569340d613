"""A1: no forged access token is accepted, over the wire, by a ring of all three algorithms."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio

from hive.token_keys import TokenAlgorithm
from tests.api.running import Api, RunningNode
from tests.identity import forging
from tests.identity.forging import Forge
from tests.security.token_nodes import (
    ME,
    MOST_HEADER_BYTES,
    Canary,
    log_in,
    make_forges,
    refusal,
    sendable,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
WATCHED = (
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "subprocess.Popen",
    "open",
)


class Watch:
    """What this process reaches for while it is on. An audit hook can't be taken off again."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[tuple[str, Any]] = []
        sys.addaudithook(self._hear)

    @contextmanager
    def watching(self) -> Iterator[list[tuple[str, Any]]]:
        """Note everything as long as the block runs."""
        self.seen.clear()
        self.on = True
        try:
            yield self.seen
        finally:
            self.on = False

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event in WATCHED:
            self.seen.append((event, arguments[1] if event == "socket.connect" else arguments[0]))


@pytest.fixture(scope="module")
def watch() -> Watch:
    """One hook for the module."""
    return Watch()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def forges(node: RunningNode) -> dict[str, Forge]:
    """The keys of the ring in the hands of a forger."""
    return await make_forges(node, await log_in(node))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def canary() -> AsyncIterator[Canary]:
    """Whom `jku` and `x5u` name."""
    async with Canary() as listening:
        yield listening


@pytest.fixture(scope="module")
def api(node: RunningNode) -> Api:
    """A client that judges nothing: 401 is looked for here, hundreds of times."""
    return node.client(judged=False)


def _corpus(forges: dict[str, Forge], algorithm: str, canary: Canary) -> Iterator[tuple[str, str]]:
    forge = forges[algorithm]
    yield from forging.bad_headers(forge, canary.url)
    yield from forging.unsigned(forge)
    yield from forging.bent(forge)
    if algorithm != "RS256":
        yield from forging.confused(forges["RS256"], forge)


@pytest.mark.parametrize("algorithm", TokenAlgorithm)
async def test_good_token_is_accepted(api: Api, forges: dict[str, Forge], algorithm: str) -> None:
    """What the corpus is bent from is good for each key, or the refusals would prove nothing."""
    assert await refusal(api, forges[algorithm].good().encode()) == 200


@pytest.mark.parametrize("algorithm", TokenAlgorithm)
async def test_forged_tokens_are_refused(
    node: RunningNode,
    api: Api,
    forges: dict[str, Forge],
    canary: Canary,
    watch: Watch,
    algorithm: str,
) -> None:
    """Every one is 401; nobody is called, no file named in a token is opened."""
    corpus = sendable(_corpus(forges, algorithm, canary))
    assert len(corpus) >= 100
    answers: dict[str, int | None] = {}
    with watch.watching() as seen:
        for name, token in corpus:
            answers[name] = await refusal(api, token)
        reached = list(seen)
    large = {name for name, token in corpus if len(token) > MOST_HEADER_BYTES}
    wrong = {name: got for name, got in answers.items() if got != 401 and name not in large}
    assert wrong == {}
    assert {answers[name] for name in large} <= {401, 431}
    port = httpx.URL(node.url).port
    for event, target in reached:
        if event == "socket.connect":
            # Itself by the test's client, and its own MongoDB.
            assert target == ("127.0.0.1", port) or str(target).endswith(".sock"), target
        elif event == "open":
            assert "dev/null" not in str(target), target
        else:
            assert target in ("127.0.0.1", b"127.0.0.1"), (event, target)
    assert canary.calls == 0


async def test_corpus_names_what_the_history_of_jwt_names(
    forges: dict[str, Forge], canary: Canary
) -> None:
    """At least 60 forgeries of each kind of key, without two of one name."""
    for algorithm in TokenAlgorithm:
        names = [name for name, _ in sendable(_corpus(forges, algorithm, canary))]
        assert len(set(names)) == len(names) >= 60
        for part in ("none", "kid traversal", "10 kB", "crit", "b64", "jku", "jwk", "x5u", "x5c"):
            assert any(part in name for name in names), part
        for part in ("empty signature", "2,000 deep", "twice", "trailing dot"):
            assert any(part in name for name in names), part
        for part in ("PEM", "DER", "CRLF", "spaces", "BOM", "JWK", "JWKS"):
            assert algorithm == "RS256" or any(part in name for name in names), part


@pytest.mark.soak
async def test_forged_tokens_are_refused_fast(
    node: RunningNode, forges: dict[str, Forge], canary: Canary
) -> None:
    """Each within 10 ms, at its best of five, from the request to the answer."""
    api = node.client(judged=False)
    await api.get(ME)
    slow: dict[str, float] = {}
    for algorithm in TokenAlgorithm:
        for name, token in sendable(_corpus(forges, algorithm, canary)):
            if len(token) > MOST_HEADER_BYTES:
                continue
            seconds = [
                (
                    await api.get(ME, headers={b"Authorization": b"Bearer " + token})
                ).elapsed.total_seconds()
                for _ in range(5)
            ]
            if min(seconds) > 0.010:
                slow[f"{algorithm}: {name}"] = min(seconds)
    assert slow == {}
