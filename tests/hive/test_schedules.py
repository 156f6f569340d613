"""Schedules: their times, and the decisions about them. A time is decided once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest

from hive import schedules as machine
from hive.changes import ABSENT, Change
from hive.errors import Invalid
from hive.fire_times import FireTimes, Trigger, due_at
from hive.schedules import Counts, LastRun, Overlap, Schedule, ScheduleSpec, ScheduleStatus
from server.cron import CronTimes
from server.identifiers import scheduled_task_id

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TIMES = FireTimes(CronTimes())


def schedule_of(**fields: Any) -> Schedule:
    """A schedule that fires each minute and is due at `EPOCH`."""
    spec_fields: dict[str, Any] = {
        name: fields.pop(name)
        for name in ("trigger", "overlap", "catch_up_seconds", "jitter_seconds")
        if name in fields
    }
    usual: dict[str, Any] = {"trigger": Trigger(interval_seconds=60)}
    spec = ScheduleSpec("s", {"name": "work"}, **{**usual, **spec_fields})
    given: dict[str, Any] = {"next_run_at": EPOCH, **fields}
    return Schedule("sch_1", spec, "usr_1", False, 3, EPOCH, EPOCH, origin=EPOCH, **given)  # noqa: FBT003 - not paused


def after(schedule: Schedule, change: Change | None) -> Schedule:
    """The schedule after the change, as far as it says what comes next."""
    assert change is not None
    fields = dict(change.fields)
    names = ("paused", "counts", "last_run", "open_runs", "decided_until")
    changed = {name: fields[name] for name in names if name in fields}
    if "open_runs" in changed:
        changed["open_runs"] = tuple(changed["open_runs"])
    for name in ("next_run_at", "buffered_at"):
        if name in fields:
            changed[name] = None if fields[name] is ABSENT else fields[name]
    return replace(schedule, **changed)


def local(trigger: Trigger, start: str, count: int) -> list[str]:
    """The next times behind a time in UTC, in UTC."""
    first = datetime.fromisoformat(start).replace(tzinfo=UTC)
    times = islice(TIMES.after(trigger, EPOCH, first), count)
    return [time.isoformat(timespec="minutes").removesuffix("+00:00") for time in times]


# docs/schedules.md has this table. In Berlin the hour from 02:00 is not there on 29 March 2026, and
# comes twice on 25 October.
CLOCKS = [
    ("30 2 * * *", "2026-03-28T12:00", ["2026-03-29T01:00", "2026-03-30T00:30"]),
    ("15,45 2 * * *", "2026-03-28T12:00", ["2026-03-29T01:00", "2026-03-30T00:15"]),
    ("*/30 * * * *", "2026-03-29T00:00", ["2026-03-29T00:30", "2026-03-29T01:00"]),
    ("0 * * * *", "2026-03-29T00:00", ["2026-03-29T01:00", "2026-03-29T02:00"]),
    ("30 2 * * *", "2026-10-24T12:00", ["2026-10-25T00:30", "2026-10-26T01:30"]),
    ("0 * * * *", "2026-10-24T23:30", ["2026-10-25T00:00", "2026-10-25T01:00"]),
    ("*/30 2 * * *", "2026-10-24T12:00",
     ["2026-10-25T00:00", "2026-10-25T00:30", "2026-10-25T01:00", "2026-10-25T01:30"]),
]  # fmt: skip


@pytest.mark.parametrize(("cron", "start", "expected"), CLOCKS)
def test_cron_where_clocks_are_set(cron: str, start: str, expected: list[str]) -> None:
    """A fixed time fires once: behind the gap, and at the first of two; `*` follows the time."""
    trigger = Trigger(cron=cron, time_zone="Europe/Berlin")
    assert local(trigger, start, len(expected)) == expected


def test_cron_asked_within_the_hour_that_comes_twice_gives_no_past() -> None:
    """Behind the first 02:45 there is no other one today, whatever the clock shows."""
    trigger = Trigger(cron="15,45 2 * * *", time_zone="Europe/Berlin")
    assert local(trigger, "2026-10-25T01:10", 1) == ["2026-10-26T01:15"]


def test_an_interval_keeps_to_its_anchor() -> None:
    """Before and behind it, whenever one asks; without one it counts from the start."""
    anchored = Trigger(interval_seconds=3600, anchor=datetime(2026, 6, 1, 0, 20, tzinfo=UTC))
    assert local(anchored, "2026-01-01T00:20", 2) == ["2026-01-01T01:20", "2026-01-01T02:20"]
    started = Trigger(interval_seconds=3600, starts_at=datetime(2026, 2, 1, 0, 5, tzinfo=UTC))
    assert local(started, "2026-01-01T00:00", 2) == ["2026-02-01T00:05", "2026-02-01T01:05"]


def test_no_time_is_outside_start_and_end() -> None:
    """Both belong to the schedule; an end before the first time leaves none."""
    trigger = Trigger(cron="0 0 * * *", starts_at=EPOCH, ends_at=EPOCH + timedelta(days=1))
    assert local(trigger, "2025-06-01T00:00", 9) == ["2026-01-01T00:00", "2026-01-02T00:00"]
    assert local(trigger, "2026-01-02T00:00", 9) == []


def test_the_calendar_ends() -> None:
    """No time is behind the year 9999; asking for one is no fault."""
    late = "9999-12-31T23:59"
    assert local(Trigger(interval_seconds=3600), late, 1) == []
    for zone in ("Europe/Berlin", "America/New_York", "UTC"):
        assert local(Trigger(cron="0 0 * * *", time_zone=zone), late, 1) == []
    first = Trigger(interval_seconds=3600, starts_at=datetime(1, 1, 1, tzinfo=UTC))
    assert local(first, "2026-01-01T00:00", 1) == ["2026-01-01T01:00"]
    last = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert due_at("sch_1", last, 86_400) <= datetime.max.replace(tzinfo=UTC)


def test_jitter_is_the_same_each_time_and_within_its_bound() -> None:
    """It depends on the schedule and the time only."""
    times = [EPOCH + n * MINUTE for n in range(200)]
    delays = [due_at("sch_1", time, 10) - time for time in times]
    assert delays == [due_at("sch_1", time, 10) - time for time in times]
    assert all(timedelta(0) <= delay <= timedelta(seconds=10) for delay in delays)
    assert len(set(delays)) > 100
    assert due_at("sch_1", EPOCH, 0) == EPOCH


def test_the_identifier_of_a_time_is_its_own() -> None:
    """Of 2,000 times of two schedules each has another one, and always the same."""
    times = [EPOCH + n * timedelta(seconds=1) for n in range(1000)]
    ids = [scheduled_task_id(one, time) for one in ("sch_1", "sch_2") for time in times]
    assert len(set(ids)) == 2000
    assert ids[0] == scheduled_task_id("sch_1", EPOCH)
    assert ids[:1000] == sorted(ids[:1000])


def test_made_moves_on_and_is_noted_once() -> None:
    """A second scheduler that carried out the same time changes nothing."""
    schedule = schedule_of()
    once = after(schedule, machine.made(schedule, EPOCH, "tsk_1", TIMES))
    assert once.next_run_at == EPOCH + MINUTE
    assert (once.counts, once.last_run) == (Counts(made=1), LastRun("tsk_1", EPOCH))
    assert machine.made(once, EPOCH, "tsk_1", TIMES) is None


def test_made_counts_although_the_schedule_was_changed_meanwhile() -> None:
    """The task is there; what comes next is what the change said."""
    moved = schedule_of(next_run_at=EPOCH + timedelta(days=1))
    noted = after(moved, machine.made(moved, EPOCH, "tsk_1", TIMES))
    assert (noted.counts.made, noted.next_run_at) == (1, moved.next_run_at)
    paused = replace(schedule_of(next_run_at=None), paused=True)
    change = machine.made(paused, EPOCH, "tsk_1", TIMES)
    assert after(paused, change).status is ScheduleStatus.PAUSED


def test_tasks_that_ended_are_forgotten() -> None:
    """And the list of the others has a bound."""
    schedule = schedule_of(open_runs=tuple(f"tsk_{n}" for n in range(machine.OPEN_RUNS_KEPT)))
    change = machine.made(schedule, EPOCH, "tsk_new", TIMES, ended={"tsk_1"})
    kept = after(schedule, change).open_runs
    assert "tsk_1" not in kept
    assert (len(kept), kept[-1]) == (machine.OPEN_RUNS_KEPT, "tsk_new")


def test_one_time_is_buffered_and_more_are_skipped() -> None:
    """The buffered one is made later than newer ones were decided, and counts once."""
    schedule = schedule_of(overlap=Overlap.BUFFER_ONE, open_runs=("tsk_0",))
    first = after(schedule, machine.buffer(schedule, EPOCH, TIMES))
    assert (first.buffered_at, first.next_run_at) == (EPOCH, EPOCH + MINUTE)
    assert machine.buffer(first, EPOCH, TIMES) is None
    second = after(first, machine.buffer(first, EPOCH + MINUTE, TIMES))
    assert (second.buffered_at, second.counts) == (EPOCH, Counts(skipped=1))
    made = after(second, machine.made(second, EPOCH, "tsk_1", TIMES))
    assert (made.buffered_at, made.counts) == (None, Counts(made=1, skipped=1))
    assert (made.next_run_at, made.decided_until) == (EPOCH + 2 * MINUTE, EPOCH + MINUTE)
    assert machine.made(made, EPOCH, "tsk_1", TIMES) is None


def test_what_is_too_long_ago_is_missed_and_counted() -> None:
    """Within the window it is made up for; an hour of minutes is one change."""
    schedule = schedule_of(catch_up_seconds=60)
    assert machine.miss(schedule, EPOCH + MINUTE, TIMES) is None
    an_hour = after(schedule, machine.miss(schedule, EPOCH + 60 * MINUTE, TIMES))
    assert (an_hour.counts.missed, an_hour.next_run_at) == (59, EPOCH + 59 * MINUTE)
    assert machine.miss(an_hour, EPOCH + 60 * MINUTE, TIMES) is None


@pytest.mark.parametrize("trigger", [Trigger(cron="* * * * *"), Trigger(interval_seconds=60)])
def test_a_long_outage_is_counted_in_bounded_steps(trigger: Trigger) -> None:
    """However many steps it takes, each time of two days is counted once, up to the end."""
    ends_at = EPOCH + timedelta(days=2)
    schedule = schedule_of(trigger=replace(trigger, ends_at=ends_at), catch_up_seconds=0)
    now = EPOCH + timedelta(days=365)
    while (change := machine.miss(schedule, now, TIMES)) is not None:
        schedule = after(schedule, change)
    assert (schedule.counts.missed, schedule.next_run_at) == (2 * 24 * 60 + 1, None)
    assert schedule.status is ScheduleStatus.ENDED


def test_jitter_makes_nothing_late() -> None:
    """A task may be made so much later before its time is missed."""
    schedule = schedule_of(catch_up_seconds=0, jitter_seconds=30)
    assert machine.miss(schedule, EPOCH + timedelta(seconds=30), TIMES) is None
    assert machine.miss(schedule, EPOCH + timedelta(seconds=31), TIMES) is not None


def test_skip_moves_on_once() -> None:
    """Of a time that is decided, nothing."""
    schedule = schedule_of()
    skipped = after(schedule, machine.skip(schedule, EPOCH, TIMES))
    assert (skipped.counts, skipped.next_run_at) == (Counts(skipped=1), EPOCH + MINUTE)
    assert machine.skip(skipped, EPOCH, TIMES) is None


def test_the_task_is_the_owners_and_names_its_schedule() -> None:
    """Labels of the template stay; a template that is no submission any more is refused."""
    schedule = schedule_of()
    spec = replace(schedule.spec, task={"name": "work", "labels": {"team": "blue"}})
    fields = machine.task_of(replace(schedule, spec=spec)).fields
    assert (fields["owner"], fields["name"]) == ("usr_1", "work")
    assert fields["labels"] == {"team": "blue", "schedule_id": "sch_1"}


@pytest.mark.parametrize(
    ("cron", "zone"),
    [
        ("* * * *", "UTC"),
        ("0 * * * * *", "UTC"),
        ("60 * * * *", "UTC"),
        ("0 0 30 2 *", "UTC"),
        ("0 0 * * *", "localtime"),
        ("0 0 * * *", "Not/There"),
        ("0 0 * * *", "America"),
    ],
)
def test_what_has_no_times_is_refused(cron: str, zone: str) -> None:
    """Neither another number of fields nor a zone of this machine."""
    with pytest.raises(Invalid):
        TIMES.check(Trigger(cron=cron, time_zone=zone))
