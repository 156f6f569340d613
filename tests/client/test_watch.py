"""Watching: live, resumed, announced gaps, close codes, REST where sockets are blocked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentzero_client import (
    AsyncClient,
    AsyncWatch,
    EventFilter,
    Gap,
    PermissionDeniedError,
    WatchClosedError,
)
from agentzero_client.events import decode_event
from tests.client.fake_hive import FakeHive, Trouble


async def take(watch: AsyncWatch, number: int) -> list[int]:
    """The places of the next events."""
    async with asyncio.timeout(10):
        return [(await anext(watch)).seq for _ in range(number)]


async def test_events_arrive_as_they_happen(hive: FakeHive, client: AsyncClient) -> None:
    """Entering the watch waits for the subscription: what follows is seen."""
    hive.add_task("before")
    async with client.watch(["task.*"]) as watch:
        task_id = hive.add_task("t")
        hive.emit("agent.registered", "agt_1")
        hive.cancel(task_id)
        created, cancelled = [await anext(watch) for _ in range(2)]
    assert (created.type, created.subject, created.seq) == ("task.created", task_id, 2)
    assert (cancelled.type, cancelled.data["status"]) == ("task.cancelled", "cancelled")
    assert created.time.tzinfo is not None


async def test_cursor_replays_what_was_missed(hive: FakeHive, client: AsyncClient) -> None:
    """A program that restarts goes on where it was."""
    for n in range(4):
        hive.add_task(f"t{n}")
    async with client.watch(cursor=2) as watch:
        assert await take(watch, 2) == [3, 4]
        assert watch.cursor == 4


async def test_broken_connection_is_resumed_without_loss_or_repetition(
    hive: FakeHive, client: AsyncClient
) -> None:
    """Repeated events are dropped, missed ones are replayed."""
    hive.repeats_events = 3
    async with client.watch() as watch:
        for n in range(3):
            hive.add_task(f"t{n}")
        assert await take(watch, 3) == [1, 2, 3]
        hive.abort_watchers()
        hive.add_task("while away")
        hive.add_task("while away")
        assert await take(watch, 2) == [4, 5]
        await hive.until(lambda: hive.watchers)
        hive.add_task("live again")
        assert await take(watch, 1) == [6]


async def test_restarted_server_is_found_again(hive: FakeHive, client: AsyncClient) -> None:
    """A refused connection is no reason to give up."""
    async with client.watch() as watch:
        await hive.stop()
        hive.add_task("while down")
        await hive.start()
        assert await take(watch, 1) == [1]


async def test_trimmed_log_is_announced_as_a_gap(hive: FakeHive, client: AsyncClient) -> None:
    """A gap is an event of its own, with what is missing and where to read instead."""
    for n in range(5):
        hive.add_task(f"t{n}")
    hive.trimmed_up_to = 3
    async with client.watch(cursor=1) as watch:
        gap = await anext(watch)
        assert isinstance(gap, Gap)
        assert (gap.type, gap.first, gap.last, gap.reason) == ("gap", 2, 3, "trimmed")
        assert gap.snapshot == "/api/v1/hive/status"
        assert await take(watch, 2) == [4, 5]


async def test_cursor_of_another_log_is_announced_and_dropped(
    hive: FakeHive, client: AsyncClient
) -> None:
    """4009: the watch goes on with what happens next."""
    async with client.watch(cursor=1_000) as watch:
        gap = await anext(watch)
        assert isinstance(gap, Gap)
        assert gap.reason == "cannot-resume"
        hive.add_task("t")
        assert await take(watch, 1) == [1]


async def test_server_ping_is_answered(hive: FakeHive, client: AsyncClient) -> None:
    """Without an answer the server would close with 4007."""
    async with client.watch():
        (watcher,) = hive.watchers
        watcher.tell({"type": "ping", "t": 7})
        await hive.until(lambda: {"type": "pong", "t": 7} in hive.frames)


@pytest.mark.parametrize("code", [1008, 1009, 4010, 4101, 4400, 4403, 4406, 4409])
async def test_codes_that_say_stay_away_end_the_watch(
    hive: FakeHive, client: AsyncClient, code: int
) -> None:
    """The error carries the code; nothing reconnects."""
    async with client.watch() as watch:
        (watcher,) = hive.watchers
        watcher.close(code, "no")
        with pytest.raises(WatchClosedError) as caught:
            await anext(watch)
        assert caught.value.code == code
        with pytest.raises(StopAsyncIteration):
            await anext(watch)


@pytest.mark.parametrize("code", [1001, 1012, 4000, 4007, 4008, 4429])
async def test_other_codes_are_reconnected(hive: FakeHive, client: AsyncClient, code: int) -> None:
    """The watch goes on as if nothing had happened."""
    async with client.watch() as watch:
        (watcher,) = hive.watchers
        watcher.close(code, "later")
        await hive.until(lambda: watcher not in hive.watchers)
        hive.add_task("t")
        assert await take(watch, 1) == [1]


async def test_expired_token_is_refreshed_and_the_watch_resumed(hive: FakeHive) -> None:
    """4100 costs a refresh and nothing else."""
    async with (
        AsyncClient(hive.url, username="admin", password="secret") as client,
        client.watch() as watch,
    ):
        (watcher,) = hive.watchers
        hive.tokens.clear()
        watcher.close(4100, "token expired")
        hive.add_task("t")
        assert await take(watch, 1) == [1]
    assert [path for _, path, _ in hive.requests if path.endswith("refresh")] != []


async def test_refused_key_ends_the_watch_where_it_is_entered(hive: FakeHive) -> None:
    """1008 in the handshake."""
    async with AsyncClient(hive.url, api_key="wrong") as client:
        with pytest.raises(WatchClosedError, match="1008"):
            async with client.watch():
                pass


async def test_refused_subscription_is_told(hive: FakeHive, client: AsyncClient) -> None:
    """A pattern that matches no event is a mistake of the caller."""
    async with client.watch() as watch:
        (watcher,) = hive.watchers
        refusal = {"code": "unknown-event", "detail": "No such event.", "retryable": False}
        watcher.tell({"type": "error", "id": "watch", **refusal})
        with pytest.raises(WatchClosedError, match="No such event"):
            await anext(watch)


async def test_blocked_sockets_fall_back_to_the_history(
    hive: FakeHive, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two failed handshakes and a REST that works: the same events, by polling."""
    monkeypatch.setattr("agentzero_client.event_history.POLL_SECONDS", 0.05)
    hive.blocks_sockets = True
    async with client.watch(["task.created"]) as watch:
        task_id = hive.add_task("t")
        hive.cancel(task_id)
        hive.add_task("u")
        assert await take(watch, 2) == [1, 3]


async def test_history_that_was_trimmed_is_a_gap_too(
    hive: FakeHive, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """410 becomes what a `gap` frame would have been."""
    monkeypatch.setattr("agentzero_client.event_history.POLL_SECONDS", 0.05)
    hive.blocks_sockets = True
    for n in range(4):
        hive.add_task(f"t{n}")
    hive.trimmed_up_to = 2
    async with client.watch(cursor=0) as watch:
        gap = await anext(watch)
        assert isinstance(gap, Gap)
        assert (gap.first, gap.last) == (1, 2)
        assert await take(watch, 2) == [3, 4]


async def test_socket_is_tried_again_after_the_fallback(
    hive: FakeHive, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polling is not for ever."""
    monkeypatch.setattr("agentzero_client.event_history.POLL_SECONDS", 0.05)
    monkeypatch.setattr("agentzero_client.event_feed.SOCKET_AGAIN_SECONDS", 0.2)
    hive.blocks_sockets = True
    async with client.watch() as watch:
        hive.blocks_sockets = False
        await hive.until(lambda: hive.watchers)
        hive.add_task("t")
        assert await take(watch, 1) == [1]


async def test_forbidden_history_ends_the_watch(hive: FakeHive, client: AsyncClient) -> None:
    """What REST refuses for good is raised."""
    hive.blocks_sockets = True
    hive.troubles.append(Trouble("GET", "events", 403, "forbidden", times=9))
    with pytest.raises(PermissionDeniedError):
        async with client.watch():
            pass


async def test_closing_ends_whoever_iterates(hive: FakeHive, client: AsyncClient) -> None:
    """The loop ends without an error and the socket is gone."""
    watch = client.watch()
    await watch.started()
    waiting = asyncio.ensure_future(anext(watch, None))
    await asyncio.sleep(0)
    await watch.close()
    assert await waiting is None
    await hive.until(lambda: not hive.watchers)


async def test_closing_the_client_closes_its_watches(hive: FakeHive) -> None:
    """A loop that was left early leaves no connection behind."""
    client = AsyncClient(hive.url, api_key="admin-key")
    watch = client.watch()
    await watch.started()
    await client.close()
    await hive.until(lambda: not hive.watchers)
    assert [event async for event in watch] == []


def test_one_pattern_is_no_list(hive: FakeHive) -> None:
    """A string would be taken apart into letters."""
    with pytest.raises(ValueError, match="list of patterns"):
        AsyncClient(hive.url, api_key="k").watch("task.*")


@pytest.mark.parametrize(
    ("chosen", "selected"),
    [
        (EventFilter(), True),
        (EventFilter(task_id="tsk_1"), True),
        (EventFilter(task_id="tsk_2"), False),
        (EventFilter(agent_id="agt_1"), True),
        (EventFilter(agent_id="agt_2"), False),
        (EventFilter(owner="usr_1", labels={"team": "blue"}), True),
        (EventFilter(owner="usr_2"), False),
        (EventFilter(labels={"team": "red"}), False),
    ],
)
def test_filter_judges_history_as_the_server_judges_live_events(
    chosen: EventFilter,
    selected: bool,  # noqa: FBT001  # A column of the table.
) -> None:
    """The fallback selects the same events."""
    data: dict[str, Any] = {"task_id": "tsk_1", "agent_id": "agt_1", "owner": "usr_1"}
    event = decode_event(
        {
            "type": "task.started",
            "subject": "tsk_1",
            "id": "tsk_1:1",
            "seq": "1",
            "time": "2026-11-21T09:00:00.000Z",
            "data": {**data, "labels": {"team": "blue"}},
        }
    )
    assert chosen.selects(event) is selected


async def test_filter_is_part_of_the_subscription(hive: FakeHive, client: AsyncClient) -> None:
    """The server filters live events."""
    async with client.watch(filter=EventFilter(owner="usr_1", labels={"a": "b"})):
        (subscribe,) = [frame for frame in hive.frames if frame["type"] == "subscribe"]
    assert subscribe["filter"] == {"owner": "usr_1", "labels": {"a": "b"}}


async def test_slow_consumer_holds_the_reader_and_loses_nothing(
    hive: FakeHive, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is read ahead without bound."""
    monkeypatch.setattr("agentzero_client.watch.READ_AHEAD", 2)
    async with client.watch() as watch:
        for n in range(20):
            hive.add_task(f"t{n}")
        assert await take(watch, 20) == list(range(1, 21))
