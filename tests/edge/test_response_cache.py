"""Answers that are given more than once are never older than what a node has heard or done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from hive.errors import Unavailable
from hive.events import Event
from hive.permissions import ROLE_PERMISSIONS, Principal, Role
from server import response_cache
from server.answer_rules import CacheRule
from server.answers import Answer
from server.contract import Operation
from server.invalidation import Invalidation
from server.response_cache import MAX_ENTRY_BYTES, ResponseCache, _key
from storage.memory.response_cache import MemoryResponses
from tests.contracts import our_contract

NOW = datetime(2026, 11, 21, tzinfo=UTC)
CONTRACT = our_contract()
AGENTS = CONTRACT.operations["list_agents"]
STATUS = CONTRACT.operations["get_hive_status"]
DOCUMENT = CONTRACT.operations["get_openapi_yaml"]
TASKS = CONTRACT.operations["list_tasks"]


def event(seq: int, event_id: str = "agt_1:1", event_type: str = "agent.updated") -> Event:
    """An event of the log."""
    return Event(seq, event_id, event_type, event_id.partition(":")[0], NOW, {})


def agent(version: int) -> Any:
    """As much of an agent as a commit shows."""
    return SimpleNamespace(agent_id="agt_1", version=version)


def answer(body: bytes = b"[]", **headers: str) -> Answer:
    """An answer of a handler."""
    return Answer(200, headers, body, "application/json")


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """Read it."""
        return self.now


@dataclass
class CachingNode:
    """A cache with what it hears: `tail` is what the hub of the node has spread."""

    store: MemoryResponses = field(default_factory=MemoryResponses)
    shared: MemoryResponses | None = None
    tail: int = 0
    makes: int = 0

    def __post_init__(self) -> None:
        self.cache = ResponseCache(
            CONTRACT.operations.values(), self.store, self.shared, tail=lambda: self.tail
        )

    def hear(self, *events: Event) -> None:
        """What the hub does: it moves its tail, and tells."""
        self.tail = events[-1].seq
        self.cache.invalidation.heard(events)

    async def ask(
        self,
        make: Callable[[], Answer] = answer,
        operation: Operation = AGENTS,
        principal: Principal | None = None,
        **arguments: Any,
    ) -> Answer:
        """Ask as the pipeline does."""

        async def made() -> Answer:
            self.makes += 1
            await asyncio.sleep(0)
            return make()

        return await self.cache.answer(operation, principal, arguments, made)


@pytest.fixture
def node() -> CachingNode:
    """A node with answers in its memory."""
    return CachingNode()


@pytest.fixture
def nodes() -> tuple[CachingNode, CachingNode]:
    """Two nodes that share their answers."""
    shared = MemoryResponses()
    return CachingNode(shared=shared), CachingNode(shared=shared)


async def test_an_answer_is_made_once_and_given_again_with_its_age(node: CachingNode) -> None:
    """The first has no Age (RFC 9111, section 5.1), the others say how old they are."""
    first = await node.ask(lambda: answer(b"[1]", Link="<next>"))
    assert "Age" not in first.headers
    again = await node.ask()
    assert (again.body, again.headers["Link"], again.headers["Age"]) == (b"[1]", "<next>", "0")
    assert node.makes == 1


@pytest.mark.parametrize("seconds", [0.999, 1.0])
async def test_no_answer_is_given_for_longer_than_it_may(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the log does, the seconds of the contract end it."""
    clock = Clock()
    # The time that the making took counts, too.
    monkeypatch.setattr(response_cache, "time", SimpleNamespace(monotonic=clock))
    node = CachingNode(MemoryResponses(clock=clock))
    await node.ask()
    clock.now += seconds
    await node.ask()
    assert node.makes == (1 if seconds < 1 else 2)


async def test_answers_to_other_arguments_are_others(node: CachingNode) -> None:
    """The key is what the handler gets, in any order."""
    await node.ask(lambda: answer(b"idle"), status="idle", limit=50)
    assert (await node.ask(lambda: answer(b"busy"), status="busy", limit=50)).body == b"busy"
    assert (await node.ask(limit=50, status="idle")).body == b"idle"
    assert node.makes == 2


async def test_operations_that_declare_nothing_are_always_made(node: CachingNode) -> None:
    """What has no x-cache is not kept."""
    await node.ask(operation=TASKS)
    await node.ask(operation=TASKS)
    assert node.makes == 2


@pytest.mark.parametrize(
    ("event_type", "makes"), [("agent.status_changed", 2), ("task.created", 1), ("log.reset", 2)]
)
async def test_the_events_that_are_named_end_an_answer(
    node: CachingNode, event_type: str, makes: int
) -> None:
    """Others do not; after a reset of the log anything may have been missed."""
    await node.ask()
    node.hear(event(1, event_type=event_type))
    await node.ask()
    assert node.makes == makes


async def test_events_that_a_node_has_lost_end_all_answers(node: CachingNode) -> None:
    """The hub goes on behind a hole that nobody told it of."""
    await node.ask()
    node.tail = 7
    await node.ask()
    assert node.makes == 2


async def test_an_own_change_ends_an_answer_before_its_event_comes(node: CachingNode) -> None:
    """Who has changed something on this node reads it on this node."""
    await node.ask()
    node.cache.invalidation.committed(agent(2), "agent.updated")
    await node.ask()
    assert node.makes == 2


@pytest.mark.parametrize("how", ["event", "commit"])
async def test_an_answer_that_was_begun_before_a_change_is_not_given_after_it(
    node: CachingNode, how: str
) -> None:
    """The handler read the state, then it changed, then the answer was kept."""

    def make_and_change() -> Answer:
        if how == "event":
            node.hear(event(1))
        else:
            node.cache.invalidation.committed(agent(2), "agent.updated")
        return answer(b"old")

    await node.ask(make_and_change)
    assert (await node.ask(lambda: answer(b"new"))).body == b"new"


async def test_who_asks_after_a_change_does_not_wait_for_an_answer_from_before_it(
    node: CachingNode,
) -> None:
    """A flight is joined only by those whom its answer would have been true for."""
    looked, go = asyncio.Event(), asyncio.Event()

    async def slow() -> Answer:
        looked.set()
        await go.wait()
        return answer(b"old")

    first = asyncio.create_task(node.cache.answer(AGENTS, None, {}, slow))
    await looked.wait()
    node.hear(event(1))
    assert (await node.ask(lambda: answer(b"new"))).body == b"new"
    go.set()
    assert (await first).body == b"old"
    assert (await node.ask(lambda: answer(b"newer"))).body != b"old"


async def test_requests_at_one_time_wait_for_one_answer(node: CachingNode) -> None:
    """A hundred misses of one key are one making."""
    answers = await asyncio.gather(*(node.ask(lambda: answer(b"[1]")) for _ in range(100)))
    assert {one.body for one in answers} == {b"[1]"}
    assert node.makes == 1


async def test_a_making_that_fails_fails_for_nobody_else(node: CachingNode) -> None:
    """The first gets its error, the others an answer; an error is not kept."""
    failures = iter([Unavailable()])

    def make() -> Answer:
        for failure in failures:
            raise failure
        return answer(b"[1]")

    first, *others = await asyncio.gather(
        *(node.ask(make) for _ in range(10)), return_exceptions=True
    )
    assert isinstance(first, Unavailable)
    assert all(isinstance(one, Answer) for one in others)


@pytest.mark.parametrize("leaves", ["the one who makes it", "one who waits"])
async def test_who_leaves_takes_the_answer_from_nobody(node: CachingNode, leaves: str) -> None:
    """Cancelling one of those who ask leaves the others with an answer."""
    asking = [asyncio.create_task(node.ask(lambda: answer(b"[1]"))) for _ in range(5)]
    await asyncio.sleep(0)
    asking.pop(0 if leaves == "the one who makes it" else 2).cancel()
    assert {one.body for one in await asyncio.gather(*asking)} == {b"[1]"}


@pytest.mark.parametrize(
    "refused",
    [
        Answer(404, {}, b"{}", "application/problem+json"),
        Answer(200, {"Set-Cookie": "a=b"}, b"{}", "application/json"),
        Answer(200, {}, b"x" * (MAX_ENTRY_BYTES + 1), "application/json"),
    ],
    ids=["no success", "a cookie", "too large"],
)
async def test_what_is_for_one_client_or_too_large_is_not_kept(
    node: CachingNode, refused: Answer
) -> None:
    """It is answered each time."""
    for _ in range(2):
        assert (await node.ask(lambda: refused)).body == refused.body
    assert node.makes == 2


async def test_what_never_changes_outlives_every_event(node: CachingNode) -> None:
    """The contract is what it is until the server ends."""
    await node.ask(operation=DOCUMENT)
    node.hear(event(1), event(2, event_type="log.reset"))
    node.cache.invalidation.committed(agent(2), "agent.updated")
    await node.ask(operation=DOCUMENT)
    assert node.makes == 1


async def test_what_never_changes_is_not_shared(nodes: tuple[CachingNode, CachingNode]) -> None:
    """Another node may be of another release."""
    for one in nodes:
        await one.ask(operation=DOCUMENT)
    assert [one.makes for one in nodes] == [1, 1]


async def test_a_node_takes_the_answer_of_another(nodes: tuple[CachingNode, CachingNode]) -> None:
    """What one has made, the other gives."""
    one, other = nodes
    await one.ask(lambda: answer(b"[1]"))
    assert (await other.ask()).body == b"[1]"
    assert other.makes == 0


async def test_an_answer_of_a_node_that_is_behind_is_not_taken(
    nodes: tuple[CachingNode, CachingNode],
) -> None:
    """It may have been made before an event that this node has heard of."""
    behind, ahead = nodes
    ahead.hear(event(1))
    await behind.ask()
    await ahead.ask()
    assert ahead.makes == 1
    assert (await behind.ask(lambda: answer(b"no"))).body == b"[]"


async def test_until_its_event_is_here_a_change_keeps_answers_of_others_away(
    nodes: tuple[CachingNode, CachingNode],
) -> None:
    """The other node could not know of the change; what it makes after the event is taken."""
    changed, other = nodes
    await other.ask()
    changed.cache.invalidation.committed(agent(7), "agent.updated")
    assert (await changed.ask(lambda: answer(b"mine"))).body == b"mine"
    await other.ask(lambda: answer(b"theirs"))
    assert (await changed.ask()).body != b"theirs"
    for one in nodes:
        one.hear(event(1, "agt_1:7"))
    await other.ask(lambda: answer(b"after"))
    assert (await changed.ask()).body == b"after"


async def test_a_change_whose_event_never_comes_is_waited_for_as_long_as_answers_live() -> None:
    """The recorder may be away; an answer from before the change is gone by then."""
    clock = Clock()
    followed = Invalidation(["agent.*"], lambda: 0, pending_seconds=2, clock=clock)
    followed.committed(agent(2), "agent.updated")
    assert not followed.look(["agent.*"]).is_settled
    clock.now += 2
    assert followed.look(["agent.*"]).is_settled


async def test_what_a_store_gives_back_in_pieces_is_made_again(node: CachingNode) -> None:
    """A damaged entry is none."""
    await node.ask()
    (key,) = node.store._kept
    await node.store.keep(key, b"[1,2", seconds=60)
    assert (await node.ask()).body == b"[]"
    assert node.makes == 2


def test_answers_by_principal_are_one_for_each_credential() -> None:
    """What a handler can ask of its caller is part of the key."""
    rule = CacheRule(1.0, ("agent.*",), by_principal=True)
    callers = [
        Principal("usr_1", "a", Role.USER, ROLE_PERMISSIONS[Role.USER]),
        Principal("usr_2", "a", Role.USER, ROLE_PERMISSIONS[Role.USER]),
        Principal("usr_1", "a", Role.USER, frozenset({"agents:read"})),
        Principal("usr_1", "a", Role.ADMIN, ROLE_PERMISSIONS[Role.USER], confined=True),
        Principal("usr_1", "a", Role.ADMIN, ROLE_PERMISSIONS[Role.USER]),
    ]
    assert len({_key(AGENTS, rule, one, {}) for one in callers}) == len(callers)
    assert _key(AGENTS, rule, callers[0], {}) == _key(AGENTS, rule, callers[0], {})


class World:
    """One resource, its log, and two nodes that share their answers; time does not pass."""

    def __init__(self) -> None:
        shared = MemoryResponses(clock=lambda: 0.0)
        self.nodes = [CachingNode(shared=shared) for _ in range(2)]
        self.version = 1
        self.log: list[Event] = []
        self.versions = [1]
        """At each `seq` of the log."""
        self.known = [1, 1]
        """What each node must show: what it has heard of, or done."""


@dataclass
class Reading:
    """A request under way: it looks at the state in one step and ends in another."""

    least: int
    task: asyncio.Task[Answer]
    look: asyncio.Event = field(default_factory=asyncio.Event)
    end: asyncio.Event = field(default_factory=asyncio.Event)


class CachedReads(RuleBasedStateMachine):
    """Requests, changes and events in any order: no answer misses what its node knew when asked."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = World()
        self.readings: list[Reading] = []

    def teardown(self) -> None:
        """Let all requests end."""
        try:
            for reading in self.readings:
                reading.look.set()
                reading.end.set()
            self._settle()
            assert not self.readings
        finally:
            self.loop.close()

    @rule(n=st.integers(0, 1))
    def change(self, n: int) -> None:
        """A node changes the resource."""
        world = self.world
        world.version += 1
        world.versions.append(world.version)
        world.log.append(event(len(world.log) + 1, f"agt_1:{world.version}"))
        world.nodes[n].cache.invalidation.committed(agent(world.version), "agent.updated")
        world.known[n] = max(world.known[n], world.version)

    @rule()
    def another_event(self) -> None:
        """Something else is recorded."""
        world = self.world
        world.versions.append(world.version)
        world.log.append(event(len(world.log) + 1, f"tsk_{len(world.log)}:1", "task.created"))

    @rule(n=st.integers(0, 1), count=st.integers(1, 3))
    def deliver(self, n: int, count: int) -> None:
        """A node hears of the next events."""
        node, world = self.world.nodes[n], self.world
        events = world.log[node.tail : node.tail + count]
        if events:
            node.hear(*events)
            world.known[n] = max(world.known[n], world.versions[node.tail])

    @rule(n=st.integers(0, 1))
    def lose(self, n: int) -> None:
        """A node's hub goes on at the end of the log and has missed what was between."""
        world = self.world
        world.nodes[n].tail = len(world.log)
        world.known[n] = max(world.known[n], world.versions[-1])

    @precondition(lambda self: len(self.readings) < 6)
    @rule(n=st.integers(0, 1))
    def ask(self, n: int) -> None:
        """A request begins."""
        world = self.world

        async def make() -> Answer:
            await reading.look.wait()
            seen = world.version
            await reading.end.wait()
            return answer(b"%d" % seen)

        cache = world.nodes[n].cache
        asking = self.loop.create_task(cache.answer(AGENTS, None, {}, make))
        reading = Reading(world.known[n], asking)
        self.readings.append(reading)
        self._settle()

    @precondition(lambda self: self.readings)
    @rule(which=st.integers(0, 5), whole=st.booleans())
    def go_on(self, which: int, whole: bool) -> None:  # noqa: FBT001
        """A request looks at the state, or ends."""
        reading = self.readings[which % len(self.readings)]
        if whole or reading.look.is_set():
            reading.end.set()
        reading.look.set()
        self._settle()

    def _settle(self) -> None:
        for _ in range(6):
            self.loop.run_until_complete(asyncio.sleep(0))
        for reading in [one for one in self.readings if one.task.done()]:
            self.readings.remove(reading)
            shown = int(reading.task.result().body)
            assert shown >= reading.least, f"showed {shown}, the node knew {reading.least}"


CachedReads.TestCase.settings = settings(
    max_examples=80, stateful_step_count=30, deadline=None, database=None
)
TestCachedReads = CachedReads.TestCase
