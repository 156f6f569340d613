"""Every decision in every status: it makes a legal move, changes nothing, or is refused."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from hive import task_machine as machine
from hive.changes import Change, Without
from hive.errors import IllegalTransition, LeaseLost
from hive.raw_json import RawJson
from hive.task_spec import Backoff, BackoffKind, DependencyPolicy, TaskSpec
from hive.tasks import ENDED, LEGAL_MOVES, Task, TaskError, TaskStatus
from tests.hive.worlds import HELD, PROOF, SPEC, task_of

S, B, Q, R = TaskStatus.SCHEDULED, TaskStatus.BLOCKED, TaskStatus.QUEUED, TaskStatus.RUNNING
C, F, X = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED
STATUSES = (S, B, Q, R, C, F, X)

ILLEGAL, LOST, NOTHING, STAYS, LESS = "illegal", "lost", "nothing", "stays", "less"
"""Refused as illegal; refused as a lost lease; no change; a change without a move; `Without`."""

Verdict = Change | Without | None
ONCE = TaskSpec("once", max_attempts=1)
AT_ONCE = TaskSpec("at once", backoff=Backoff(BackoffKind.FIXED, base_seconds=0.0))
LATER = TaskSpec("later", backoff=Backoff(BackoffKind.FIXED, base_seconds=5.0))


@dataclass(frozen=True)
class Row:
    """A decision, the tasks that it is about, and its outcome in each status."""

    decide: Callable[[Task], Verdict]
    outcomes: tuple[TaskStatus | str, ...]
    spec: TaskSpec = SPEC
    waiting_on: tuple[str, ...] | None = None
    cancel_requested: bool = False


def _fail(task: Task) -> Verdict:
    return machine.fail(task, PROOF, TaskError("boom", "It broke."), 0.0)


def _policy(policy: DependencyPolicy) -> TaskSpec:
    return TaskSpec("waits", on_dependency_failure=policy)


def _ended(status: TaskStatus) -> Callable[[Task], Verdict]:
    return lambda task: machine.dependency_ended(task, "tsk_0", status)


LEASED = (LOST, LOST, LOST)
OVER = (LOST, LOST, LOST)
WAITS = ("tsk_0",)
#                         scheduled, blocked, queued, running, completed, failed, cancelled
TABLE: dict[str, Row] = {
    "report_progress": Row(
        lambda task: machine.report_progress(task, PROOF, {"percent": 1}, 30.0),
        (*LEASED, STAYS, *OVER),
    ),
    "complete": Row(lambda task: machine.complete(task, PROOF, RawJson(b"1")), (*LEASED, C, *OVER)),
    "complete when asked to stop": Row(
        lambda task: machine.complete(task, PROOF, None), (*LEASED, C, *OVER), cancel_requested=True
    ),
    "fail for good": Row(_fail, (*LEASED, F, *OVER), ONCE),
    "fail, again at once": Row(_fail, (*LEASED, Q, *OVER), AT_ONCE),
    "fail, again later": Row(_fail, (*LEASED, S, *OVER), LATER),
    "fail when asked to stop": Row(_fail, (*LEASED, X, *OVER), LATER, cancel_requested=True),
    "release": Row(lambda task: machine.release(task, PROOF, None), (*LEASED, Q, *OVER)),
    "release when asked to stop": Row(
        lambda task: machine.release(task, PROOF, None), (*LEASED, X, *OVER), cancel_requested=True
    ),
    "expire": Row(
        lambda task: machine.expire(task, 0.0), (*(ILLEGAL,) * 3, Q, *(ILLEGAL,) * 3), LATER
    ),
    "expire the last attempt": Row(
        lambda task: machine.expire(task, 0.0), (*(ILLEGAL,) * 3, F, *(ILLEGAL,) * 3), ONCE
    ),
    "expire when asked to stop": Row(
        lambda task: machine.expire(task, 0.0),
        (*(ILLEGAL,) * 3, X, *(ILLEGAL,) * 3),
        cancel_requested=True,
    ),
    "queue timeout": Row(
        lambda task: machine.time_out(task, "queue", 0.0),
        (NOTHING, NOTHING, F, NOTHING, NOTHING, NOTHING, NOTHING),
    ),
    "execution timeout": Row(
        lambda task: machine.time_out(task, "execution", 0.0),
        (NOTHING, NOTHING, NOTHING, S, NOTHING, NOTHING, NOTHING),
        LATER,
    ),
    "execution timeout when asked to stop": Row(
        lambda task: machine.time_out(task, "execution", 0.0),
        (NOTHING, NOTHING, NOTHING, X, NOTHING, NOTHING, NOTHING),
        cancel_requested=True,
    ),
    "total timeout": Row(
        lambda task: machine.time_out(task, "total", 0.0), (F, F, F, F, NOTHING, NOTHING, NOTHING)
    ),
    "cancel": Row(machine.cancel, (X, X, X, STAYS, ILLEGAL, ILLEGAL, NOTHING)),
    "cancel again": Row(
        machine.cancel, (X, X, X, NOTHING, ILLEGAL, ILLEGAL, NOTHING), cancel_requested=True
    ),
    "revoke": Row(machine.revoke, (NOTHING,) * 7),
    "revoke when asked to stop": Row(
        machine.revoke,
        (NOTHING, NOTHING, NOTHING, X, NOTHING, NOTHING, NOTHING),
        cancel_requested=True,
    ),
    "promote": Row(machine.promote, (Q, *(NOTHING,) * 6), waiting_on=()),
    "promote while waiting": Row(machine.promote, (B, *(NOTHING,) * 6), waiting_on=WAITS),
    "unblock": Row(machine.unblock, (NOTHING, Q, *(NOTHING,) * 5), waiting_on=()),
    "unblock while waiting": Row(machine.unblock, (NOTHING,) * 7, waiting_on=WAITS),
    "a dependency completed": Row(
        _ended(C), (LESS, LESS, *(NOTHING,) * 5), _policy(DependencyPolicy.FAIL)
    ),
    "a dependency failed: fail": Row(
        _ended(F), (F, F, *(NOTHING,) * 5), _policy(DependencyPolicy.FAIL)
    ),
    "a dependency was cancelled: fail": Row(
        _ended(X), (F, F, *(NOTHING,) * 5), _policy(DependencyPolicy.FAIL)
    ),
    "a dependency failed: skip": Row(
        _ended(F), (X, X, *(NOTHING,) * 5), _policy(DependencyPolicy.SKIP_ME)
    ),
    "a dependency failed: run": Row(
        _ended(F), (LESS, LESS, *(NOTHING,) * 5), _policy(DependencyPolicy.RUN)
    ),
}

CELLS = list(itertools.product(TABLE, STATUSES))


def _task(row: Row, status: TaskStatus) -> Task:
    waits = row.waiting_on
    if waits is None:
        waits = WAITS if status in (S, B) else ()
    return task_of(status, row.spec, waiting_on=waits, cancel_requested=row.cancel_requested)


@pytest.mark.parametrize(("name", "status"), CELLS)
def test_each_decision_in_each_status_does_what_the_table_says(
    name: str, status: TaskStatus
) -> None:
    """A cell of status x decision: a legal move, no move, nothing, or the right refusal."""
    row = TABLE[name]
    task = _task(row, status)
    expected = row.outcomes[STATUSES.index(status)]
    if expected == ILLEGAL:
        with pytest.raises(IllegalTransition, match=rf"Expected .+, got {status}\."):
            row.decide(task)
        return
    if expected == LOST:
        with pytest.raises(LeaseLost):
            row.decide(task)
        return
    verdict = row.decide(task)
    if expected == NOTHING:
        assert verdict is None
    elif expected == LESS:
        assert verdict == Without("waiting_on", "tsk_0")
    else:
        assert isinstance(verdict, Change)
        assert verdict.fields.get("status", STAYS) == expected
        if expected != STAYS:
            assert expected in LEGAL_MOVES[status]


@pytest.mark.parametrize(("name", "status"), CELLS)
def test_no_decision_leaves_the_table_even_for_a_task_that_should_not_be(
    name: str, status: TaskStatus
) -> None:
    """Whatever a broken document looks like, a move is legal or refused with what was expected."""
    row = TABLE[name]
    task = task_of(
        status, row.spec, lease=HELD, waiting_on=WAITS, cancel_requested=row.cancel_requested
    )
    try:
        verdict = row.decide(task)
    except IllegalTransition as refused:
        assert re.fullmatch(rf"Expected .+, got {status}\.", refused.detail)  # noqa: PT017
        return
    if isinstance(verdict, Change):
        moved_to = verdict.fields.get("status", status)
        assert moved_to == status or moved_to in LEGAL_MOVES[status]


def test_the_refusal_names_every_status_that_could_be() -> None:
    """`Expected a task that is A or B, got C` lists the origins of the move from the table."""
    with pytest.raises(IllegalTransition) as refused:
        machine.cancel(task_of(C))
    assert refused.value.detail == (
        "Expected a task that is blocked or queued or running or scheduled, got completed."
    )
    assert refused.value.code == "illegal-transition"


def test_ended_tasks_move_nowhere_but_to_a_retry() -> None:
    """Completed and cancelled are final; failed can only be queued again."""
    assert {status: LEGAL_MOVES[status] for status in ENDED} == {
        C: frozenset(),
        X: frozenset(),
        F: frozenset({Q}),
    }
    assert set(LEGAL_MOVES) == set(TaskStatus)


@pytest.mark.parametrize("name", [name for name in TABLE if TABLE[name].outcomes[3] in ENDED])
def test_every_end_of_a_running_task_gives_its_lease_up(name: str) -> None:
    """An end takes the lease away, remembers a holder that ended it, and marks the dependents."""
    row = TABLE[name]
    verdict = row.decide(_task(row, R))
    assert isinstance(verdict, Change)
    assert repr(verdict.fields["lease"]) == "ABSENT"
    by_holder = name.startswith(("complete", "fail", "release"))
    proof = {"lease_id": PROOF.lease_id, "fence": PROOF.fence}
    assert verdict.fields.get("ended_by") == (proof if by_holder else None)
    assert verdict.fields["release_pending"] is True
    assert verdict.fields["waiting_on"] == []
    assert verdict.event == f"task.{row.outcomes[3]}"
