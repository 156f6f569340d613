"""The place in the queue, and who may take a task first: what the decisions ask of storage."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hive import task_machine as machine
from hive.admission import REASON, turn_away
from hive.changes import ABSENT, Change
from hive.matching import can_serve, label_words, queue_key
from hive.queue_order import HeadStart, Place, climb, head_start_seconds, lead_ms, place
from hive.task_spec import (
    AgentLabels,
    Backoff,
    Concurrency,
    ConcurrencyStrategy,
    Fairness,
    Sticky,
    TaskPriority,
    TaskSpec,
    Timeouts,
)
from hive.tasks import TaskError, TaskStatus
from tests.hive.worlds import PROOF, task_of

S = TaskStatus
AT_ONCE = Backoff(base_seconds=0)


def test_the_lead_grows_by_the_level() -> None:
    """In milliseconds; with no age, priorities mean nothing."""
    assert [lead_ms(rank, 300) for rank in range(4)] == [0, 300_000, 600_000, 900_000]
    assert lead_ms(3, 0.5) == 1_500
    assert lead_ms(3, 0) == 0


@pytest.mark.parametrize("status", [S.SCHEDULED, S.BLOCKED, S.RUNNING, S.FAILED])
def test_whatever_becomes_queued_takes_a_place(status: TaskStatus) -> None:
    """By its priority and its fairness key, whether it is new, promoted, unblocked or retried."""
    spec = TaskSpec("work", priority=TaskPriority.HIGH, fairness=Fairness("a", 2), backoff=AT_ONCE)
    task = task_of(status, spec, waiting_on=())
    ways: dict[TaskStatus, Callable[[], Change | None]] = {
        S.SCHEDULED: lambda: machine.promote(task),
        S.BLOCKED: lambda: machine.unblock(task),
        S.RUNNING: lambda: machine.fail(task, PROOF, TaskError("x", "x"), 0.0),
        S.FAILED: lambda: machine.retry(task),
    }
    queued = ways[status]()
    assert queued is not None
    for fields in (queued.fields, machine.submit(spec, "usr_1", ()).fields):
        assert fields["status"] is S.QUEUED
        assert fields["queue_order"] == Place(2, Fairness("a", 2))


def test_a_task_that_is_given_back_keeps_its_place() -> None:
    """Neither the wait nor the attempt was its own doing."""
    fields = machine.release(task_of(S.RUNNING), PROOF, None).fields
    assert fields["status"] is S.QUEUED
    assert not {"queue_order", "reserved"} & set(fields)


def test_another_priority_is_a_climb() -> None:
    """So many levels better or worse, from wherever the task stands."""
    spec = TaskSpec("work", priority=TaskPriority.MEDIUM)
    assert climb(spec, TaskPriority.CRITICAL)["queue_order"].ranks == 2
    assert climb(spec, TaskPriority.LOW)["queue_order"].ranks == -1


PREFERRED = AgentLabels(preferred={"zone": "eu"}, head_start_seconds=3)


@pytest.mark.parametrize(
    ("spec", "last_agent", "seconds", "start"),
    [
        (TaskSpec("work"), "agt_1", 0, ABSENT),
        (TaskSpec("work", agent_labels=AgentLabels({"zone": "eu"})), "agt_1", 0, ABSENT),
        (TaskSpec("work", agent_labels=PREFERRED), "agt_1", 3, HeadStart(3, ("zone=eu",))),
        (TaskSpec("work", sticky=Sticky()), None, 1, ABSENT),
        (TaskSpec("work", sticky=Sticky()), "agt_1", 1, HeadStart(1, (), "agt_1")),
        (TaskSpec("work", sticky=Sticky("tsk_0", 9)), "a", 9, HeadStart(9, (), None, "tsk_0")),
        (
            TaskSpec("work", agent_labels=PREFERRED, sticky=Sticky("tsk_0", 2)),
            None,
            3,
            HeadStart(3, ("zone=eu",), None, "tsk_0"),
        ),
    ],
    ids=["none", "required", "preferred", "first attempt", "own last", "another's", "both"],
)
def test_who_has_a_head_start(
    spec: TaskSpec, last_agent: str | None, seconds: float, start: object
) -> None:
    """Those with the labels and the one that it sticks to; the longer time of the two."""
    assert head_start_seconds(spec) == seconds
    assert place(spec, last_agent=last_agent)["reserved"] == start


def test_labels_are_part_of_the_key_of_the_queue() -> None:
    """Whatever is in them, they are told apart from capabilities and from each other."""
    needs = {"zone": "eu&x=y|z?", "gpu": "ü "}
    spec = TaskSpec("work", required_capabilities=("b", "a"), agent_labels=AgentLabels(needs))
    key = queue_key(spec)
    assert queue_key(TaskSpec("work", required_capabilities=("b", "a"))) == "a|b"
    capabilities = frozenset({"a", "b", "c"})
    words = frozenset(label_words({**needs, "other": "1"}))
    assert can_serve(capabilities, words, key)
    assert can_serve(capabilities, frozenset(), "a|b")
    assert not can_serve(frozenset({"a"}), words, key)
    assert not can_serve(capabilities, frozenset(label_words({"zone": "eu", "x": "y"})), key)


def test_a_task_that_is_turned_away_is_what_was_asked_for_and_nothing_open() -> None:
    """It has ended: it holds no key, waits for nothing, and nothing looks after it."""
    spec = TaskSpec(
        "work",
        concurrency=Concurrency("k", 1, ConcurrencyStrategy.CANCEL_NEWEST),
        timeouts=Timeouts(total_seconds=5),
    )
    asked = machine.submit(spec, "usr_1", ("tsk_0",))
    refused = turn_away(asked)
    assert refused.event == "task.cancelled"
    assert refused.fields["status"] is S.CANCELLED
    assert (refused.fields["reason"], refused.fields["waiting_on"]) == (REASON, [])
    assert {"total_deadline", "settle_pending", "open"} <= set(asked.fields) - set(refused.fields)


def test_whoever_is_asked_to_stop_for_a_newer_task_says_so_at_its_end() -> None:
    """The reason of the cancellation goes with the task."""
    asked = machine.cancel(task_of(S.RUNNING), REASON)
    assert asked is not None
    assert asked.fields["reason"] == REASON
    obeying = task_of(S.RUNNING, cancel_requested=True, reason=REASON)
    assert machine.release(obeying, PROOF, None).fields["reason"] == REASON
    plain = task_of(S.RUNNING, cancel_requested=True)
    assert machine.release(plain, PROOF, None).fields["reason"] == "cancelled"
