"""A client sets what the contract lets it set, and nothing else (bar Z3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

import pytest
import pytest_asyncio

from server.contract import JSON, Operation
from tests.api.operations import CONTRACT, Existing, make_existing
from tests.api.running import Api, RunningNode
from tests.contract.hostile import ANY_VERSION, example_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

WITH_BODY: Final = [
    pytest.param(one, id=one.operation_id) for one in CONTRACT.operations.values() if one.body
]
SHARES: Final = 20
INTERNAL: Final = frozenset(
    {"_id", "$set", "$where", "__proto__", "constructor", "password_hash", "key_hash", "is_admin"}
    | {"owner_id", "event", "lease", "revoked_at", "permissions", "admin", "tenant", "user.role"}
)


def resolve(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a `$ref` points to, or the schema."""
    while "$ref" in schema:
        schema = CONTRACT.openapi["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def declared_names() -> frozenset[str]:
    """Every property that any schema of the contract knows."""
    schemas = CONTRACT.openapi["components"]["schemas"].values()
    return frozenset(name for schema in schemas for name in schema.get("properties", ()))


def assignments(operation: Operation, names: AbstractSet[str]) -> Iterator[dict[str, Any]]:
    """The example of the operation with one property that it does not take."""
    schema = resolve(operation.document["requestBody"]["content"][JSON]["schema"])
    for name in sorted(names - set(schema["properties"])):
        yield {**example_body(operation), name: "admin"}


def share_of(operation: Operation) -> frozenset[str]:
    """Those that nobody declares, and one in 20 of the others: other ones for each operation."""
    first = [one.id for one in WITH_BODY].index(operation.operation_id) % SHARES
    return INTERNAL | frozenset(sorted(declared_names())[first::SHARES])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def existing(node: RunningNode, admin: Api) -> Existing:
    """What the requests name."""
    return await make_existing(node, admin, admin)


@pytest.mark.parametrize("operation", WITH_BODY)
async def test_undeclared_property_is_refused(
    admin: Api, existing: Existing, operation: Operation
) -> None:
    """400 for what the server decides, what another schema has, and what nobody knows."""
    target = existing.target(operation)
    for body in assignments(operation, share_of(operation)):
        await admin.refused(400, operation.method, target, json=body, headers=ANY_VERSION)


@pytest.mark.more
@pytest.mark.parametrize("operation", WITH_BODY)
async def test_every_undeclared_property_is_refused(
    admin: Api, existing: Existing, operation: Operation
) -> None:
    """Whatever any schema of the contract declares, and this one does not."""
    target = existing.target(operation)
    for body in assignments(operation, declared_names()):
        await admin.refused(400, operation.method, target, json=body, headers=ANY_VERSION)


@pytest.mark.parametrize("operation", WITH_BODY)
async def test_schema_is_closed_at_every_depth(operation: Operation) -> None:
    """An object of a request takes declared members, or is declared to be free-form or a map."""
    open_places = list(open_objects(operation.document["requestBody"]["content"][JSON]["schema"]))
    assert open_places == []


def open_objects(schema: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """Where an object is not closed."""
    schema = resolve(schema)
    if schema.get("x-raw-json"):
        return
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        values = schema.get("additionalProperties")
        if not isinstance(values, dict) or "x-key-pattern" not in schema:
            yield place or "/"
    for name, member in schema.get("properties", {}).items():
        yield from open_objects(member, f"{place}/{name}")
    if "items" in schema:
        yield from open_objects(schema["items"], f"{place}/*")
