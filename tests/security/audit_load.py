"""A mix of calls whose audit records are counted afterwards: each carries an identifier."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.servers import ServerProcess

PASSWORD = "correct horse battery staple"
API = "/api/v1"
NOTHING = "nobody-has-this"


@dataclass(slots=True)
class Sent:
    """One call: its request identifier, and the answer when there was one."""

    request_id: str
    mutates: bool
    sent_at: float
    status: int | None = None
    answered_at: float = 0.0


@dataclass(slots=True)
class Load:
    """Calls by some callers at once, while the server may be killed and started again."""

    server: ServerProcess
    seed: int
    callers: int = 8
    sent: list[Sent] = field(default_factory=list)
    beats_sent: int = 0
    beats_answered: int = 0
    links_opened: int = 0
    killed_at: float = 0.0
    _url: str = ""
    _up: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, calls: int, *, kill_after: int) -> None:
        """Send so many; kill the server after some of them, and start it again."""
        self._started(self.server.start())
        limits = httpx.Limits(max_connections=self.callers + 2)
        async with httpx.AsyncClient(trust_env=False, limits=limits, timeout=10) as http:
            agent = await self._agent(http)
            link = asyncio.create_task(self._link(agent, random.Random(self.seed)))
            working = [
                asyncio.create_task(self._call(http, random.Random(f"{self.seed}:{n}"), calls))
                for n in range(self.callers)
            ]
            while len(self.sent) < kill_after:  # noqa: ASYNC110 - a number
                await asyncio.sleep(0.005)
            self._up.clear()
            self.killed_at = time.monotonic()
            self.server.kill()
            self._started(self.server.start())
            await asyncio.gather(*working)
            link.cancel()
            await asyncio.gather(link, return_exceptions=True)

    def operator(self) -> dict[str, str]:
        """The headers of the administrator on this machine."""
        return {"Authorization": f"Bearer {self.server.data.find_operator_key()}"}

    def _started(self, url: str) -> None:
        self._url = url
        self._up.set()

    async def _agent(self, http: httpx.AsyncClient) -> dict[str, Any]:
        answer = await http.post(
            f"{self._url}{API}/agents", headers=self.operator(), json={"name": "beating"}
        )
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def _call(self, http: httpx.AsyncClient, chance: random.Random, calls: int) -> None:
        tasks: list[str] = []
        while len(self.sent) < calls:
            await self._up.wait()
            method, path, options = self._choose(chance, tasks)
            # PUT of the tasks is no operation: it changes nothing, and is recorded as a read is.
            mutates = method not in {"GET", "PUT"}
            name = f"load-{uuid.UUID(int=chance.getrandbits(128)).hex}"
            one = Sent(name, mutates, time.monotonic())
            self.sent.append(one)
            headers = {"X-Request-Id": one.request_id, **options.pop("headers", self.operator())}
            try:
                answer = await http.request(
                    method, f"{self._url}{path}", headers=headers, **options
                )
            except httpx.TransportError:
                continue  # Whether it happened is not known.
            one.status, one.answered_at = answer.status_code, time.monotonic()
            if path == f"{API}/tasks" and method == "POST" and answer.status_code == 200:
                tasks.append(answer.json()["task_id"])

    def _choose(self, chance: random.Random, tasks: list[str]) -> tuple[str, str, dict[str, Any]]:
        task = chance.choice(tasks) if tasks else "tsk_01m7zzcy9we6nrxfnm00kd253m"
        work = {"name": "work", "required_capabilities": [NOTHING]}
        wrong = {"username": "nobody", "password": f"wrong {chance.random()}"}
        choices: list[tuple[int, Callable[[], tuple[str, str, dict[str, Any]]]]] = [
            (30, lambda: ("POST", f"{API}/tasks", {"json": work})),
            (8, lambda: ("DELETE", f"{API}/tasks/{task}", {})),
            (20, lambda: ("GET", f"{API}/tasks/{task}", {})),
            (10, lambda: ("GET", f"{API}/tasks?limit=2", {})),
            (4, lambda: ("GET", f"{API}/nowhere/{chance.random()}?token=x", {})),
            (4, lambda: ("PUT", f"{API}/tasks", {})),
            (4, lambda: ("GET", f"{API}/agents", {"headers": {}})),
            (4, lambda: ("POST", f"{API}/tasks", {"headers": {}, "json": work})),
            (4, lambda: ("POST", f"{API}/tasks", {"json": {"name": 7}})),
            (4, lambda: ("POST", f"{API}/tasks", {"content": b"{"})),
            (2, lambda: ("GET", f"{API}/tasks?limit=0", {})),
            (1, lambda: ("POST", f"{API}/auth/login", {"headers": {}, "json": wrong})),
            (1, lambda: ("POST", f"{API}/api-keys", {"json": {"name": "made under load"}})),
        ]
        weights = [weight for weight, _ in choices]
        return chance.choices(choices, weights)[0][1]()

    async def _link(self, agent: dict[str, Any], chance: random.Random) -> None:
        """Heartbeats over the agent's socket, one at a time."""
        while True:
            await self._up.wait()
            path = f"{self._url.replace('http', 'ws', 1)}/ws/agents/{agent['agent_id']}"
            headers = {"Authorization": f"Bearer {agent['api_key']}"}
            with suppress(OSError, WebSocketException, TimeoutError):
                async with connect(path, additional_headers=headers, proxy=None) as socket:
                    await socket.send('{"type":"hello","version":"1.0.0"}')
                    await socket.recv()
                    self.links_opened += 1
                    while True:
                        self.beats_sent += 1
                        await socket.send(
                            f'{{"type":"heartbeat","id":"b{self.beats_sent}","free_slots":1}}'
                        )
                        async with asyncio.timeout(5):
                            while '"result"' not in str(await socket.recv()):
                                pass
                        self.beats_answered += 1
                        await asyncio.sleep(chance.uniform(0.0, 0.03))
            await asyncio.sleep(0.05)
