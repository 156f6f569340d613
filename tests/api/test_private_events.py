"""Private events over the wire of the whole product: from SQL into the log, to the right people."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy.orm import Session

from hive.changes import Actor
from hive.events import EVENT_TYPES, PRIVATE_NOUNS
from hive.permissions import Role
from storage.sql.identity import SqlIdentity
from storage.sql.outbox import record
from tests.api.running import Agent, Api, RunningNode, found
from tests.realtime.client import JudgedSocket, open_socket

pytestmark = pytest.mark.asyncio(loop_scope="module")
EVENTS = "/api/v1/events"
MARK = "made-by-the-test"
SUBJECTS = {
    "user": ("usr", "user_id"),
    "session": ("ses", "session_id"),
    "api_key": ("key", "key_id"),
    "signing_key": ("sgk", "signing_key_id"),
    "system": ("system", None),
}
PEOPLE = ("user", "other_user", "viewer", "agent", "key", "admin")


def _private(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["type"].partition(".")[0] in PRIVATE_NOUNS]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clients(node: RunningNode, people: dict[str, Api], admin: Api) -> dict[str, Api]:
    """One client for each of `PEOPLE`; `key` is a narrow API key of `user`."""
    agent: Agent = await node.add_agent(admin)
    body = {"name": "narrow", "scopes": ["events:read", "account:read"]}
    created = await people["user"].ok("POST", "/api/v1/api-keys", json=body)
    key = node.client(created["api_key"])
    return {**people, "agent": agent.api, "key": key, "admin": admin}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def owners(clients: dict[str, Api]) -> dict[str, str]:
    """Whose events each of them may see."""
    return {
        name: (await client.ok("GET", "/api/v1/auth/me"))["principal_id"]
        for name, client in clients.items()
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def marked(
    node: RunningNode, clients: dict[str, Api], owners: dict[str, str]
) -> dict[str, str | None]:
    """Every private type for each of them and for nobody: the owners by event identifier."""
    store = node.accounts._store
    assert isinstance(store, SqlIdentity)
    told: list[str | None] = [*sorted(set(owners.values())), None]

    def record_all(sql: Session) -> int:
        count = 0
        for event_type in EVENT_TYPES:
            noun = event_type.partition(".")[0]
            for owner in told if noun in PRIVATE_NOUNS else ():
                prefix, member = SUBJECTS[noun]
                subject = f"{prefix}_{MARK}_{owner}" if member else prefix
                record(
                    sql,
                    event_type,
                    subject,
                    now=datetime.now(UTC),
                    actor=Actor(MARK, "req_hidden", "aud_hidden"),
                    owner=owner,
                    data={member: subject} if member else {"version": 1},
                )
                count += 1
        return count

    count = await store._database.write(record_all)
    await clients["user"].submit()

    async def whole() -> list[dict[str, Any]]:
        events = await clients["admin"].pages(f"{EVENTS}?limit=200")
        return [event for event in events if event.get("actor") == MARK]

    events = await found(whole, lambda events: len(events) == count, "all are in the log", 20)
    stored = node.node.store.events._events
    return {
        event["id"]: (await stored.find_one({"id": event["id"]}) or {}).get("owner")
        for event in events
    }


def visible(marked: dict[str, str | None], name: str, owners: dict[str, str]) -> list[str]:
    """The identifiers of what this person may see, in the order of the log."""
    return [
        event_id for event_id, owner in marked.items() if name == "admin" or owner == owners[name]
    ]


@pytest.mark.parametrize("limit", [9, 200])
@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("name", PEOPLE)
async def test_history_shows_one_s_own(
    clients: dict[str, Api],
    owners: dict[str, str],
    marked: dict[str, str | None],
    name: str,
    order: str,
    limit: int,
) -> None:
    """Page by page, full pages, in both directions, and no hidden member in any event."""
    path = f"{EVENTS}?order={order}&limit={limit}"
    events = await clients[name].pages(path)
    own = [event["id"] for event in events if event.get("actor") == MARK]
    expected = visible(marked, name, owners)
    assert own == (expected if order == "asc" else expected[::-1])
    assert expected
    seqs = [int(event["seq"]) for event in events]
    assert seqs == sorted(seqs, reverse=order == "desc")
    for event in events:
        assert {"owner", "request_id", "call_id"}.isdisjoint(event)
    first = await clients[name].ok("GET", path)
    assert len(first) == min(limit, len(events)), "a page is full while there is more"


@pytest.mark.parametrize("name", PEOPLE)
async def test_types_and_subjects_open_nothing(
    clients: dict[str, Api], owners: dict[str, str], marked: dict[str, str | None], name: str
) -> None:
    """By noun, by type, and by the very subject of somebody else's event."""
    client, expected = clients[name], set(visible(marked, name, owners))
    seen: set[str] = set()
    for noun in PRIVATE_NOUNS:
        events = await client.pages(f"{EVENTS}?type={noun}.*&limit=200")
        seen |= {event["id"] for event in events if event.get("actor") == MARK}
    assert seen == expected
    seen = set()
    for event_type in EVENT_TYPES:
        if event_type.partition(".")[0] in PRIVATE_NOUNS:
            events = await client.pages(f"{EVENTS}?type={event_type}&limit=200")
            seen |= {event["id"] for event in events if event.get("actor") == MARK}
    assert seen == expected
    others = {event_id.rpartition(":")[0] for event_id in marked}
    for subject in sorted(others)[::5]:
        events = await client.pages(f"{EVENTS}?subject={subject}&limit=200")
        mine = {event["id"] for event in events if event.get("actor") == MARK}
        assert mine == {event_id for event_id in expected if event_id.startswith(f"{subject}:")}


async def test_after_passes_over_what_is_hidden(
    clients: dict[str, Api], owners: dict[str, str], marked: dict[str, str | None]
) -> None:
    """A place in the middle of other people's events is a place like any other."""
    everything = await clients["admin"].pages(f"{EVENTS}?limit=200")
    for event in everything[:: max(1, len(everything) // 5)]:
        after = int(event["seq"])
        events = await clients["viewer"].pages(f"{EVENTS}?after={after}&limit=3")
        own = [event["id"] for event in events if event.get("actor") == MARK]
        places = {event["id"]: int(event["seq"]) for event in everything}
        assert own == [
            event_id for event_id in visible(marked, "viewer", owners) if places[event_id] > after
        ]


async def _replayed(socket: JudgedSocket) -> list[dict[str, Any]]:
    await socket.subscribe("*")
    events: list[dict[str, Any]] = []
    while (frame := await socket.receive())["type"] != "bookmark" or not frame.get("replay_end"):
        events.append(frame)
    return events


@pytest.mark.parametrize("way", ["ring", "log"])
@pytest.mark.parametrize("name", PEOPLE)
async def test_a_replay_shows_one_s_own(
    node: RunningNode,
    clients: dict[str, Api],
    owners: dict[str, str],
    marked: dict[str, str | None],
    name: str,
    way: str,
) -> None:
    """From the node's memory, and from MongoDB."""
    hub = node.node.hub
    if way == "log":
        hub._ring.reset(hub.tail)
    assert (hub.peek(0, 1) is None) == (way == "log" or hub._ring.first > 1)
    async with open_socket(node.url, "/ws?cursor=0", token=clients[name].credential) as socket:
        events = await _replayed(socket)
    own = [event["id"] for event in events if event.get("actor") == MARK]
    assert own == visible(marked, name, owners)
    shown = {event["id"] for event in await clients[name].pages(f"{EVENTS}?limit=200")}
    assert {event["id"] for event in events if event["type"] != "bookmark"} <= shown


async def test_a_login_is_seen_live_by_whose_it_is(node: RunningNode, admin: Api) -> None:
    """The user and an admin get it at once; another user gets what is for all, and nothing else."""
    for username in ("lena", "otto"):
        await node.add_user(username, Role.USER)
    lena, otto = await node.log_in("lena"), await node.log_in("otto")
    url, patterns = node.url, ["session.*", "task.created"]
    async with (
        open_socket(url, token=lena.credential) as mine,
        open_socket(url, token=otto.credential) as foreign,
        open_socket(url, token=admin.credential) as chief,
    ):
        for socket in (mine, foreign, chief):
            await socket.subscribe(*patterns)
        again = await node.log_in("lena")
        opened = [await socket.expect("session.opened") for socket in (mine, chief)]
        assert opened[0] == opened[1]
        assert opened[0]["subject"].startswith("ses_")
        await again.submit()
        for socket in (mine, chief, foreign):
            await socket.expect("task.created")


async def test_a_demoted_admin_is_disconnected_and_comes_back_with_less(
    node: RunningNode, admin: Api
) -> None:
    """The connection ends with the role it was made with; a replay then hides what was shown."""
    user_id = await node.add_user("chief", Role.ADMIN)
    chief = await node.log_in("chief")
    key = (await chief.ok("POST", "/api/v1/api-keys", json={"name": "watch"}))["api_key"]
    async with (
        open_socket(node.url, token=chief.credential) as socket,
        open_socket(node.url, token=key) as by_key,
    ):
        for each in (socket, by_key):
            await each.subscribe("*")
        await node.add_user("bystander", Role.USER)
        await node.log_in("bystander")
        for each in (socket, by_key):
            assert (await each.until("session.opened"))["subject"].startswith("ses_")
        await admin.ok("PATCH", f"/api/v1/users/{user_id}", json={"role": "user"})
        assert await socket.close_code() == 4101
        assert await by_key.close_code() == 4101
    demoted = await node.log_in("chief")
    for credential in (demoted.credential, key):
        async with open_socket(node.url, "/ws?cursor=0", token=credential) as again:
            events = _private(await _replayed(again))
        stored = node.node.store.events._events
        for event in events:
            hidden = await stored.find_one({"id": event["id"]})
            assert hidden is not None
            assert hidden["owner"] == user_id
        assert events
