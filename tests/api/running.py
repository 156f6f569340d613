"""The whole product in the test's process: a node with its stores, and a client for each role."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import SecretStr
from pymongo import MongoClient

from hive.permissions import Role
from server.accounts import SqlAccounts
from server.app import make_http_server
from server.bootstrap import ISSUER, Node, listen, open_node
from server.data_directory import DataDirectory
from server.referee import Referee
from server.resources import openapi_path
from server.settings import Settings
from server.tokens import AccessTokens
from tests.contracts import our_interface

PASSWORD = "correct horse battery staple"
PEOPLE: Mapping[str, Role] = {
    "user": Role.USER,
    "other_user": Role.USER,
    "viewer": Role.VIEWER,
}
POLL_SECONDS = 0.01
NOBODY_HAS_THIS = "nobody-has-this"
T = TypeVar("T")


@cache
def referee() -> Referee:
    """One for all tests: it takes a second to make."""
    return Referee(openapi_path())


class Api(httpx.AsyncClient):
    """A client whose every exchange is judged by the contract; an undeclared answer fails."""

    def __init__(
        self, url: str, credential: str | None = None, *, judged: bool = True, **options: Any
    ) -> None:
        headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
        self.credential = credential
        super().__init__(
            base_url=url,
            headers={**headers, **options.pop("headers", {})},
            timeout=40,
            event_hooks={"response": [_judge] if judged else []},
            **options,
        )

    async def ok(self, method: str, path: str, **request: Any) -> Any:
        """The JSON of an answer that has to be a success."""
        response = await self.request(method, path, **request)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        return response.json()

    async def refused(self, status: int, method: str, path: str, **request: Any) -> dict[str, Any]:
        """The problem of an answer that has to be a refusal with this status."""
        response = await self.request(method, path, **request)
        assert response.status_code == status, f"{response.status_code} {response.text}"
        assert response.headers["content-type"] == "application/problem+json"
        problem: dict[str, Any] = response.json()
        assert problem["status"] == status
        return problem

    async def log_in(self, username: str) -> dict[str, Any]:
        """The tokens of a new session. A node that has too much to do (503) is asked again."""
        credentials = {"username": username, "password": PASSWORD}
        response = await found(
            lambda: self.post("/api/v1/auth/login", json=credentials),
            lambda answer: answer.status_code != 503,
            "the login is not 503",
            30,
        )
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def submit(self, **task: Any) -> str:
        """Submit a task, one that no agent can run unless the test says more; its identifier."""
        body = {"name": "work", "required_capabilities": [NOBODY_HAS_THIS], **task}
        receipt = await self.ok("POST", "/api/v1/tasks", json=body)
        return str(receipt["task_id"])

    async def task(self, task_id: str) -> dict[str, Any]:
        """The task as it is now."""
        return dict(await self.ok("GET", f"/api/v1/tasks/{task_id}"))

    async def task_when(self, task_id: str, status: str, seconds: float = 30) -> dict[str, Any]:
        """The task once it has this status."""
        return await found(
            lambda: self.task(task_id),
            lambda task: task["status"] == status,
            f"{task_id} is {status}",
            seconds,
        )

    async def pages(self, path: str) -> list[Any]:
        """All items of a list, page by page along the `Link` headers."""
        items: list[Any] = []
        following: str | None = path
        for _ in range(1_000):
            if following is None:
                return items
            response = await self.get(following)
            assert response.status_code == 200, response.text
            items += response.json()
            following = response.links.get("next", {}).get("url")
        raise AssertionError(f"{path}: the pages do not end")


async def _judge(response: httpx.Response) -> None:
    await response.aread()
    referee().check_httpx(response)


@dataclass(frozen=True)
class Agent:
    """A registered agent: its identifier and a client with its own key."""

    agent_id: str
    api: Api

    async def heartbeat(self, **body: Any) -> dict[str, Any]:
        """Send a heartbeat; what is wanted of the agent."""
        reply = await self.api.ok("POST", f"/api/v1/agents/{self.agent_id}/heartbeat", json=body)
        return dict(reply)

    async def claim(self, **body: Any) -> list[dict[str, Any]]:
        """Claim leases."""
        leases = await self.api.ok("POST", f"/api/v1/agents/{self.agent_id}/leases", json=body)
        return list(leases)

    async def lease(self, task_id: str) -> Lease:
        """Claim one lease, which has to be on this task."""
        (claimed,) = await self.claim(wait_seconds=10)
        assert claimed["task"]["task_id"] == task_id
        return Lease(self.api, claimed["lease_id"], claimed["fence"], task_id)


@dataclass(frozen=True)
class Lease:
    """A lease in the hands of a client."""

    api: Api
    lease_id: str
    fence: int
    task_id: str

    def path(self, verb: str) -> str:
        """Where a verb of the lease is."""
        return f"/api/v1/leases/{self.lease_id}/{verb}"

    async def send(self, verb: str, **body: Any) -> httpx.Response:
        """Call a verb with the fence."""
        return await self.api.post(self.path(verb), json={"fence": self.fence, **body})

    async def ok(self, verb: str, **body: Any) -> dict[str, Any]:
        """Call a verb that has to succeed."""
        response = await self.send(verb, **body)
        assert response.status_code == 200, response.text
        return dict(response.json())


@dataclass(frozen=True)
class RunningNode:
    """A node that serves on a port of the loopback, in the event loop of the test."""

    node: Node
    url: str
    settings: Settings
    directory: DataDirectory
    opened: list[httpx.AsyncClient] = field(default_factory=list)

    @property
    def accounts(self) -> SqlAccounts:
        """The identities behind the ports."""
        accounts = self.node.services.identity
        assert isinstance(accounts, SqlAccounts)
        return accounts

    def client(self, credential: str | None = None, **options: Any) -> Api:
        """A judged client; it is closed with the node."""
        api = Api(self.url, credential, **options)
        self.opened.append(api)
        return api

    async def add_user(self, username: str, role: Role) -> str:
        """Add a user with the usual password; its identifier."""
        accounts = self.accounts
        hashed = await accounts._passwords.hash(PASSWORD)
        return (await accounts._store.create_user(username, hashed, role)).user_id

    async def log_in(self, username: str) -> Api:
        """A client with a new access token."""
        tokens = await self.client().log_in(username)
        return self.client(tokens["access_token"])

    def expired_token(self) -> str:
        """An access token that we signed, of which the end has passed."""
        tokens = AccessTokens(self.accounts._keys.signing, issuer=ISSUER, lifetime_seconds=-60)
        return tokens.issue("usr_1", "ses_1", Role.ADMIN).encoded

    async def add_agent(self, admin: Api, **spec: Any) -> Agent:
        """Register an agent under a name of its own, unless the test gives one."""
        body = {"name": f"agent-{uuid.uuid4().hex[:12]}", **spec}
        registered = await admin.ok("POST", "/api/v1/agents", json=body)
        return Agent(registered["agent_id"], self.client(registered["api_key"]))


@asynccontextmanager
async def running_node(
    directory: Path, mongodb_uri: str, **options: Any
) -> AsyncIterator[RunningNode]:
    """Open a node on a new data directory and a new database, serve it, and take it all away."""
    database = f"test_{uuid.uuid4().hex}"
    settings = Settings(
        **{
            "data_dir": directory,
            "mongodb_database": database,
            "admin_password": SecretStr(PASSWORD),
            "rate_limit_enabled": False,
            # The loop is the test's as well: how late it is says nothing of the node.
            "load_shedding_enabled": False,
            # What a module shares must not end because the machine is slow.
            "lease_seconds": 600,
            "agent_timeout_seconds": 900,
            **options,
        }
    )
    with dropped_afterwards(mongodb_uri, database), DataDirectory(directory) as data:
        async with open_node(settings, data, mongodb_uri, our_interface()) as node:
            server = make_http_server(node.app)
            running = RunningNode(node, listen(server, "127.0.0.1", 0), settings, data)
            try:
                await running_log(running)
                yield running
            finally:
                for client in running.opened:
                    await client.aclose()
                server.stop()
                await server.close_all_connections()


@contextlib.contextmanager
def dropped_afterwards(mongodb_uri: str, database: str) -> Iterator[None]:
    """Drop the database at the end."""
    try:
        yield
    finally:
        with MongoClient[dict[str, Any]](mongodb_uri) as client:
            client.drop_database(database)


async def running_log(running: RunningNode) -> None:
    """Return once the node is ready: the event log moves."""

    async def readiness() -> Mapping[str, Any]:
        return await running.node.services.readiness()

    await found(readiness, lambda seen: seen["status"] == "ready", "the node is ready", 20)


async def found(
    look: Callable[[], Awaitable[T]],
    wanted: Callable[[T], object],
    what: str,
    seconds: float = 30,
) -> T:
    """What `look` gives once it is wanted; fail and show the last after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        seen = await look()
        if wanted(seen):
            return seen
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}; last seen: {seen!r}"
        await asyncio.sleep(POLL_SECONDS)
