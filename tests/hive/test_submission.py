"""What may be changed while a task waits, and how many tasks an owner may have."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hive import task_machine as machine
from hive.changes import ABSENT
from hive.errors import IllegalTransition
from hive.open_tasks import COUNTED_SECONDS, OwnerRoom, TooManyTasks
from hive.submission import (
    AttemptsUsed,
    TaskUpdate,
    is_awaited,
    open_mark,
    read_seen,
    update,
)
from hive.task_spec import Deduplication, TaskPriority, TaskSpec, Timeouts
from hive.tasks import ENDED, LEGAL_MOVES, WAITING, TaskStatus
from tests.hive.worlds import EPOCH, SPEC, task_of

LATER = EPOCH + timedelta(days=1)
EVERYTHING = TaskUpdate(
    description="new",
    priority=TaskPriority.CRITICAL,
    labels={"a": "1"},
    run_at=LATER,
    max_attempts=9,
    timeouts=Timeouts(queue_seconds=5.0, total_seconds=60.0),
)
KEYED = TaskSpec("keyed", deduplication=Deduplication("nightly"))


@pytest.mark.parametrize("status", TaskStatus)
def test_only_what_waits_is_changed(status: TaskStatus) -> None:
    """All fields at once, by a legal move; a task that runs or has ended is refused."""
    if status not in WAITING:
        with pytest.raises(IllegalTransition, match=status):
            update(task_of(status), EVERYTHING)
        return
    change = update(task_of(status), EVERYTHING)
    assert change is not None
    assert change.event == "task.updated"
    moved = change.fields["status"]
    assert moved is status or moved in LEGAL_MOVES[status]
    assert change.fields["total_deadline"] == EPOCH + timedelta(seconds=60)
    assert change.fields["queued_at"] is ABSENT


def test_queued_task_stays_queued_unless_it_is_put_off() -> None:
    """Another priority is no move; it changes the place in the queue."""
    change = update(task_of(TaskStatus.QUEUED), TaskUpdate(priority=TaskPriority.LOW))
    assert change is not None
    assert "status" not in change.fields
    assert "queue_order" in change.fields
    waiting = update(task_of(TaskStatus.BLOCKED), TaskUpdate(priority=TaskPriority.LOW))
    assert waiting is not None
    assert "queue_order" not in waiting.fields


def test_what_is_so_already_is_no_change() -> None:
    """The same values again make no event."""
    task = task_of(TaskStatus.SCHEDULED, run_at=LATER)
    same = TaskUpdate(
        priority=SPEC.priority, labels={}, run_at=LATER, max_attempts=3, timeouts=Timeouts()
    )
    assert update(task, same) is None


def test_empty_timeouts_take_all_of_them_away() -> None:
    """They are replaced as a whole, the deadline too."""
    task = task_of(TaskStatus.QUEUED, TaskSpec("t", timeouts=Timeouts(total_seconds=9.0)))
    change = update(task, TaskUpdate(timeouts=Timeouts()))
    assert change is not None
    assert change.fields["timeouts"] is ABSENT
    assert change.fields["total_deadline"] is ABSENT


@pytest.mark.parametrize(("attempt", "allowed"), [(0, 1), (1, 2), (3, 4)])
def test_max_attempts_leaves_an_attempt(attempt: int, allowed: int) -> None:
    """As many as were begun are refused, one more is not."""
    task = task_of(TaskStatus.QUEUED, TaskSpec("t", max_attempts=50), attempt=attempt)
    assert update(task, TaskUpdate(max_attempts=allowed)) is not None
    if attempt:
        with pytest.raises(AttemptsUsed):
            update(task, TaskUpdate(max_attempts=attempt))


def test_every_end_takes_the_mark_away() -> None:
    """The key is free by the write that ends the task."""
    submitted = machine.submit(KEYED, "usr_1", ())
    assert submitted.fields["open"] == {"owner": "usr_1", "key": "nightly"}
    assert open_mark("usr_1", SPEC) == {"owner": "usr_1"}
    for status in (*WAITING, TaskStatus.RUNNING):
        ended = machine.time_out(task_of(status, KEYED), "total", 0.0)
        assert ended is not None
        assert ended.fields["open"] is ABSENT
    again = machine.retry(task_of(TaskStatus.FAILED, KEYED))
    assert again.fields["open"] == submitted.fields["open"]


@pytest.mark.parametrize(
    ("field", "seen"),
    [
        (None, None),
        ("*", None),
        ('"7.abc"', {7}),
        ('W/"7.abc-gzip", "9.x"', {7, 9}),
        ('"abc"', set()),
        ("broken", set()),
    ],
)
def test_versions_that_a_client_has_seen(field: str | None, seen: set[int] | None) -> None:
    """Weak tags count; what names no version is not what the task is at."""
    assert read_seen(field) == seen


@pytest.mark.parametrize("status", TaskStatus)
def test_who_waits_is_told_of_the_end_and_of_what_is_new(status: TaskStatus) -> None:
    """Without tags the end alone counts."""
    has_ended = status in ENDED
    assert is_awaited(status, 3, None) is has_ended
    assert is_awaited(status, 3, frozenset({3})) is has_ended
    assert is_awaited(status, 3, frozenset({2}))


class Nodes:
    """Several nodes that submit for one owner, and the store that they count in."""

    def __init__(self, count: int, most: int) -> None:
        self.rooms = [OwnerRoom(most) for _ in range(count)]
        self.open = 0
        self.counts = 0
        self.now = 0.0

    def submit(self, node: int) -> bool:
        """One submission by the node; whether it was admitted."""
        room = self.rooms[node]
        if room.needs_count(self.now):
            self.counts += 1
            room.begin_count()
            room.end_count(min(self.open, room.most), self.now)
        try:
            room.take()
        except TooManyTasks:
            return False
        self.open += 1
        room.settle(1, 1)
        return True


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4),
    st.sampled_from([1, 3, 250, 1000]),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 400), st.integers(0, 300)), max_size=12),
)
@example(2, 1000, [(0, 1, 0), (1, 1000, 0), (0, 1000, 0)])
def test_bound_holds_on_one_node_and_within_a_step_for_each_other(
    count: int, most: int, bursts: list[tuple[int, int, int]]
) -> None:
    """Whoever submits how often, and whatever ends in between."""
    nodes = Nodes(count, most)
    allowed = most + (count - 1) * nodes.rooms[0].step
    for node, submissions, ends in bursts:
        for _ in range(submissions):
            nodes.submit(node % count)
            assert nodes.open <= allowed
        nodes.open = max(0, nodes.open - ends)
        nodes.now += 0.25


def test_counting_is_rare_and_an_end_makes_room_within_a_second() -> None:
    """A hundred counts for 10,000 tasks; a refusal is not older than a second."""
    nodes = Nodes(1, 10_000)
    assert all(nodes.submit(0) for _ in range(10_000))
    assert nodes.counts <= 101
    assert not any(nodes.submit(0) for _ in range(100))
    assert nodes.counts <= 102
    nodes.open -= 1
    nodes.now += COUNTED_SECONDS
    assert nodes.submit(0)
    assert not nodes.submit(0)


def test_what_is_under_way_at_a_count_is_held_and_given_back_when_it_fails() -> None:
    """Never over the bound, and no room is lost."""
    room = OwnerRoom(2)
    room.begin_count()
    room.end_count(0, 0.0)
    room.take()
    assert room.needs_count(0.0)
    room.begin_count()
    room.end_count(1, 0.0)
    with pytest.raises(TooManyTasks):
        room.take(2)
    room.settle(1, 0)
    assert room.needs_count(0.0, 2)
    room.begin_count()
    room.end_count(0, 0.0)
    room.take(2)
