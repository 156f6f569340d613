"""Injection, strict JSON, spellings of paths and limits, for every operation of the contract.

The pipeline is the product's, on a real socket; behind it stands a recorder instead of the
handlers, so that a request that should have been refused is seen to get through.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest
import pytest_asyncio

from handlers.context import Context, Reply
from hive.raw_json import RawJson
from server.binding import BoundOperation
from server.contract import Operation
from tests.contract.hostile import (
    Attack,
    example_body,
    example_bytes,
    example_target,
    json_attacks,
    key_attacks,
    method_attacks,
    operator_attacks,
    path_attacks,
    path_of,
    size_attacks,
)
from tests.contract.running import make_small_app, serve
from tests.contracts import our_contract

pytestmark = pytest.mark.asyncio(loop_scope="module")
MAX_BODY_BYTES = 256 * 1024
CONTRACT = our_contract()
OPERATIONS = [pytest.param(one, id=one.operation_id) for one in CONTRACT.operations.values()]
WITH_BODY = [
    pytest.param(one, id=one.operation_id) for one in CONTRACT.operations.values() if one.body
]
RAW = [
    pytest.param(one, name, id=f"{one.operation_id}-{name}")
    for one in CONTRACT.operations.values()
    if one.body
    for name in sorted(one.body.raw_members)
]


class Recorder:
    """Stands in for every handler and remembers what got through."""

    def __init__(self) -> None:
        self.reached: list[tuple[str, dict[str, Any]]] = []

    def bind(self, operation: Operation) -> BoundOperation:
        """Bind the operation to this recorder."""

        async def reach(_: Context, **arguments: Any) -> Reply:
            self.reached.append((operation.operation_id, arguments))
            return Reply({})

        return BoundOperation(operation, reach)


@pytest.fixture(scope="module")
def stand_in() -> Recorder:
    """The one recorder."""
    return Recorder()


@pytest.fixture
def recorder(stand_in: Recorder) -> Recorder:
    """What got through in this test."""
    stand_in.reached.clear()
    return stand_in


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def base(stand_in: Recorder) -> AsyncIterator[str]:
    """The base URL of the product's pipeline with the recorder behind it."""
    operations = {name: stand_in.bind(each) for name, each in CONTRACT.operations.items()}
    app = make_small_app(operations, max_body_bytes=MAX_BODY_BYTES)
    async with serve(app) as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def anybody(base: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a credential."""
    async with httpx.AsyncClient(base_url=base) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(base: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client that may do everything."""
    headers = {"Authorization": "Bearer everything"}
    async with httpx.AsyncClient(base_url=base, headers=headers) as client:
        yield client


async def _send_all(client: httpx.AsyncClient, attacks: list[Attack]) -> None:
    for attack in attacks:
        await attack.send(client)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_the_example_gets_through(
    client: httpx.AsyncClient, recorder: Recorder, operation: Operation
) -> None:
    """The tests below would prove nothing if nothing got through."""
    await Attack(
        "example",
        operation.method,
        example_target(operation),
        frozenset({operation.success.status}),
        example_bytes(operation),
    ).send(client)
    ((reached, arguments),) = recorder.reached
    assert reached == operation.operation_id
    assert arguments.keys() == operation.argument_names


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_operators_reach_no_handler(
    client: httpx.AsyncClient, recorder: Recorder, operation: Operation
) -> None:
    """`{"$gt": ""}` and its like in each slot are refused by the contract."""
    await _send_all(client, list(operator_attacks(CONTRACT, operation)))
    assert recorder.reached == []


@pytest.mark.parametrize("operation", WITH_BODY)
async def test_hostile_keys_reach_no_handler(
    client: httpx.AsyncClient, recorder: Recorder, operation: Operation
) -> None:
    """A declared object takes declared keys only."""
    await _send_all(client, list(key_attacks(CONTRACT, operation)))
    assert recorder.reached == []


@pytest.mark.parametrize(("operation", "name"), RAW)
async def test_free_form_values_arrive_byte_for_byte(
    client: httpx.AsyncClient, recorder: Recorder, operation: Operation, name: str
) -> None:
    """Any key, any spelling; never interpreted."""
    values = [
        b'{"$x":1,"a.b":2,"":3,"\\u0000":4,"__proto__":{},"$where":"sleep(2000)||1"}',
        b'{"' + b".".join([b"a"] * 256) + b'": 1e5 }',
        b'{"' + b"k" * 32_000 + b'":1.50}',
        b"{" + b",".join(b'"%d":0' % n for n in range(5_000)) + b"}",
        b" [ 1 , 2.0,\n-0 ] ",
        b'"\\u0041\\/"',
        b"null",
    ]
    body = example_body(operation)
    body.pop(name, None)
    for value in values:
        start = (
            example_bytes(operation) if not body else httpx.Request("POST", "/", json=body).content
        )
        assert start is not None
        encoded = start[:-1] + b',"%s":%s}' % (name.encode(), value)
        accepted = frozenset({operation.success.status})
        await Attack(name, operation.method, path_of(operation), accepted, encoded).send(client)
        assert recorder.reached[-1][1]["body"][name] == RawJson(value.strip())


@pytest.mark.parametrize("operation", WITH_BODY)
async def test_ambiguous_json_reaches_no_handler(
    client: httpx.AsyncClient, recorder: Recorder, operation: Operation
) -> None:
    """One answer for all of it, 400."""
    await _send_all(client, list(json_attacks(operation)))
    assert recorder.reached == []


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_another_spelling_of_the_path_bypasses_nothing(
    anybody: httpx.AsyncClient, recorder: Recorder, operation: Operation
) -> None:
    """Without a credential, nothing but 401, 404 and 405."""
    await _send_all(anybody, list(path_attacks(operation)))
    assert recorder.reached == []


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_another_method_is_refused_with_allow(
    client: httpx.AsyncClient, recorder: Recorder, operation: Operation
) -> None:
    """405 names what the path allows, and no header changes the method."""
    for attack in method_attacks(CONTRACT, operation):
        answer = await attack.send(client)
        assert operation.method in answer.headers["Allow"].split(", ")
    assert recorder.reached == []


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_trailing_slash_redirects_to_the_canonical_path(
    anybody: httpx.AsyncClient, recorder: Recorder, operation: Operation
) -> None:
    """307 keeps method and query, and never leads to another host."""
    path = path_of(operation)
    answer = await anybody.request(operation.method, f"{path}/?a=b&c=%2F")
    assert answer.status_code == 307
    assert answer.headers["Location"] == f"{path}?a=b&c=%2F"
    assert recorder.reached == []


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_one_more_than_a_limit_is_refused(
    client: httpx.AsyncClient, recorder: Recorder, operation: Operation
) -> None:
    """413 and 414, and the connection lives on; 431 ends it."""
    for attack in size_attacks(operation, max_body_bytes=MAX_BODY_BYTES):
        answer = await attack.send(client)
        assert ("Connection" in answer.headers) == (answer.status_code == 431), attack.name
    assert recorder.reached == []


@pytest.mark.parametrize(
    "operation", [one for one in OPERATIONS if not cast("Operation", one.values[0]).public]
)
async def test_authentication_comes_before_everything_that_it_protects(
    anybody: httpx.AsyncClient, recorder: Recorder, operation: Operation
) -> None:
    """Neither a bad body nor a bad parameter is looked at before 401; the role before 400."""
    path = path_of(operation)
    answer = await anybody.request(
        operation.method, f"{path}?unknown=1", content=b"{", headers={"Content-Type": "text/plain"}
    )
    assert (answer.status_code, answer.json()["detail"]) == (401, "Not authenticated")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert recorder.reached == []
