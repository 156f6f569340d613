"""`fields`: what a client wants to see of the items of a list, and nothing else."""

from __future__ import annotations

import pytest
import pytest_asyncio

from hive.ports import ItemFields
from server.contract import Operation
from tests.api.operations import CONTRACT, Existing, make_existing
from tests.api.running import Api, RunningNode

pytestmark = pytest.mark.asyncio(loop_scope="module")

LISTS = [
    pytest.param(one, id=one.operation_id)
    for one in CONTRACT.operations.values()
    if one.operation_id.startswith("list_")
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def existing(node: RunningNode, admin: Api, user: Api) -> Existing:
    """One of each resource, and a task that waits for an agent that there is not."""
    await user.submit(required_capabilities=["nobody-can"])
    return await make_existing(node, admin, user)


def items_of(operation: Operation) -> ItemFields:
    """What the contract says of the items."""
    assert operation.item_fields is not None
    return operation.item_fields


async def test_every_list_takes_fields() -> None:
    """And nothing else does."""
    taking = {one.operation_id for one in CONTRACT.operations.values() if one.selects_fields}
    assert taking == {one.id for one in LISTS}


@pytest.mark.parametrize("operation", LISTS)
async def test_items_have_what_was_asked_for(
    admin: Api, existing: Existing, operation: Operation
) -> None:
    """Some names alone, with what the items always have; the referee finds it valid."""
    target, items = existing.target(operation), items_of(operation)
    full = await admin.ok("GET", f"{target}?limit=3")
    assert full
    for name in (items.known[0], items.known[len(items.known) // 2], items.known[-1]):
        some = await admin.ok("GET", f"{target}?limit=3&fields={name}")
        for item in some:
            assert items.required <= item.keys() <= items.required | {name}
    every = await admin.ok("GET", f"{target}?limit=1&fields={','.join(items.known)}")
    assert every[0].keys() <= set(items.known)


@pytest.mark.parametrize("operation", LISTS)
async def test_another_name_is_refused(
    admin: Api, existing: Existing, operation: Operation
) -> None:
    """400 with the names that there are; also without an item, and not when there is no name."""
    target, items = existing.target(operation), items_of(operation)
    for fields in ("nothing_like_it", f"{items.known[0]},nothing_like_it"):
        problem = await admin.refused(400, "GET", f"{target}?fields={fields}")
        assert problem["code"] == "unknown-field"
        assert all(name in problem["detail"] for name in ("nothing_like_it", *items.known))
    for fields in ("", ",", "Name", "name,", "a&fields=b", "$where", "a.b", "__proto__." * 9):
        await admin.refused(400, "GET", f"{target}?fields={fields}")


async def test_pages_that_follow_have_the_same_fields(admin: Api, user: Api) -> None:
    """`Link` says them again; another selection is another representation."""
    for _ in range(3):
        await user.submit(name="selected", labels={"team": "blue"})
    path = "/api/v1/tasks?name=selected&limit=1"
    first = await admin.get(f"{path}&fields=log_count,name")
    second = await admin.get(first.links["next"]["url"])
    assert first.json()[0].keys() == second.json()[0].keys()
    assert "log_count" in second.json()[0]
    assert (await admin.get(path)).headers["ETag"] != first.headers["ETag"]


async def test_a_name_that_is_asked_for_twice_is_there_once(admin: Api, user: Api) -> None:
    """Nothing is wrong with it."""
    await user.submit()
    (item,) = await admin.ok("GET", "/api/v1/tasks?limit=1&fields=name,name")
    assert item["name"]
