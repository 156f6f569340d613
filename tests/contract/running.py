"""A server of any contract on an ephemeral port, for tests of the pipeline."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

from tornado.netutil import bind_sockets
from typeid import TypeID

from hive.errors import InvalidToken, TokenExpired
from hive.permissions import PERMISSIONS, ROLE_PERMISSIONS, Principal, Role
from hive.system_settings import SystemSettings
from server.app import HiveApplication, make_app, make_http_server
from server.authorization import Authorization
from server.binding import BoundOperation, bind
from server.contract import Contract
from server.pipeline import Call

FIXTURES = Path(__file__).parent / "fixtures"
HANDLERS = "tests.contract.fixtures.small"


class Credentials:
    """An authenticator that knows one credential per role; the credential is the role's name."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def authenticate(self, bearer: str, address: str | None = None) -> Principal:
        """`everything` may do everything."""
        del address
        self.asked.append(bearer)
        if bearer == "expired":
            raise TokenExpired
        if bearer == "everything":
            return Principal("usr_0", "everything", Role.ADMIN, PERMISSIONS)
        try:
            role = Role(bearer)
        except ValueError:
            raise InvalidToken from None
        return Principal(f"usr_{bearer}", bearer, role, ROLE_PERMISSIONS[role])


def load_small() -> Contract:
    """The small contracts of the fixtures."""
    return Contract.load(FIXTURES / "openapi.yaml", FIXTURES / "asyncapi.yaml")


class Unsigned:
    """Asks for no signature."""

    async def check(self, *_: Any) -> bool:
        """Say that there is none."""
        return False


class Unset:
    """Settings of the system that nobody has changed."""

    current = SystemSettings()


class Unaudited:
    """Keeps no records, but notes the calls."""

    def __init__(self) -> None:
        self.recorded: list[tuple[Call, int, str | None]] = []

    async def admit(self, call: Call) -> None:
        """Let it through."""

    async def record(self, call: Call, status: int, code: str | None) -> None:
        """Note it."""
        self.note(call, status, code)

    def note(self, call: Call, status: int, code: str | None) -> None:
        """Note it."""
        self.recorded.append((call, status, code))


def make_small_app(operations: Mapping[str, BoundOperation], **options: Any) -> HiveApplication:
    """An application without stores: no services, no signatures, no audit log."""
    parts: dict[str, Any] = {
        "authorization": Authorization(Unset()),
        "signatures": Unsigned(),
        "audit": Unaudited(),
        "new_call_id": lambda: str(TypeID("aud")),
    }
    return make_app(operations, cast("Any", None), Credentials(), **{**parts, **options})


@cache
def bind_small() -> dict[str, BoundOperation]:
    """The small contract and its handlers, bound once for all tests."""
    return bind(load_small(), HANDLERS)


@asynccontextmanager
async def serve_small(**options: Any) -> AsyncIterator[tuple[HiveApplication, str]]:
    """Serve the small contract; give the application and its base URL."""
    app = make_small_app(bind_small(), **options)
    async with serve(app) as base:
        yield app, base


@asynccontextmanager
async def serve(app: HiveApplication, **options: Any) -> AsyncIterator[str]:
    """Serve the application on an ephemeral port of the loopback; give its base URL."""
    server = make_http_server(app, **options)
    (listening,) = bind_sockets(0, "127.0.0.1", family=socket.AF_INET)
    server.add_sockets([listening])
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.stop()
        await server.close_all_connections()
