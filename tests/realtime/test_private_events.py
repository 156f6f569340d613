"""Who sees what on a socket: live, from the ring and from the log, by wildcard and by type."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from hive.events import EVENT_TYPES, PRIVATE_NOUNS, Event, is_private
from hive.permissions import Role
from server.connection import BOOKMARK_EVENTS
from tests.realtime import fakes
from tests.realtime.client import JudgedSocket
from tests.realtime.conftest import RealtimeNode
from tests.realtime.fakes import FakeLog

PRIVATE_TYPES = [event_type for event_type in EVENT_TYPES if is_private(event_type)]
OWNERS = ("usr_user", "usr_other", "agt_1", None)
IDENTITIES = {
    "user": "usr_user",
    "key": "usr_user",
    "other": "usr_other",
    "viewer": "usr_viewer",
    "agent": "agt_1",
    "admin": None,
}
"""By credential, whose private events it may see; None: everybody's."""
END = "task.completed"
ROUND = 200


@pytest.fixture(autouse=True)
def more_principals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user, and an API key that may read events and nothing else."""
    other = fakes.principal(principal_id="usr_other")
    key = fakes.principal(key_id="key_3", permissions=frozenset({"events:read"}))
    monkeypatch.setitem(fakes.PRINCIPALS, "other", other)
    monkeypatch.setitem(fakes.PRINCIPALS, "key", key)


def fill(log: FakeLog) -> list[Event]:
    """Every private type with every owner, public events in between, and one at the end."""
    for event_type in PRIVATE_TYPES:
        for owner in OWNERS:
            # A summary names its user; that must not be taken for the owner.
            log.append(event_type, private_to=owner, owner="usr_viewer", user_id="usr_viewer")
        log.append("agent.updated")
    log.append(END)
    return log.events


def expected(events: Iterable[Event], credential: str) -> list[int]:
    """The places that the credential may see, by other means than the server's."""
    me = IDENTITIES[credential]
    return [
        event.seq
        for event in events
        if event.type.split(".")[0] not in {"user", "session", "api_key", "signing_key", "system"}
        or credential == "admin"
        or (event.owner is not None and event.owner == me)
    ]


async def receive_up_to_end(socket: JudgedSocket) -> list[int]:
    """The places of what came, up to the last event of all."""
    await socket.until(END)
    return socket.seqs


SUBSCRIPTIONS: dict[str, list[str]] = {
    "everything": ["*"],
    "by noun": [f"{noun}.*" for noun in ("task", "agent", *PRIVATE_NOUNS)],
    "by type": list(EVENT_TYPES),
}


@pytest.mark.parametrize("patterns", SUBSCRIPTIONS.values(), ids=SUBSCRIPTIONS)
@pytest.mark.parametrize("way", ["live", "ring", "log"])
@pytest.mark.parametrize("credential", IDENTITIES)
async def test_private_events_come_to_their_owner_and_to_admins(
    make_node: Callable[..., Any], credential: str, way: str, patterns: list[str]
) -> None:
    """Nobody gets a foreign one, and nobody misses an own one, on any way there is."""
    log = FakeLog()
    if way == "log":
        fill(log)
    node: RealtimeNode = await make_node(log=log)
    if way == "ring":
        node.hub.publish(fill(log))
    assert (node.hub.peek(0, 1) is None) == (way == "log")
    async with node.open("/ws" if way == "live" else "/ws?cursor=0", token=credential) as socket:
        await socket.subscribe(*patterns)
        if way == "live":
            node.hub.publish(fill(log))
        assert await receive_up_to_end(socket) == expected(log.events, credential)


async def test_a_filter_by_owner_opens_nothing(make_node: Callable[..., Any]) -> None:
    """It selects among what may be seen; what is hidden can be selected by its owner."""
    log = FakeLog()
    fill(log)
    node = await make_node(log=log)
    assert log.events[-1].data["owner"] == "usr_user"
    async with node.open("/ws?cursor=0", token="other") as socket:
        await socket.subscribe("*", filter={"owner": "usr_user"})
        assert await receive_up_to_end(socket) == [log.events[-1].seq]
    async with node.open("/ws?cursor=0", token="user") as socket:
        await socket.subscribe("*", filter={"owner": "usr_user"})
        own = [event.seq for event in log.events if event.owner == "usr_user"]
        assert await receive_up_to_end(socket) == [*own, log.events[-1].seq]


async def test_what_is_left_out_still_moves_the_place(node: RealtimeNode) -> None:
    """A bookmark tells it, as for events that nobody subscribed to; so a resume skips them."""
    async with node.open(token="viewer") as socket:
        await socket.subscribe("*")
        hidden = [
            node.publish("session.opened", private_to="usr_user") for _ in range(BOOKMARK_EVENTS)
        ]
        last = hidden[-1]
        assert await socket.receive() == {"type": "bookmark", "cursor": str(last)}
    async with node.open(f"/ws?cursor={last}", token="viewer") as socket:
        await socket.subscribe("*")
        assert (await socket.until("bookmark"))["replay_end"] is True
        assert node.publish() == last + 1
        assert (await socket.receive())["seq"] == str(last + 1)


async def test_all_receivers_share_one_frame(node: RealtimeNode) -> None:
    """Hiding an event costs no encoding: the entry is the same for whoever may see it."""
    async with node.open(token="user") as owner, node.open(token="admin") as admin:
        for socket in (owner, admin):
            await socket.subscribe("user.*")
        seq = node.publish("user.updated", private_to="usr_user")
        frames = [await socket.receive() for socket in (owner, admin)]
    assert frames[0] == frames[1]
    assert frames[0]["seq"] == str(seq)
    assert {"owner", "request_id", "call_id"}.isdisjoint(frames[0])


async def test_an_admin_who_is_demoted_is_disconnected(
    node: RealtimeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The role of a connection never changes: it ends, and comes back with less."""
    chief = fakes.principal(Role.ADMIN, principal_id="usr_chief")
    monkeypatch.setitem(fakes.PRINCIPALS, "chief", chief)
    async with node.open(token="chief") as socket:
        await socket.subscribe("*")
        node.publish("session.opened", private_to="usr_user")
        await socket.expect("session.opened")
        monkeypatch.setitem(fakes.PRINCIPALS, "chief", replace(chief, role=Role.USER))
        node.peers.revoke("usr_chief")
        node.publish("session.opened", private_to="usr_user")
        seen = len(socket.seqs)
        assert await socket.close_code() == 4101
        assert len(socket.seqs) == seen
    async with node.open("/ws?cursor=0", token="chief") as socket:
        await socket.subscribe("*")
        await socket.expect("bookmark")


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.soak)])
async def test_no_foreign_event_among_many(make_node: Callable[..., Any], count: int) -> None:
    """A random stream, live for two, and replayed from memory and the log for a third."""
    log = FakeLog()
    # Nobody here answers a heartbeat.
    node = await make_node(log=log, ring_events=count // 2, heartbeat_seconds=3600)
    dice = random.Random(7)
    async with node.open(token="other") as other, node.open(token="agent") as agent:
        watchers = {"other": other, "agent": agent}
        for socket in watchers.values():
            await socket.subscribe("*")
        for _ in range(count // ROUND):
            for _ in range(ROUND - 1):
                node.publish(dice.choice(PRIVATE_TYPES), private_to=dice.choice(OWNERS))
            node.publish(END)
            for socket in watchers.values():
                await socket.until(END)
        for credential, socket in watchers.items():
            assert socket.seqs == expected(log.events, credential)
    async with node.open("/ws?cursor=0", token="viewer") as replay:
        await replay.subscribe("*")
        while not replay.seqs or replay.seqs[-1] < count:
            await replay.until(END)
        assert replay.seqs == expected(log.events, "viewer")
