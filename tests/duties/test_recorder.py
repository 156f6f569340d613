"""The recorder on a real change stream: a dense, complete log, whatever happens to its writer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo import MongoClient

from hive import agents as agent_machine
from hive.changes import Change
from hive.duty_ports import Recorded, SeqTaken
from hive.errors import Unavailable
from hive.events import Event
from server import recorder as recording_duty
from server.recorder import DUTY, later
from storage.mongo import stream
from storage.mongo.events import MongoEventLog
from storage.mongo.stream import MongoChangeFeed
from tests.duties.recording import Recording, events_in_log, recording, whole_log
from tests.servers import eventually
from tests.storage.store import ME, Store

LOST_TOKENS = {
    "no hex": {"_data": "garbage"},
    "cut off": {"_data": "82"},
    "of another server": {
        "_data": "82000000010000002A2B022C0100296E5A100416CE9907992B4FCE9251AB9DA4DA9A3F"
        "463C5F6964003C74736B5F31000004"
    },
    "no token": {"_data": 7},
}


async def _touch(store: Store, task_id: str, times: int = 1) -> None:
    for percent in range(times):
        change = Change("task.progress", {"progress": {"percent": percent}})
        await store.tasks.change(task_id, lambda _, change=change: change, ME)  # type: ignore[misc]


async def test_every_change_is_one_event_from_one_on(store: Store) -> None:
    """Inserts and updates of tasks and agents, in the order of their commits."""
    async with recording(store) as recorder:
        task = await store.submit()
        agent = await store.register("bee")
        await store.claim(agent.agent_id)
        await store.agents.change(agent.agent_id, agent_machine.unregister, ME)
        await recorder.until(4)
    events = await whole_log(store)
    assert [(event.type, event.subject) for event in events] == [
        ("task.created", task.task_id),
        ("agent.registered", agent.agent_id),
        ("task.started", task.task_id),
        ("agent.unregistered", agent.agent_id),
    ]
    assert recorder.published == events


async def test_similar_changes_in_a_row_are_complete_events(store: Store) -> None:
    """The stream names changed leaves only; each event must arrive whole all the same."""
    async with recording(store) as recorder:
        task = await store.submit(labels={"a": "b"})
        await _touch(store, task.task_id, 3)
        await recorder.until(4)
    created, *progress = await whole_log(store)
    assert [event.data["progress"] for event in progress] == [{"percent": n} for n in range(3)]
    assert [event.data["version"] for event in progress] == [2, 3, 4]
    for event in progress:
        assert set(event.data) == set(created.data) | {"progress"}
        assert event.id == f"{task.task_id}:{event.data['version']}"
        assert event.actor == "usr_me"
        assert event.time.tzinfo is not None


async def test_what_nobody_sees_makes_no_event(store: Store) -> None:
    """Renewals, signs of life, held-back logs and dropped dependencies stay silent."""
    async with recording(store) as recorder:
        _, proof = await store.running("agt_1")
        agent = await store.register()
        await store.tasks.renew(proof, 30.0, agent_id=None)
        await store.agents.heard_of(agent.agent_id, controls_taken=None)
        await store.sweeps.released([store.new("tsk")])
        await store.submit()
        await recorder.until(4)
    types = [event.type for event in await whole_log(store)]
    assert types == ["task.created", "task.started", "agent.registered", "task.created"]


async def test_a_restart_goes_on_where_the_last_one_stopped(store: Store) -> None:
    """Changes made while nobody recorded are in the log, once, in their order."""
    task = None
    for round_number in range(3):
        async with recording(store, node_id=f"node-{round_number}") as recorder:
            task = task or await store.submit()
            await _touch(store, task.task_id, 2)
            await recorder.until(2)
        await _touch(store, task.task_id, 2)
        await store.leadership.release(DUTY, f"node-{round_number}", round_number + 1)
    async with recording(store, node_id="node-last"):
        events = await events_in_log(store, 13)
    assert len(events) == 13
    assert {event.type for event in events} == {"task.created", "task.progress"}


async def test_resources_older_than_the_first_recorder_are_recorded(store: Store) -> None:
    """A new database has no reset; what is there already is told as it is."""
    tasks = [await store.submit() for _ in range(3)]
    async with recording(store):
        await store.submit()
        events = await events_in_log(store, 4)
    assert [event.type for event in events] == ["task.created"] * 4
    assert {event.subject for event in events} > {task.task_id for task in tasks}


async def test_two_recorders_at_once_write_one_whole_log(store: Store) -> None:
    """One was stopped and woke up late: it collides and ends; nothing is lost or told twice."""
    first, second = Recording(store), Recording(store, node_id="node-2")
    await first.start()
    await store.leadership.release(DUTY, "node-1", 1)
    await second.start()
    try:
        tasks = [await store.submit() for _ in range(4)]
        await asyncio.gather(*(_touch(store, task.task_id, 10) for task in tasks))
        events = await events_in_log(store, 44)
        assert len(events) == 44
        ended = [each for each in (first, second) if each.task and each.task.done()]
        assert len(ended) == 1
        assert ended[0].task is not None
        assert isinstance(ended[0].task.exception(), SeqTaken)
        published = sorted([*first.published, *second.published], key=lambda event: event.seq)
        assert published == events
    finally:
        for each in (first, second):
            if each.task and not each.task.done():
                await each.kill()


async def test_a_recorder_whose_term_is_over_steps_down(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It learns at the next checkpoint that another one has the duty, and returns."""
    monkeypatch.setattr(recording_duty, "CHECKPOINT_SECONDS", 0.0)
    stale = Recording(store)
    await stale.start()
    await store.leadership.release(DUTY, "node-1", 1)
    assert await store.leadership.acquire(DUTY, "node-2", 30.0) == 2
    assert stale.task is not None
    await asyncio.wait_for(stale.task, 10)


@pytest.mark.parametrize("checkpoint", ["older", "newer"])
async def test_the_later_of_log_and_checkpoint_is_where_it_goes_on(
    store: Store, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the append and the checkpoint, and one long after the last event."""
    if checkpoint == "newer":
        monkeypatch.setattr(recording_duty, "CHECKPOINT_SECONDS", 0.0)
    async with recording(store) as recorder:
        task = await store.submit()
        await _touch(store, task.task_id, 3)
        await recorder.until(4)
        if checkpoint == "newer":
            tail = (await store.events.read_tail()).token
            saved = await store.leadership.load_checkpoint(DUTY)
            deadline = asyncio.get_running_loop().time() + 10
            while not saved or later(tail, saved["token"]) == tail:
                assert asyncio.get_running_loop().time() < deadline, "no checkpoint was saved"
                # Any write moves the stream on, also one that it does not show.
                await store.database["other"].insert_one({})
                saved = await store.leadership.load_checkpoint(DUTY)
    await _touch(store, task.task_id, 3)
    async with recording(store):
        assert len(await events_in_log(store, 7)) == 7


async def test_quiet_times_move_the_checkpoint(
    store: Store, monkeypatch: pytest.MonkeyPatch, mongodb_client: MongoClient[dict[str, Any]]
) -> None:
    """Without any event the place to go on from stays young, so that no oplog outlives it."""
    monkeypatch.setattr(recording_duty, "CHECKPOINT_SECONDS", 0.0)
    leaders = mongodb_client[store.database.name]["leaders"]

    def saved() -> str:
        found = leaders.find_one({"_id": DUTY}) or {}
        return str(found.get("checkpoint", {}).get("token", {}).get("_data", ""))

    async with recording(store) as recorder:
        await eventually(saved, "a checkpoint is saved")
        first = saved()
        await store.database["other"].insert_one({})
        await eventually(lambda: saved() > first, "the checkpoint moves on")
    assert recorder.published == []


class _LosesAnswer(MongoEventLog):
    """A log whose writes happen, and whose answer to one of them is lost."""

    losses = 1

    async def append(self, after: int, entries: Sequence[Recorded]) -> Sequence[Event]:
        events = await super().append(after, entries)
        if self.losses:
            self.losses -= 1
            raise Unavailable(store="mongodb")
        return events


async def test_a_write_without_an_answer_is_found_again(store: Store) -> None:
    """The recorder doesn't know whether it wrote: it reads the end of the log again."""
    recorder = Recording(store, writer=_LosesAnswer(store.database))
    await recorder.start()
    task = await store.submit()
    assert recorder.task is not None
    with pytest.raises(Unavailable):
        await asyncio.wait_for(recorder.task, 10)
    await recorder.start()
    await _touch(store, task.task_id)
    events = await events_in_log(store, 2)
    await recorder.kill()
    assert [event.type for event in events] == ["task.created", "task.progress"]


async def test_events_are_published_in_order_and_only_when_they_are_written(
    store: Store, mongodb_client: MongoClient[dict[str, Any]]
) -> None:
    """Whoever hears of an event can read it: it is majority-committed by then."""
    log = mongodb_client[store.database.name]["events"]
    missing: list[Event] = []

    def look(events: Sequence[Event]) -> None:
        missing.extend(event for event in events if log.find_one({"_id": event.seq}) is None)

    async with recording(store) as recorder:
        recorder.on_publish = look
        tasks = [await store.submit() for _ in range(5)]
        await asyncio.gather(*(_touch(store, task.task_id, 5) for task in tasks))
        await recorder.until(30)
    assert missing == []
    assert [event.seq for event in recorder.published] == list(range(1, 31))


@pytest.mark.parametrize("token", LOST_TOKENS.values(), ids=LOST_TOKENS)
async def test_lost_history_is_told_and_made_good(store: Store, token: dict[str, Any]) -> None:
    """`log.reset` at the next sequence number, then each newer resource, and no other."""
    async with recording(store) as recorder:
        tasks = [await store.submit() for _ in range(3)]
        agent = await store.register("bee")
        await recorder.until(4)
    await store.leadership.save_checkpoint(DUTY, "node-1", 1, {"token": {"_data": ""}})
    await store.database["events"].update_one({"_id": 4}, {"$set": {"token": token}})
    await _touch(store, tasks[1].task_id, 3)
    await store.agents.change(agent.agent_id, agent_machine.unregister, ME)
    new = await store.submit()
    async with recording(store) as recorder:
        await _touch(store, tasks[0].task_id)
        await recorder.until(5)
    events = await whole_log(store)
    assert [event.id for event in events[4:]] == [
        "log:5",
        f"{agent.agent_id}:2",
        f"{tasks[1].task_id}:4",
        f"{new.task_id}:1",
        f"{tasks[0].task_id}:2",
    ]
    assert (events[4].type, events[4].data) == ("log.reset", {"reason": "history-lost"})


class _BusyFeed(MongoChangeFeed):
    """A feed whose resources go on changing while lost history is made good."""

    def __init__(self, store: Store, task_ids: Sequence[str]) -> None:
        super().__init__(store.stream_database, store.database)
        self._store = store
        self._task_ids = task_ids

    async def unrecorded(self, at: Mapping[str, Any]) -> AsyncIterator[Sequence[Recorded]]:
        for task_id in self._task_ids:
            await _touch(self._store, task_id, 2)
        new = await self._store.submit()
        async for batch in super().unrecorded(at):
            for entry in batch:
                await _touch(self._store, entry.subject)
            yield batch
        await _touch(self._store, new.task_id)


async def test_changes_while_history_is_made_good_come_once_and_in_order(store: Store) -> None:
    """No version is told after a later one, none twice, and none is left out."""
    async with recording(store) as recorder:
        tasks = [await store.submit() for _ in range(3)]
        await recorder.until(3)
    await store.database["events"].update_one({"_id": 3}, {"$set": {"token": {"_data": "zz"}}})
    task_ids = [task.task_id for task in tasks]
    for task_id in task_ids[:2]:
        await _touch(store, task_id)
    async with recording(store, feed=_BusyFeed(store, task_ids)) as recorder:
        # The reset; two made good; six and two touches, and the new one with its touch.
        await recorder.until(13)
    events = (await whole_log(store))[3:]
    assert len(events) == 13
    versions = {
        task_id: [event.data["version"] for event in events if event.subject == task_id]
        for task_id in task_ids
    }
    assert list(versions.values()) == [[2, 3, 4, 5], [2, 3, 4, 5], [2, 3]]


class _DiesAfter(MongoEventLog):
    """A log that takes so many writes more."""

    left = 0

    async def append(self, after: int, entries: Sequence[Recorded]) -> Sequence[Event]:
        if not self.left:
            raise Unavailable(store="mongodb")
        self.left -= 1
        return await super().append(after, entries)


@pytest.mark.parametrize("writes", [1, 2, 3])
async def test_a_kill_while_history_is_made_good_loses_nothing(
    store: Store, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one begins with the reset again and records what is still missing."""
    monkeypatch.setattr(stream, "RECONCILE_BATCH", 2)
    async with recording(store) as recorder:
        tasks = [await store.submit() for _ in range(5)]
        await recorder.until(5)
    await store.database["events"].update_one({"_id": 5}, {"$set": {"token": {"_data": "zz"}}})
    for task in tasks:
        await _touch(store, task.task_id)
    log = _DiesAfter(store.database)
    log.left = writes
    dying = Recording(store, writer=log)
    dying.begin(1)
    assert dying.task is not None
    with pytest.raises(Unavailable):
        await asyncio.wait_for(dying.task, 10)
    async with recording(store):
        events = await events_in_log(store, 12)
    made_good = [event.id for event in events if event.type == "task.progress"]
    assert made_good == [f"{task.task_id}:2" for task in tasks]
    assert [event.type for event in events].count("log.reset") == 2


async def test_a_place_in_the_stream_that_is_too_old_does_no_harm(store: Store) -> None:
    """Reading what is in the log already, from an old checkpoint, neither repeats nor stops it."""
    async with recording(store) as recorder:
        await eventually(lambda: recorder.recorder.last_turn, "it has begun")
        task = await store.submit()
        await _touch(store, task.task_id, 4)
        await recorder.until(5)
    first = await store.database["events"].find_one({"_id": 1})
    assert first is not None
    await store.leadership.save_checkpoint(DUTY, "node-1", 1, {"token": first["token"]})
    await store.database["events"].update_many({}, {"$unset": {"token": ""}})
    async with recording(store):
        await _touch(store, task.task_id)
        events = await events_in_log(store, 6)
    assert [event.data["version"] for event in events] == [1, 2, 3, 4, 5, 6]


async def test_the_recorder_trims_the_log(
    store: Store, monkeypatch: pytest.MonkeyPatch, mongodb_client: MongoClient[dict[str, Any]]
) -> None:
    """Old events go in steps while it works; the newest stays whatever its age."""
    monkeypatch.setattr(recording_duty, "TRIM_EVENTS", 2)
    async with recording(store) as recorder:
        task = await store.submit()
        await _touch(store, task.task_id, 6)
        await recorder.until(7)
    old = datetime.now(UTC) - timedelta(days=8)
    await store.database["events"].update_many({}, {"$set": {"time": old}})
    log = mongodb_client[store.database.name]["events"]
    async with recording(store):
        await eventually(lambda: log.count_documents({}) == 1, "one event is left")
    assert await store.events.oldest() == 7


def test_the_later_token_is_found_by_its_time() -> None:
    """Tokens sort by cluster time; one is later than none."""
    one, other = {"_data": "8265A0"}, {"_data": "8265B0"}
    assert later(one, other) == later(other, one) == other
    assert later(None, one) == later(one, None) == one
    assert later(None, None) is None


async def test_a_stream_survives_the_loss_of_its_cursor(store: Store) -> None:
    """A server that was started again knows no cursor: that is an outage, not a fault."""
    async with store.feed.open(None) as stream:
        await stream.stop()
        with pytest.raises(Unavailable):
            await stream.next_batch()


async def test_a_whole_document_in_the_stream_is_not_a_new_event(store: Store) -> None:
    """MongoDB may log an update as a replacement, with the last event in it once more."""
    async with recording(store) as recorder:
        task = await store.submit()
        document = dict(await store.document(task.task_id))
        await store.database["tasks"].replace_one({"_id": task.task_id}, {**document, "x": 1})
        await _touch(store, task.task_id)
        await recorder.until(2)
    events = await whole_log(store)
    assert [event.data["version"] for event in events] == [1, 2]
