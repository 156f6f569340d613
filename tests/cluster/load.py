"""People that go on asking while nodes come and go."""

from __future__ import annotations

import asyncio
import ssl
from types import TracebackType
from typing import Self

import httpx

from server.cancelling import cancel_and_wait
from tests.servers import eventually

PEOPLE = 8
ROUND = 40
"""So many more answers show that it goes on."""


class Load:
    """Reads and submissions, one after the other for each person; every failure is kept."""

    def __init__(self, address: str, credential: str, trust: ssl.SSLContext) -> None:
        self._client = httpx.AsyncClient(
            base_url=address,
            headers={"Authorization": f"Bearer {credential}"},
            verify=trust,
            timeout=40,
        )
        self._people: list[asyncio.Task[None]] = []
        self._stopping = False
        self.answers = 0
        self.submitted: set[str] = set()
        self.failures: list[str] = []

    async def __aenter__(self) -> Self:
        """Begin."""
        self._people = [asyncio.create_task(self._ask()) for _ in range(PEOPLE)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End, in the middle of it when need be."""
        await cancel_and_wait(*self._people)
        await self._client.aclose()

    async def stop(self) -> None:
        """Let everybody have the answer to the last request."""
        self._stopping = True
        await asyncio.gather(*self._people)

    async def goes_on(self) -> None:
        """Return once there were some more answers."""
        wanted = self.answers + ROUND
        await eventually(lambda: self.answers >= wanted, "answers go on coming", 30)

    async def _ask(self) -> None:
        while not self._stopping:
            task = {"name": "work", "required_capabilities": ["nobody-has-this"]}
            answer = await self._send("POST", "/api/v1/tasks", json=task)
            if answer is not None:
                self.submitted.add(answer.json()["task_id"])
            await self._send("GET", "/api/v1/agents?limit=5")

    async def _send(self, method: str, path: str, **request: object) -> httpx.Response | None:
        try:
            answer = await self._client.request(method, path, **request)  # type: ignore[arg-type]
        except httpx.HTTPError as error:
            self.failures.append(f"{method} {path}: {error!r}")
            return None
        self.answers += 1
        if answer.is_success:
            return answer
        self.failures.append(f"{method} {path}: {answer.status_code} {answer.text}")
        return None
