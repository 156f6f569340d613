"""Pages: stable while others insert and delete, bound to their filters, in either order."""

from __future__ import annotations

import random
import uuid
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio

from server.contract import Operation
from tests.api.operations import CONTRACT, Existing, make_existing
from tests.api.running import Api, RunningNode

pytestmark = pytest.mark.asyncio(loop_scope="module")

LISTS = [
    pytest.param(one, id=one.operation_id)
    for one in CONTRACT.operations.values()
    if one.operation_id.startswith("list_")
]
SEEDS = [
    (1, "asc"),
    (2, "desc"),
    *(
        pytest.param(seed, order, marks=pytest.mark.soak)
        for seed in range(3, 53)
        for order in ("asc", "desc")
    ),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def existing(node: RunningNode, admin: Api, user: Api) -> Existing:
    """One of each resource."""
    return await make_existing(node, admin, user)


@pytest.mark.parametrize(("seed", "order"), SEEDS)
async def test_pages_show_once_what_was_there_all_the_time(
    node: RunningNode, admin: Api, seed: int, order: str
) -> None:
    """Agents come and go between any two pages; none of the others is missed or repeated."""
    chance = random.Random(seed)
    kind = f"kind-{uuid.uuid4().hex[:12]}"
    there = [(await node.add_agent(admin, agent_type=kind)).agent_id for _ in range(9)]
    gone: set[str] = set()
    shown: list[str] = []
    following: str | None = f"/api/v1/agents?agent_type={kind}&order={order}&limit=3"
    while following is not None:
        page = await admin.get(following)
        shown += [agent["agent_id"] for agent in page.json()]
        following = page.links.get("next", {}).get("url")
        if chance.random() < 0.7:
            await node.add_agent(admin, agent_type=kind)
        if chance.random() < 0.7:
            # Also the last one of the page, which the cursor names.
            victim = shown[-1] if chance.random() < 0.5 else chance.choice(there)
            if victim not in gone:
                gone.add(victim)
                await admin.ok("DELETE", f"/api/v1/agents/{victim}")
        assert len(shown) < 100
    assert len(shown) == len(set(shown))
    assert set(there) - gone <= set(shown)
    assert shown == sorted(shown, reverse=order == "desc")


@pytest.mark.parametrize("operation", LISTS)
async def test_pages_lead_on_and_back_to_the_first(
    admin: Api, existing: Existing, operation: Operation
) -> None:
    """`next` on all pages but the last, `first` on all but the first; both keep the query."""
    target = existing.target(operation)
    first = await admin.get(f"{target}?limit=1")
    assert "first" not in first.links
    if "next" not in first.links:
        return
    second = await admin.get(first.links["next"]["url"])
    assert second.status_code == 200
    assert second.json() != first.json()
    back = parse_qs(urlsplit(second.links["first"]["url"]).query)
    assert back["limit"] == ["1"]
    assert "cursor" not in back


@pytest.mark.parametrize(
    "other",
    ["order=asc&", "status=queued&", "priority=low&", "name=a&", "label=a:b&", "owner=usr_1&"],
)
async def test_cursor_is_good_for_its_filters_and_order_only(
    admin: Api, user: Api, other: str
) -> None:
    """With others, it would point to a place in another list."""
    for _ in range(2):
        await user.submit()
    page = await admin.get("/api/v1/tasks?limit=1")
    cursor = parse_qs(urlsplit(page.links["next"]["url"]).query)["cursor"][0]
    problem = await admin.refused(400, "GET", f"/api/v1/tasks?{other}cursor={cursor}")
    assert problem["code"] == "malformed-cursor"
    for harmless in ("", "limit=7&", "fields=name&"):
        await admin.ok("GET", f"/api/v1/tasks?{harmless}cursor={cursor}")


async def test_cursor_of_one_list_is_none_of_another(
    admin: Api, user: Api, existing: Existing
) -> None:
    """Nor of the same list of somebody else."""
    for _ in range(2):
        await user.submit()
    page = await admin.get("/api/v1/tasks?limit=1")
    cursor = parse_qs(urlsplit(page.links["next"]["url"]).query)["cursor"][0]
    for param in LISTS:
        (operation,) = param.values
        assert isinstance(operation, Operation)
        if operation.operation_id != "list_tasks":
            target = f"{existing.target(operation)}?cursor={cursor}"
            await admin.refused(400, "GET", target)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("label=team:blue", "ab"),
        ("label=team:blue&label=env:prod", "b"),
        ("label=team:red", "c"),
        ("label=team:", "d"),
        ("label=url:http://x", "d"),
        ("label=team:none", ""),
        ("label=team:blue&priority=high", "a"),
        ("label=team:blue&order=asc", "ab"),
    ],
)
async def test_labels_select_tasks(admin: Api, user: Api, query: str, names: str) -> None:
    """All of those that are given have to be there, with exactly their values."""
    mark = uuid.uuid4().hex
    for name, labels in {
        "a": {"team": "blue"},
        "b": {"team": "blue", "env": "prod"},
        "c": {"team": "red"},
        "d": {"team": "", "url": "http://x"},
    }.items():
        priority = "high" if name == "a" else "low"
        await user.submit(name=name, priority=priority, labels={**labels, "mark": mark})
    listed = await admin.pages(f"/api/v1/tasks?{query}&label=mark:{mark}&limit=1")
    order = 1 if "asc" in query else -1
    assert "".join(task["name"] for task in listed)[::order] == names


async def test_capabilities_and_labels_select_agents(node: RunningNode, admin: Api) -> None:
    """One of the agent's capabilities is this one, and it has all the labels."""
    mark = uuid.uuid4().hex
    one = await node.add_agent(admin, capabilities=["cpu", "gpu"], labels={"mark": mark})
    two = await node.add_agent(admin, capabilities=["cpu"], labels={"mark": mark, "zone": "eu"})
    for query, wanted in (
        ("capability=gpu", [one]),
        ("capability=cpu", [one, two]),
        ("capability=cpu&order=desc", [two, one]),
        ("label=zone:eu", [two]),
        ("capability=gpu&label=zone:eu", []),
    ):
        listed = await admin.pages(f"/api/v1/agents?{query}&label=mark:{mark}&limit=1")
        assert [agent["agent_id"] for agent in listed] == [agent.agent_id for agent in wanted]


@pytest.mark.parametrize("label", ["", "a", ":b", "a.b:c", "$a:b", "a:\x01", "a:" + "b" * 201])
async def test_what_is_no_label_is_refused(admin: Api, label: str) -> None:
    """Keys have no dots and no dollars, so that none is a path or an operator."""
    for path in ("/api/v1/tasks", "/api/v1/agents"):
        await admin.refused(400, "GET", path, params={"label": label})
