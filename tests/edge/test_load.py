"""Too much at once: slots of a principal, and what a saturated node refuses, in which order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest

from handlers.context import Reply
from hive.permissions import PERMISSIONS, ROLE_PERMISSIONS, Principal, Role
from server.authorization import Authorization
from server.contract import Operation
from server.invocation import Invoker
from server.load import Load, Overloaded, Shed, TooManyConcurrent, shed_of
from server.pipeline import Call
from server.problems import build_problem
from server.saturation import LEAST
from tests.contract.running import Credentials, Unaudited, Unset, make_small_app, serve
from tests.contracts import our_interface
from tests.servers import eventually

INTERFACE = our_interface()
OPERATIONS = INTERFACE.contract.operations
MOST = 16
SLOTS = 3
LISTING = "/api/v1/auth/sessions"
ENDING = "/api/v1/leases/lse_1/release"
CLAIMING = "/api/v1/agents/agt_1/leases"


@dataclass
class Busy:
    """A server whose handlers wait until they are let go, with counts of what it holds."""

    app: Any
    load: Load
    client: httpx.AsyncClient
    audit: Unaudited
    credentials: Credentials
    release: asyncio.Event = field(default_factory=asyncio.Event)
    inside: int = 0
    asked: list[asyncio.Task[httpx.Response]] = field(default_factory=list)

    async def occupy(self, count: int, role: str = "user", path: str = LISTING) -> None:
        """Have so many requests running inside their handlers."""
        wanted = self.inside + count
        headers = {"Authorization": f"Bearer {role}"}
        self.asked += [
            asyncio.create_task(self.client.get(path, headers=headers)) for _ in range(count)
        ]
        await eventually(lambda: self.inside == wanted, f"{wanted} requests are in their handlers")

    async def ask(
        self, method: str, path: str, role: str = "other", **request: Any
    ) -> httpx.Response:
        """One request; the caller decides whether it may wait."""
        headers = {"Authorization": f"Bearer {role}", **request.pop("headers", {})}
        return await asyncio.wait_for(
            self.client.request(method, path, headers=headers, **request), 10
        )

    async def let_go(self) -> list[int]:
        """End what runs; its statuses."""
        self.release.set()
        answers = await asyncio.gather(*self.asked)
        self.asked.clear()
        return [answer.status_code for answer in answers]


class People(Credentials):
    """`agent` is an agent; any other credential is a user of that name, who may do anything."""

    async def authenticate(self, bearer: str, address: str | None = None) -> Principal:
        """Everybody is somebody."""
        self.asked.append(bearer)
        if bearer == "agent":
            return Principal(
                "agt_1", "agent", Role.AGENT, ROLE_PERMISSIONS[Role.AGENT], agent_id="agt_1"
            )
        return Principal(f"usr_{bearer}", bearer, Role.ADMIN, PERMISSIONS)


@asynccontextmanager
async def busy_server(most: int = MOST, per_principal: int = 1_000) -> AsyncIterator[Busy]:
    """Serve the real contract with handlers that wait."""
    audit, credentials = Unaudited(), People()
    busy: Busy

    async def wait(_context: Any, **_arguments: Any) -> Reply:
        busy.inside += 1
        try:
            await busy.release.wait()
        finally:
            busy.inside -= 1
        raise RuntimeError("the handler failed")

    async def answer(_context: Any, **_arguments: Any) -> Reply:
        return Reply({})

    quick = {"get_liveness", "release_lease", "create_task", "get_me"}
    operations = {
        name: replace(bound, function=answer if name in quick else wait)
        for name, bound in INTERFACE.operations.items()
    }
    load = Load(most, per_principal)
    app = make_small_app(operations, load=load, audit=audit)
    app.pipeline.authenticator = credentials
    async with serve(app) as url:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=30) as client:
            busy = Busy(app, load, client, audit, credentials)
            try:
                yield busy
            finally:
                busy.release.set()
                for task in busy.asked:
                    with suppress(Exception):
                        await task
                load.stop()


async def test_principal_over_its_slots_is_refused_and_others_are_not() -> None:
    """429 too-many-concurrent with Retry-After: 1, for that principal only."""
    async with busy_server(most=100, per_principal=SLOTS) as busy:
        await busy.occupy(SLOTS, "user")
        refused = await busy.ask("GET", LISTING, "user")
        assert refused.status_code == 429
        assert refused.json()["code"] == "too-many-concurrent"
        assert refused.headers["Retry-After"] == "1"
        assert (await busy.ask("GET", "/api/v1/auth/me", "other")).status_code == 200
        assert busy.audit.recorded[0][1:] == (429, "too-many-concurrent")


async def test_agent_has_four_times_as_many_slots() -> None:
    """An agent reports for many leases at once."""
    async with busy_server(most=100, per_principal=SLOTS) as busy:
        await busy.occupy(4 * SLOTS, "agent")
        assert (await busy.ask("GET", LISTING, "agent")).status_code == 429


async def test_slots_come_back_after_failures() -> None:
    """A handler that raises gives back its slot as one that answers does."""
    async with busy_server(per_principal=SLOTS) as busy:
        await busy.occupy(SLOTS, "user")
        assert await busy.let_go() == [500] * SLOTS
        assert (await busy.ask("GET", "/api/v1/auth/me", "user")).status_code == 200
        assert busy.load.running == 0
        assert not busy.load._seats


async def test_slots_come_back_after_clients_have_gone() -> None:
    """A request whose client went away runs to its end and then gives back its slot."""
    async with busy_server(per_principal=SLOTS) as busy:
        await busy.occupy(SLOTS, "user")
        for task in busy.asked:
            task.cancel()
        await asyncio.wait(busy.asked)
        busy.asked.clear()
        assert busy.load._seats["usr_user"] == SLOTS
        busy.release.set()
        await eventually(lambda: busy.load.running == 0, "all have left")
        assert not busy.load._seats


async def test_refused_requests_hold_nothing() -> None:
    """Neither 401, 403, 404 nor 429 leaves anything behind."""
    async with busy_server(per_principal=SLOTS) as busy:
        await busy.occupy(SLOTS, "user")
        held = busy.load.running
        for path in (LISTING, "/nowhere", "/api/v1/tasks?limit=0"):
            await busy.ask("GET", path, "user")
        await busy.client.get(LISTING)
        assert busy.load.running == held
        assert busy.load._seats == {"usr_user": SLOTS}


async def test_claims_that_wait_hold_no_slot() -> None:
    """They are bounded by themselves, and neither count as running."""
    async with busy_server(per_principal=1) as busy:
        waiting = {"wait_seconds": 30}
        for _ in range(4):
            task = asyncio.create_task(busy.ask("POST", CLAIMING, "agent", json=waiting))
            busy.asked.append(task)
        await eventually(lambda: busy.inside == 4, "all claims wait")
        assert busy.load.running == 0
        assert (await busy.ask("POST", CLAIMING, "agent", json=waiting)).status_code == 429
        released = await busy.ask("POST", ENDING, "agent", json={"fence": 1})
        assert released.status_code == 200
        await busy.let_go()
        assert not busy.load._parked
        assert not busy.load._seats


async def test_claim_that_does_not_wait_holds_a_slot() -> None:
    """`wait_seconds: 0` is a request as any other."""
    async with busy_server(per_principal=1) as busy:
        asking = busy.ask("POST", CLAIMING, "agent", json={"wait_seconds": 0})
        busy.asked.append(asyncio.create_task(asking))
        await eventually(lambda: busy.inside == 1, "the claim runs")
        assert busy.load.running == 1


async def test_saturated_node_refuses_before_it_asks_who() -> None:
    """503 overloaded with Retry-After; no authentication, no record, no handler."""
    async with busy_server() as busy:
        await busy.occupy(MOST)
        asked = len(busy.credentials.asked)
        refused = await busy.ask("GET", LISTING)
        assert refused.status_code == 503
        problem = refused.json()
        assert problem["code"] == "overloaded"
        assert problem["instance"] == LISTING
        assert problem["request_id"] == refused.headers["X-Request-Id"]
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert 1 <= int(refused.headers["Retry-After"]) <= 3
        assert refused.headers["X-Content-Type-Options"] == "nosniff"
        assert refused.headers["Cache-Control"] == "no-store"
        assert len(busy.credentials.asked) == asked
        assert busy.audit.recorded == []
        assert busy.inside == MOST


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("GET", {"headers": {"Origin": "http://localhost:3000"}}),
        ("POST", {"content": b"x" * 100_000}),
    ],
)
async def test_what_the_gate_lets_through_is_refused_by_the_same_rule(
    method: str, request_: dict[str, Any]
) -> None:
    """Pages and long bodies get the same problem, and leave no record either."""
    async with busy_server() as busy:
        await busy.occupy(MOST)
        asked = len(busy.credentials.asked)
        path = LISTING if method == "GET" else "/api/v1/tasks"
        refused = await busy.ask(method, path, **request_)
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert len(busy.credentials.asked) == asked
        assert busy.audit.recorded == []
        assert busy.load.running == MOST


async def test_refused_connection_stays_open() -> None:
    """A client that is refused goes on with the same connection, also after a body."""
    async with busy_server() as busy:
        await busy.occupy(MOST)
        host, port = str(busy.client.base_url.host), busy.client.base_url.port
        reader, writer = await asyncio.open_connection(host, port)
        body = json.dumps({"name": "work"}).encode()
        head = f"POST /api/v1/tasks HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        statuses = []
        for _ in range(3):
            writer.write(head.encode() + body)
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            statuses.append(int(answer.split()[1]))
            (length,) = (
                int(line.split(b":")[1])
                for line in answer.splitlines()
                if line.lower().startswith(b"content-length")
            )
            assert json.loads(await reader.readexactly(length))["status"] == 503
        writer.write(b"HEAD /api/v1/tasks HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        rest = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert statuses == [503] * 3
        assert rest.startswith(b"HTTP/1.1 503 ")
        assert rest.endswith(b"\r\n\r\n")


async def test_order_of_shedding() -> None:
    """New work first, then everything, then what ends work; health never."""
    async with busy_server() as busy:
        task: dict[str, Any] = {"json": {"name": "work"}}
        await busy.occupy(MOST * 3 // 4)
        assert (await busy.ask("POST", "/api/v1/tasks", **task)).status_code == 503
        assert (await busy.ask("GET", "/api/v1/auth/me")).status_code == 200
        await busy.occupy(MOST // 4)
        assert (await busy.ask("GET", "/api/v1/auth/me")).status_code == 503
        assert (await busy.ask("GET", "/nowhere")).status_code == 503
        ending = await busy.ask("POST", ENDING, "agent", json={"fence": 1})
        assert ending.status_code == 200
        # Only what ends work gets in now.
        busy.asked += [
            asyncio.create_task(busy.ask("POST", "/api/v1/auth/logout", json={}))
            for _ in range(MOST)
        ]
        await eventually(lambda: busy.inside == 2 * MOST, "twice the limit is in use")
        ending = await busy.ask("POST", ENDING, "agent", json={"fence": 1})
        assert (ending.status_code, ending.json()["code"]) == (503, "overloaded")
        assert (await busy.ask("GET", "/health/live")).status_code == 200


async def test_logins_that_wait_for_hashing_are_no_reason_to_refuse_others() -> None:
    """They have a bounded queue of their own; a flood of them does not fill the node."""
    async with busy_server() as busy:
        body = {"username": "ann", "password": "correct horse battery staple"}
        busy.asked += [
            asyncio.create_task(busy.ask("POST", "/api/v1/auth/login", json=body))
            for _ in range(2 * MOST)
        ]
        await eventually(lambda: busy.inside == 2 * MOST, "all logins wait")
        assert busy.load.running == 0
        assert (await busy.ask("GET", "/api/v1/auth/me")).status_code == 200
        await busy.let_go()
        assert busy.load.running == 0


async def test_node_is_normal_again_when_the_requests_have_ended() -> None:
    """What was refused a moment ago is taken."""
    async with busy_server() as busy:
        await busy.occupy(MOST)
        assert (await busy.ask("GET", "/api/v1/auth/me")).status_code == 503
        await busy.let_go()
        assert (await busy.ask("GET", "/api/v1/auth/me")).status_code == 200


def call_of(operation: Operation, channel: str = "rest") -> Call:
    """A call on its way."""
    call = Call("aud_1", "req_1", channel, "127.0.0.1")
    call.operation = operation
    return call


async def test_report_on_a_link_is_counted_and_never_shed() -> None:
    """The link bounds its reports itself; other commands are shed as requests are."""
    load = Load(LEAST)
    for _ in range(2 * LEAST):
        load.admit(call_of(OPERATIONS["renew_lease"], "websocket"))
    with pytest.raises(Overloaded):
        load.admit(call_of(OPERATIONS["renew_lease"]))
    load.admit(call_of(OPERATIONS["renew_lease"], "websocket"))
    with pytest.raises(Overloaded):
        load.admit(call_of(OPERATIONS["get_me"], "websocket"))
    assert load.running == 2 * LEAST + 1
    load.stop()


async def test_commands_over_a_socket_take_slots_of_their_principal() -> None:
    """A command beyond the slots has the outcome that the request would be answered."""
    release = asyncio.Event()

    async def wait(_context: Any, **_arguments: Any) -> Reply:
        await release.wait()
        return Reply({})

    operations = {
        name: replace(bound, function=wait) for name, bound in INTERFACE.operations.items()
    }
    load = Load(100, SLOTS)
    invoker = Invoker(
        operations,
        None,  # type: ignore[arg-type] # no handler asks for them
        authorization=Authorization(Unset()),
        audit=Unaudited(),
        load=load,
        new_identifier=lambda prefix: f"{prefix}_1",
        new_call_id=lambda: "aud_1",
    )
    user = Principal("usr_1", "user", Role.USER, ROLE_PERMISSIONS[Role.USER])

    async def invoke() -> Any:
        return await invoker.invoke("get_me", user, "127.0.0.1", parameters={})

    running = [asyncio.create_task(invoke()) for _ in range(SLOTS)]
    await eventually(lambda: load.running == SLOTS, "all commands run")
    refused = await asyncio.wait_for(invoke(), 10)
    assert (refused.status, refused.code) == (429, "too-many-concurrent")
    release.set()
    assert [(await done).status for done in running] == [200] * SLOTS
    assert load.running == 0
    assert (await invoke()).status == 200
    load.stop()


def test_contract_says_who_is_shed_when() -> None:
    """Health never; the data plane of agents last, except that claims take work."""
    order = {name: shed_of(operation) for name, operation in OPERATIONS.items()}
    health = {name for name, shed in order.items() if shed is Shed.NEVER}
    assert health == {"get_liveness", "get_readiness"}
    plane = {n for n, o in OPERATIONS.items() if o.extensions["x-rate-limit"] == "agent"}
    assert {name for name in plane if order[name] is not Shed.LAST} == {"claim_leases"}
    assert order["create_task"] is Shed.FIRST
    declared = {o.extensions.get("x-shed", "normal") for o in OPERATIONS.values()}
    assert declared <= {shed.name.lower() for shed in Shed}


def test_what_can_be_refused_is_declared() -> None:
    """An operation that can be shed declares 503, one that has a principal 429."""
    for name, operation in OPERATIONS.items():
        if shed_of(operation) is not Shed.NEVER:
            assert 503 in operation.responses, name
            assert 429 in operation.responses or operation.public, name


def test_refusals_name_when_to_come_back() -> None:
    """Both are problems with Retry-After."""
    for error, status in (
        (Overloaded(retry_after_seconds=3), 503),
        (TooManyConcurrent(retry_after_seconds=1), 429),
    ):
        problem = build_problem(error, instance="/", request_id="req_1")
        assert problem.status == status
        assert int(problem.headers["Retry-After"]) > 0
