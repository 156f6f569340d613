"""Patterns, filters and their bounds, over the wire."""

from __future__ import annotations

from typing import Any

import pytest

from hive.events import EVENT_TYPES
from server.subscriptions import MAX_EXACT, Filter, Subscriptions
from tests.realtime.conftest import RealtimeNode


async def test_one_level_patterns(node: RealtimeNode) -> None:
    """`task.*` selects all of tasks and nothing of agents."""
    async with node.open() as socket:
        await socket.subscribe("task.*")
        node.publish("agent.updated")
        node.publish("task.queued")
        assert (await socket.receive())["type"] == "task.queued"


@pytest.mark.parametrize(
    ("wanted", "fields"),
    [
        ({"task_id": "tsk_1"}, {"task_id": "tsk_1"}),
        ({"agent_id": "agt_1"}, {"agent_id": "agt_1"}),
        ({"owner": "usr_1"}, {"owner": "usr_1"}),
        ({"labels": {"team": "blue"}}, {"labels": {"team": "blue", "zone": "eu"}}),
        ({"owner": "usr_1", "agent_id": "agt_1"}, {"owner": "usr_1", "agent_id": "agt_1"}),
    ],
)
async def test_filters_select_by_the_resource(
    node: RealtimeNode, wanted: dict[str, Any], fields: dict[str, Any]
) -> None:
    """Everything that is given must match."""
    async with node.open() as socket:
        await socket.subscribe("task.*", filter=wanted)
        node.publish("task.created", owner="usr_2")
        seq = node.publish("task.created", **fields)
        assert (await socket.receive())["seq"] == str(seq)


async def test_subscribing_again_replaces_the_filter(node: RealtimeNode) -> None:
    """The last word counts."""
    async with node.open() as socket:
        await socket.subscribe("task.created", filter={"owner": "usr_1"})
        await socket.subscribe("task.created")
        node.publish("task.created", owner="usr_2")
        await socket.expect("task.created")


@pytest.mark.parametrize("pattern", ["task.exploded", "swarm.*", "notification.sent"])
async def test_a_pattern_that_matches_no_event_is_refused(node: RealtimeNode, pattern: str) -> None:
    """Better an error than silence for ever."""
    async with node.open() as socket:
        await socket.send("subscribe", id="s", events=["task.created", pattern])
        error = await socket.expect("error")
        assert (error["code"], error["id"], error["retryable"]) == ("unknown-event", "s", False)
        assert pattern in error["detail"]


def test_exact_subscriptions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The 257th exact pattern is refused, and none of its frame is taken."""
    names = {f"task.n{number}": "" for number in range(MAX_EXACT + 1)}
    monkeypatch.setattr("server.subscriptions.EVENT_TYPES", names)
    subscriptions = Subscriptions()
    subscriptions.add(list(names)[:-1], Filter())
    with pytest.raises(Exception, match="At most 256 exact"):
        subscriptions.add([list(names)[-1]], Filter())


def test_wildcard_subscriptions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """So is the 33rd wildcard."""
    nouns = {f"n{number}" for number in range(33)}
    monkeypatch.setattr("server.subscriptions._NOUNS", nouns)
    with pytest.raises(Exception, match="32 wildcard"):
        Subscriptions().add([f"{noun}.*" for noun in nouns], Filter())


async def test_every_declared_event_can_be_subscribed_to(node: RealtimeNode) -> None:
    """By its exact name, all in one frame."""
    async with node.open(token="admin") as socket:
        answer = await socket.subscribe(*EVENT_TYPES)
        assert answer["events"] == list(EVENT_TYPES)
        for event_type in EVENT_TYPES:
            node.publish(event_type)
        got = [(await socket.until(event_type))["type"] for event_type in EVENT_TYPES]
        assert got == list(EVENT_TYPES)
