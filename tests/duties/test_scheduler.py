"""The scheduler makes one task for each time, whoever dies or works beside it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from hive import schedules as machine
from hive import task_machine
from hive.errors import Unavailable
from hive.events import Event
from hive.schedules import Counts, Overlap, Schedule
from hive.tasks import TaskStatus
from server import scheduler as scheduling
from server.cancelling import cancel_and_wait
from server.identifiers import scheduled_task_id
from storage.mongo.retention import MongoOldData
from storage.mongo.schedules import MongoSchedules
from tests.api.running import found
from tests.duties.scheduling import MINUTE, TIMES, Scheduled
from tests.servers import ROOT, eventually
from tests.storage.store import ME, Store


@pytest_asyncio.fixture
async def scheduled(store: Store) -> AsyncIterator[Scheduled]:
    """Real MongoDB without schedules."""
    schedules = MongoSchedules(store.database)
    await schedules.prepare()
    await store.database["schedules"].delete_many({})
    yield Scheduled(store, schedules)


async def test_each_time_that_has_come_makes_one_task(scheduled: Scheduled) -> None:
    """Three that were not seen to, one after the other; a second turn has nothing to do."""
    schedule = await scheduled.make(ago=3 * MINUTE + timedelta(seconds=5))
    scheduler = scheduled.scheduler()
    assert 0 < await scheduler.turn() <= scheduling.LOOK_AGAIN_SECONDS
    await scheduler.turn()
    tasks = await scheduled.tasks(schedule)
    times = [schedule.origin + n * MINUTE for n in (1, 2, 3)]
    assert [one.task_id for one in tasks] == [
        scheduled_task_id(schedule.schedule_id, time) for time in times
    ]
    now = await scheduled.seen(schedule)
    assert (now.counts, now.next_run_at) == (Counts(made=3), times[-1] + MINUTE)
    assert now.last_run is not None
    assert (now.last_run.task_id, now.last_run.time) == (tasks[-1].task_id, times[-1])


async def test_a_kill_between_the_writes_makes_no_second_task(
    scheduled: Scheduled, kept_database: str
) -> None:
    """The process dies when the task is there and the schedule has not moved; another goes on."""
    schedule = await scheduled.make(ago=MINUTE, overlap=Overlap.SKIP)
    command = [sys.executable, "-m", "tests.duties.scheduling", scheduled.store.uri, kept_database]
    dead = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, timeout=60, check=False)
    assert dead.returncode == -signal.SIGKILL
    (made,) = await scheduled.tasks(schedule)
    assert (await scheduled.seen(schedule)).version == 1
    await scheduled.scheduler().turn()
    assert [one.task_id for one in await scheduled.tasks(schedule)] == [made.task_id]
    now = await scheduled.seen(schedule)
    assert (now.counts, now.open_runs) == (Counts(made=1), (made.task_id,))


async def test_a_task_that_is_there_is_not_skipped_for_an_overlap(scheduled: Scheduled) -> None:
    """Made before a kill, it is made: also when an earlier one has not ended."""
    schedule = await scheduled.make(ago=2 * MINUTE, overlap=Overlap.SKIP)
    for number in (1, 2):
        time = schedule.origin + number * MINUTE
        task_id = scheduled_task_id(schedule.schedule_id, time)
        await scheduled.store.tasks.insert(task_id, machine.task_of(schedule), ME)
    await scheduled.scheduler().turn()
    assert (await scheduled.seen(schedule)).counts == Counts(made=2)


async def test_two_schedulers_make_what_one_makes(scheduled: Scheduled) -> None:
    """Side by side on the same times: one task each, counted once."""
    schedules = [await scheduled.make(ago=5 * MINUTE) for _ in range(4)]
    await asyncio.gather(*(scheduled.scheduler().turn() for _ in range(3)))
    for schedule in schedules:
        assert len(await scheduled.tasks(schedule)) == 5
        assert (await scheduled.seen(schedule)).counts == Counts(made=5)


async def test_skip_passes_over_what_overlaps(scheduled: Scheduled) -> None:
    """Until the task has ended."""
    schedule = await scheduled.make(ago=3 * MINUTE, overlap=Overlap.SKIP)
    await scheduled.scheduler().turn()
    assert (await scheduled.seen(schedule)).counts == Counts(made=1, skipped=2)


async def test_buffer_one_waits_for_the_end(scheduled: Scheduled) -> None:
    """One time waits, a second is skipped; it is made when the task has ended, and no earlier."""
    schedule = await scheduled.make(ago=3 * MINUTE, overlap=Overlap.BUFFER_ONE)
    scheduler = scheduled.scheduler()
    await scheduler.turn()
    waiting = await scheduled.seen(schedule)
    assert (waiting.counts, waiting.buffered_at) == (
        Counts(made=1, skipped=1),
        schedule.origin + 2 * MINUTE,
    )
    (first,) = await scheduled.tasks(schedule)
    await scheduled.store.tasks.change(first.task_id, task_machine.cancel, ME)
    await scheduler.turn()
    now = await scheduled.seen(schedule)
    assert (now.counts, now.buffered_at) == (Counts(made=2, skipped=1), None)
    assert len(now.open_runs) == 1


async def test_cancel_other_ends_what_waits_and_asks_what_runs_to_stop(
    scheduled: Scheduled,
) -> None:
    """The new task is made at once."""
    ago = 2 * MINUTE + timedelta(seconds=5)
    schedule = await scheduled.make(ago=ago, overlap=Overlap.CANCEL_OTHER)
    scheduler = scheduled.scheduler()
    await scheduler.turn()
    first, second = await scheduled.tasks(schedule)
    assert (first.status, first.reason) == (TaskStatus.CANCELLED, "replaced")
    running = await scheduled.store.claim()
    assert running is not None
    assert running.task_id == second.task_id
    await _bend(scheduled, schedule, timedelta(seconds=57))
    await scheduler.turn()
    _, second, third = await scheduled.tasks(schedule)
    assert (second.status, second.cancel_requested) == (TaskStatus.RUNNING, True)
    assert third.status is TaskStatus.QUEUED


async def test_what_is_too_long_ago_is_counted_and_not_made(scheduled: Scheduled) -> None:
    """An hour nobody was there; of its minutes those within the window are made up for."""
    schedule = await scheduled.make(ago=61 * MINUTE, catch_up_seconds=150)
    scheduler = scheduled.scheduler()
    while await scheduler.turn() == 0:
        pass
    now = await scheduled.seen(schedule)
    assert now.counts.missed + now.counts.made == 61
    assert now.counts.made in (2, 3)
    assert len(await scheduled.tasks(schedule)) == now.counts.made


async def test_a_refused_task_is_skipped_and_holds_nothing_up(scheduled: Scheduled) -> None:
    """Whatever a submission is refused for: the next time is another chance."""
    key = {"key": "once", "on_duplicate": "reject"}
    schedule = await scheduled.make(ago=2 * MINUTE, task={"name": "work", "deduplication": key})
    await scheduled.scheduler().turn()
    assert (await scheduled.seen(schedule)).counts == Counts(made=1, skipped=1)


async def test_one_that_can_not_be_carried_out_keeps_no_other_waiting(
    scheduled: Scheduled,
) -> None:
    """A template that nobody can read any more is logged; the others fire."""
    broken = await scheduled.make(task={"name": "work", "priority": "no such"})
    sound = await scheduled.make()
    await scheduled.scheduler().turn()
    assert (await scheduled.seen(sound)).counts == Counts(made=1)
    assert (await scheduled.seen(broken)).counts == Counts()


async def test_a_paused_or_deleted_schedule_makes_nothing(scheduled: Scheduled) -> None:
    """Although its time had come before."""
    paused, deleted = await scheduled.make(), await scheduled.make()
    await scheduled.schedules.change(paused.schedule_id, machine.pause, ME)
    await scheduled.schedules.change(deleted.schedule_id, machine.delete, ME)
    await scheduled.scheduler().turn()
    assert [await scheduled.tasks(one) for one in (paused, deleted)] == [[], []]


async def test_jitter_delays_the_task_and_not_the_times(scheduled: Scheduled) -> None:
    """Nothing is due before; the identifier is that of the time."""
    schedule = await scheduled.make(ago=MINUTE, jitter_seconds=86_400)
    await scheduled.scheduler().turn()
    assert await scheduled.tasks(schedule) == []
    assert schedule.next_run_at == schedule.origin + MINUTE


async def test_it_sleeps_until_the_next_time_or_until_it_is_woken(
    scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new schedule here, an event of another node, the end of a task: none waits for a look."""
    monkeypatch.setattr(scheduling, "LOOK_AGAIN_SECONDS", 3600.0)
    scheduler = scheduled.scheduler()
    scheduled.schedules.on_commit(scheduler.schedule_committed)
    scheduled.store.tasks.on_commit(scheduler.task_committed)
    work = asyncio.create_task(scheduler.work(1))
    try:
        await _asleep(scheduler)
        timed = await scheduled.make(ago=timedelta(0), every=1)
        await _made(scheduled, timed, 1)
        await scheduled.schedules.change(timed.schedule_id, machine.delete, ME)
        waiting = await scheduled.make(ago=2.5 * MINUTE, overlap=Overlap.BUFFER_ONE)
        await _made(scheduled, waiting, 1)
        (first,) = await scheduled.tasks(waiting)
        await _asleep(scheduler)
        await scheduled.store.tasks.change(first.task_id, task_machine.cancel, ME)
        await _made(scheduled, waiting, 2)
        elsewhere = Scheduled(scheduled.store, MongoSchedules(scheduled.store.database))
        await _asleep(scheduler)
        other = await elsewhere.make()
        event: Any = Event(1, "e", "schedule.created", other.schedule_id, other.created_at, {})
        scheduler.heard([event])
        await _made(scheduled, other, 1)
    finally:
        await cancel_and_wait(work)


async def test_it_goes_on_after_an_outage_of_the_store(
    scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tries again soon."""
    monkeypatch.setattr(scheduling, "PAUSE_SECONDS", 0.0)
    schedule = await scheduled.make()
    look, outages = scheduled.schedules.due, [Unavailable()]

    async def due(*, limit: int) -> Any:
        if outages:
            raise outages.pop()
        return await look(limit=limit)

    monkeypatch.setattr(scheduled.schedules, "due", due)
    work = asyncio.create_task(scheduled.scheduler().work(1))
    try:
        await _made(scheduled, schedule, 1)
    finally:
        await cancel_and_wait(work)


async def test_a_schedule_that_changes_meanwhile_keeps_the_task_and_its_own_next_time(
    scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody replaces the configuration between the two writes: the task counts."""
    schedule = await scheduled.make(ago=MINUTE)
    write = scheduled.store.tasks.insert

    async def insert(*arguments: Any) -> Any:
        task = await write(*arguments)
        now = await scheduled.schedules.now()
        await scheduled.schedules.change(
            schedule.schedule_id, lambda one: machine.update(one, _hourly(one), now, TIMES), ME
        )
        return task

    monkeypatch.setattr(scheduled.store.tasks, "insert", insert)
    await scheduled.scheduler().turn()
    now = await scheduled.seen(schedule)
    assert (now.counts, now.version) == (Counts(made=1), 3)
    assert now.next_run_at == schedule.origin + 60 * MINUTE


async def test_a_deleted_schedule_is_forgotten_after_a_week(scheduled: Scheduled) -> None:
    """One that is there stays, and so does one whose end may not be in the log."""
    store = scheduled.store
    kept, young, old = [await scheduled.make() for _ in range(3)]
    for schedule in (young, old):
        await scheduled.schedules.change(schedule.schedule_id, machine.delete, ME)
    collection = store.database["schedules"]
    week = {"$subtract": ["$$NOW", 8 * 86_400_000]}
    await collection.update_one({"_id": old.schedule_id}, [{"$set": {"deleted_at": week}}])
    old_data = MongoOldData(store.database)
    assert await old_data.delete_tombstones(limit=10) == 0
    token = {"_data": "82FFFFFFF000000001"}
    await store.database["leaders"].insert_one({"_id": "recorder", "checkpoint": {"token": token}})
    assert await old_data.delete_tombstones(limit=10) == 1
    left = {row["_id"] async for row in collection.find({}, {"_id": True})}
    assert left == {kept.schedule_id, young.schedule_id}


def _hourly(schedule: Schedule) -> machine.ScheduleSpec:
    trigger = replace(schedule.spec.trigger, interval_seconds=3600)
    return replace(schedule.spec, trigger=trigger)


async def _bend(scheduled: Scheduled, schedule: Schedule, by: timedelta) -> None:
    """Its next time comes so much earlier."""
    earlier = {"$subtract": ["$next_run_at", round(by.total_seconds() * 1000)]}
    await scheduled.store.database["schedules"].update_one(
        {"_id": schedule.schedule_id},
        [{"$set": {"next_run_at": earlier, "due_at": earlier, "decided_until": "$$REMOVE"}}],
    )


async def _asleep(scheduler: scheduling.Scheduler) -> None:
    """Return once it waits to be woken."""
    await eventually(lambda: scheduler._wake._waiters, "the scheduler sleeps")


async def _made(scheduled: Scheduled, schedule: Schedule, count: int) -> None:
    await found(
        lambda: scheduled.seen(schedule),
        lambda one: one.counts.made >= count,
        f"{count} tasks are made",
    )
