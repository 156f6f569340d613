"""Injection, strict JSON, spellings of paths and limits: hostile requests change nothing.

The generators are those of the contract engine's tests, which show that no handler is reached.
Here the stores are behind it: identifiers name what exists, and MongoDB is looked at.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from pymongo import MongoClient, monitoring

from server.contract import Operation
from server.request_heads import MAX_HEADER_BYTES
from tests.api.operations import CONTRACT, OPERATIONS, Existing, make_existing
from tests.api.running import Api, RunningNode, found, running_node
from tests.contract.hostile import (
    OPERATORS,
    Attack,
    json_attacks,
    key_attacks,
    method_attacks,
    methods_of,
    operator_attacks,
    path_attacks,
    size_attacks,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
HIVE_COLLECTIONS = ("agents", "tasks", "task_logs")
# When a credential was used last changes with every use.
IDENTITY_TABLES = {
    "users": "*",
    "sessions": "session_id, user_id, revoked_at",
    "api_keys": "key_id, name, owner_id, agent_id, role, scopes, expires_at, revoked_at",
    "signing_keys": "signing_key_id, owner_id, revoked_at",
    "token_keys": "kid, algorithm, verifies_until",
    "system_settings": "*",
}
# What storage itself says to MongoDB. Operators that run code or patterns are not among them.
ALLOWED_OPERATORS = frozenset(
    {"$eq", "$gt", "$gte", "$lt", "$lte", "$ne", "$in", "$nin", "$exists", "$elemMatch"}
    | {"$expr", "$and", "$or", "$cond", "$ifNull", "$literal", "$add", "$subtract", "$multiply"}
    | {"$divide", "$min", "$not", "$toDate", "$toLong", "$setIsSubset"}
    | {"$concat", "$toString", "$arrayToObject", "$objectToArray", "$concatArrays", "$slice"}
    | {"$filter", "$mergeObjects", "$size", "$max", "$sum"}
    | {"$set", "$unset", "$setOnInsert", "$inc", "$match", "$group", "$project", "$sort", "$limit"}
)
NAMES = list(CONTRACT.operations)
SHARES = 5
WITH_BODY = [
    pytest.param(one, id=one.operation_id) for one in CONTRACT.operations.values() if one.body
]


def _each_with_a_caller() -> Iterator[Any]:
    """Every operation with one of the callers here; with the others in the long tests."""
    callers = ("anonymous", "viewer", "admin")
    for (number, name), caller in itertools.product(enumerate(NAMES), callers):
        marks = () if callers[number % len(callers)] == caller else pytest.mark.more
        yield pytest.param(CONTRACT.operations[name], caller, id=f"{name}-{caller}", marks=marks)


class Commands(monitoring.CommandListener):
    """Remembers the operators of the commands that were sent while it listens."""

    def __init__(self) -> None:
        self.listens = False
        self.operators: set[str] = set()

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Take the operators of a command, but for the change stream's own pipeline."""
        if self.listens and event.command_name != "getMore":
            self.operators.update(operators_of(event.command))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing to take."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing to take."""


def operators_of(value: Any) -> Iterator[str]:
    """Keys that begin with `$`, except those of the protocol and of what is a literal."""
    if isinstance(value, Mapping):
        for key, member in value.items():
            if key.startswith("$") and key not in ("$db", "$clusterTime", "$readPreference"):
                yield key
            if key not in ("$literal", "$clusterTime"):
                yield from operators_of(member)
    elif isinstance(value, list | tuple):
        for member in value:
            yield from operators_of(member)


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    """What the node says to MongoDB; clients that are opened from now on are listened to."""
    listener = Commands()
    listeners = monitoring._LISTENERS
    monitoring.register(listener)
    yield listener
    listeners.command_listeners.remove(listener)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(
    tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str, commands: Commands
) -> AsyncIterator[RunningNode]:
    """The product, with an ear on its talk with MongoDB."""
    # Long periods: nothing expires by itself while the tests look for changes.
    periods = {"lease_seconds": 3_600, "agent_timeout_seconds": 3_600}
    async with running_node(tmp_path_factory.mktemp("node"), mongodb_uri, **periods) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def existing(node: RunningNode, admin: Api) -> Existing:
    """What the hostile requests name, once it has come to rest."""
    existing = await make_existing(node, admin, admin)
    path = f"/api/v1/agents/{existing.agent.agent_id}"
    await found(
        lambda: admin.ok("GET", path), lambda seen: seen["status"] == "busy", "the agent is busy"
    )
    return existing


@pytest.fixture(scope="module")
def strangers(node: RunningNode, admin: Api, viewer: Api) -> dict[str, Api]:
    """Clients for paths that are not in the contract, which has nothing to say about them."""
    credentials = {"admin": admin.credential, "viewer": viewer.credential, "anonymous": None}
    return {name: node.client(given, judged=False) for name, given in credentials.items()}


@pytest.fixture
def unchanged(
    node: RunningNode, existing: Existing, mongodb_client: MongoClient[dict[str, Any]]
) -> Iterator[None]:
    """Compare all that the hive and the identities are before and after."""
    database = mongodb_client[node.settings.mongodb_database]

    def look() -> dict[str, list[Any]]:
        seen = {name: list(database[name].find(sort=[("_id", 1)])) for name in HIVE_COLLECTIONS}
        with closing(sqlite3.connect(node.directory.sqlite_path)) as sql:
            for table, columns in IDENTITY_TABLES.items():
                rows = sql.execute(f"SELECT {columns} FROM {table} ORDER BY 1")
                seen[table] = rows.fetchall()
        return seen

    before = look()
    yield
    assert look() == before


def on(existing: Existing, operation: Operation, attacks: Iterable[Attack]) -> Iterator[Attack]:
    """The attacks on what exists instead of on what is unknown."""
    for attack in attacks:
        values = itertools.cycle(existing.values(operation) or ["none"])
        target = re.sub(r"\bunknown\b", lambda _: next(values), attack.target)  # noqa: B023
        yield replace(attack, target=target)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_operators_are_refused(
    admin: Api, existing: Existing, commands: Commands, operation: Operation
) -> None:
    """400 or 422 for an operator in a slot, and none gets to MongoDB; one in five of them here."""
    first = NAMES.index(operation.operation_id) % SHARES
    attacks = itertools.islice(operator_attacks(CONTRACT, operation), first, None, SHARES)
    await _withstands(admin, commands, on(existing, operation, attacks))


@pytest.mark.more
@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_every_operator_is_refused(
    admin: Api, existing: Existing, commands: Commands, operation: Operation
) -> None:
    """All of the operators in all of the slots."""
    attacks = operator_attacks(CONTRACT, operation)
    await _withstands(admin, commands, on(existing, operation, attacks))


async def _withstands(admin: Api, commands: Commands, attacks: Iterable[Attack]) -> None:
    """Each is refused, and MongoDB hears of none."""
    commands.operators.clear()
    commands.listens = True
    for attack in attacks:
        await attack.send(admin)
    commands.listens = False
    assert commands.operators <= ALLOWED_OPERATORS


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("operation", WITH_BODY)
async def test_hostile_keys_are_refused(
    admin: Api, existing: Existing, operation: Operation
) -> None:
    """A declared object takes declared keys only."""
    for attack in on(existing, operation, key_attacks(CONTRACT, operation)):
        await attack.send(admin)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("operation", WITH_BODY)
async def test_ambiguous_json_is_refused(
    admin: Api, existing: Existing, operation: Operation
) -> None:
    """JSON without one meaning is a 400 problem."""
    for attack in on(existing, operation, json_attacks(operation)):
        await attack.send(admin)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(("operation", "caller"), list(_each_with_a_caller()))
async def test_other_spellings_of_a_path_are_nothing(
    strangers: dict[str, Api], existing: Existing, operation: Operation, caller: str
) -> None:
    """No spelling but the canonical one reaches an operation, whoever asks."""
    for attack in on(existing, operation, path_attacks(operation)):
        withstood = attack.withstood | {403}
        await replace(attack, withstood=withstood).send(strangers[caller])


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_other_methods_are_405_with_allow(
    admin: Api, existing: Existing, operation: Operation
) -> None:
    """TRACE and the rest, HEAD where there is no GET; a header makes no other method of them."""
    declared = methods_of(CONTRACT, operation)
    for attack in on(existing, operation, method_attacks(CONTRACT, operation)):
        answer = await attack.send(admin)
        assert set(answer.headers["Allow"].split(", ")) == declared


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_one_more_than_a_limit_is_refused(
    node: RunningNode, admin: Api, existing: Existing, operation: Operation
) -> None:
    """413, 414 and 431."""
    limit = node.settings.max_body_bytes
    for attack in on(existing, operation, size_attacks(operation, max_body_bytes=limit)):
        await attack.send(admin)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_too_many_bytes_of_headers_are_refused(
    node: RunningNode, admin: Api, existing: Existing, operation: Operation
) -> None:
    """Over 16 KiB of headers nothing is looked at, and the connection ends."""
    head = [
        f"{operation.method} {existing.target(operation)} HTTP/1.1",
        f"Authorization: Bearer {admin.credential}",
        "X-Padding: " + "a" * MAX_HEADER_BYTES,
    ]
    answer = await raw_answer(node, head)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"\r\nConnection: close\r\n" in answer
    assert b'"code":"headers-too-large"' in answer


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_huge_body_is_refused_before_it_is_sent(
    node: RunningNode, admin: Api, existing: Existing, operation: Operation
) -> None:
    """Of 100 MB that are announced, here and to a path that is none, nothing is read."""
    for target in (existing.target(operation), "/nowhere"):
        head = [
            f"{operation.method} {target} HTTP/1.1",
            f"Authorization: Bearer {admin.credential}",
            "Content-Type: application/json",
            "Content-Length: 100000000",
        ]
        answer = await raw_answer(node, head)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"\r\nConnection: close\r\n" in answer
        assert b'"code":"content-too-large"' in answer


@pytest.mark.parametrize(
    ("path", "name"),
    [("tasks", "name"), ("tasks", "owner"), ("tasks", "agent_id"), ("events", "subject")],
)
async def test_text_of_an_operator_is_text(
    admin: Api, commands: Commands, path: str, name: str
) -> None:
    """A filter that looks like an operator is compared as the text that it is."""
    commands.operators.clear()
    commands.listens = True
    await admin.submit(name="another")
    for value in OPERATORS:
        listed = await admin.ok("GET", f"/api/v1/{path}", params={name: str(value)[:60]})
        assert listed == []
    commands.listens = False
    assert {"$eq", "$literal"} <= commands.operators <= ALLOWED_OPERATORS


async def test_task_named_like_an_operator_is_found_by_its_name(admin: Api) -> None:
    """As a text it is as good as any other."""
    task_id = await admin.submit(
        name='{"$ne": null}',
        description="$where",
        labels={"a": "$name"},
        concurrency={"key": "$$ROOT", "limit": 1},
    )
    (task,) = await admin.ok("GET", "/api/v1/tasks", params={"name": '{"$ne": null}'})
    assert task["task_id"] == task_id
    task = await admin.task(task_id)
    assert task["description"] == "$where"
    assert task["labels"] == {"a": "$name"}
    assert task["concurrency"]["key"] == "$$ROOT"


async def raw_answer(node: RunningNode, head: list[str]) -> bytes:
    """All that comes back for a head, until the server closes the connection."""
    host, port = node.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        lines = [head[0], "Host: a", *head[1:], "", ""]
        writer.write("\r\n".join(lines).encode())
        with suppress(ConnectionError):
            return await asyncio.wait_for(reader.read(), 10)
        return b""
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
