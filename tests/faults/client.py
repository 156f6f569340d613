"""A small REST client of the tests' own: bugs of the product's client can't hide the server's.

It goes to one node after the other, and finds them anew after each failure: a restarted one listens
on another port.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from server.data_directory import DataDirectory

TIMEOUT_SECONDS = 4.0
LOOK_AGAIN_SECONDS = 0.02
FIND_SECONDS = 0.5
"""How long nodes that were found are believed to be all of them."""
AVOID_SECONDS = 1.0
"""How long a node that did not answer is left alone while there are others."""
PAGE = 200
UNKNOWN_STATUSES = frozenset({502, 503, 504})


@dataclass(frozen=True, slots=True)
class Answer:
    """A conclusive answer: the server did what was asked, or refused."""

    status: int
    body: Any
    next_page: str | None = None

    @property
    def code(self) -> str | None:
        """The `code` of a problem."""
        return self.body.get("code") if isinstance(self.body, dict) else None


class Client:
    """One principal's requests. `ask` gives None when the outcome is unknown."""

    def __init__(
        self, http: httpx.AsyncClient, nodes: Sequence[DataDirectory], answers: Counter[str]
    ) -> None:
        self._http = http
        self._nodes = nodes
        self._urls: list[str] = []
        self._found_at = 0.0
        self._failed_at: dict[str, float] = {}
        self.answers = answers

    async def ask(
        self,
        method: str,
        path: str,
        key: str,
        body: Any = None,
        *,
        wait_seconds: float = 0.0,
    ) -> Answer | None:
        """One try. None: no answer, or 503; it may have happened or not."""
        url = await self._find()
        try:
            response = await self._http.request(
                method,
                f"{url}{path}",
                json=body,
                headers={"Authorization": f"Bearer {key}"},
                timeout=TIMEOUT_SECONDS + wait_seconds,
            )
        except httpx.TransportError as error:
            self.answers[type(error).__name__] += 1
            self._found_at = 0.0
            self._failed_at[url] = time.monotonic()
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            return None
        self.answers[str(response.status_code)] += 1
        if response.status_code in UNKNOWN_STATUSES:
            return None
        following = response.links.get("next", {}).get("url")
        return Answer(response.status_code, response.json(), following)

    async def insist(self, method: str, path: str, key: str, body: Any = None) -> Answer:
        """Repeat until there is an answer; only for what may be repeated."""
        while True:
            answer = await self.ask(method, path, key, body)
            if answer is not None:
                return answer
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def pages(
        self, path: str, key: str, query: Mapping[str, Any]
    ) -> AsyncIterator[list[Any]]:
        """The pages of a list, one after the other."""
        given = "&".join(f"{name}={value}" for name, value in {**query, "limit": PAGE}.items())
        following: str | None = f"{path}?{given}"
        while following is not None:
            answer = await self.insist("GET", following, key)
            assert answer.status == 200, answer
            yield answer.body
            following = answer.next_page

    async def read_all(self, path: str, key: str, query: Mapping[str, Any]) -> list[Any]:
        """All items of a list."""
        return [item async for page in self.pages(path, key, query) for item in page]

    def operator_key(self) -> str:
        """The administrator's key on this machine."""
        key = next(filter(None, (node.find_operator_key() for node in self._nodes)), None)
        assert key is not None, "the server has not made its operator key"
        return key

    async def _find(self) -> str:
        while not self._urls or time.monotonic() - self._found_at > FIND_SECONDS:
            found = [node.find_running_server() for node in self._nodes]
            self._found_at = time.monotonic()
            running = [server.url for server in found if server is not None]
            since = self._found_at - AVOID_SECONDS
            well = [url for url in running if self._failed_at.get(url, 0.0) < since]
            self._urls = well or running
            if not self._urls:
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
        self._urls.append(self._urls.pop(0))
        return self._urls[-1]


@asynccontextmanager
async def open_client(
    nodes: Sequence[DataDirectory], answers: Counter[str]
) -> AsyncIterator[Client]:
    """A client of these nodes with connections of its own; it knows no proxy."""
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    async with httpx.AsyncClient(trust_env=False, limits=limits) as http:
        yield Client(http, nodes, answers)


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 10) -> None:
    """Return once the condition gives true; fail and name it after `seconds`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not await condition():
        assert loop.time() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
