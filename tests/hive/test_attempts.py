"""How a task is tried again: verdicts, delays, budgets, late results and retries by hand."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from hive import attempts
from hive import task_machine as machine
from hive.attempts import LateReport, LostLease
from hive.changes import ABSENT, NOW, After, Change
from hive.errors import IllegalTransition
from hive.raw_json import RawJson
from hive.task_spec import Backoff, BackoffKind, DependencyPolicy, TaskSpec, Timeouts
from hive.tasks import LateResult, RetriesEnded, TaskError, TaskStatus
from tests.hive.worlds import EPOCH, PROOF, applied, task_of

S = TaskStatus
FLAKY = TaskError("flaky", "x")
FIXED = Backoff(BackoffKind.FIXED, 5.0, jitter=0.0)


def _made(change: Change | None) -> Change:
    assert change is not None
    return change


def _failed(spec: TaskSpec, error: TaskError = FLAKY, **fields: Any) -> Change:
    running = task_of(S.RUNNING, spec, **fields)
    return _made(machine.fail(running, PROOF, error, 0.0))


@pytest.mark.parametrize(
    ("spec", "error", "why"),
    [
        (TaskSpec("w", max_attempts=1), FLAKY, RetriesEnded.ATTEMPTS_USED),
        (TaskSpec("w", non_retryable=("flaky",)), FLAKY, RetriesEnded.NOT_RETRYABLE),
        (TaskSpec("w"), TaskError("flaky", "x", retryable=False), RetriesEnded.NOT_RETRYABLE),
        (
            TaskSpec("w", max_attempts=1, non_retryable=("flaky",)),
            FLAKY,
            RetriesEnded.NOT_RETRYABLE,
        ),
    ],
    ids=["attempts", "the task's codes", "the agent", "both"],
)
def test_the_end_of_trying_has_its_reason(
    spec: TaskSpec, error: TaskError, why: RetriesEnded
) -> None:
    """What no retry could have helped is named first."""
    change = _failed(spec, error)
    assert change.event == "task.failed"
    assert change.fields["retries_ended"] is why
    assert change.fields["error"] is error


@pytest.mark.parametrize("what", ["queue", "total"])
def test_a_timeout_of_the_task_is_a_reason_of_its_own(what: str) -> None:
    """No attempt is left over that could have been made."""
    change = _made(machine.time_out(task_of(S.QUEUED), what, 0.0))
    assert change.fields["retries_ended"] is RetriesEnded.TIMED_OUT


def test_without_a_budget_there_is_no_deadline() -> None:
    """Most tasks have none: one write, as before."""
    assert _failed(TaskSpec("w")).deadline is None


@pytest.mark.parametrize("base_seconds", [0.0, 5.0])
def test_the_budget_has_to_last_until_the_next_attempt_begins(base_seconds: float) -> None:
    """The change is another attempt; past the deadline, less the delay, it is the end."""
    backoff = Backoff(BackoffKind.FIXED, base_seconds, jitter=0.0)
    change = _failed(TaskSpec("w", retry_seconds=60, backoff=backoff))
    assert change.event == "task.retrying"
    deadline = change.deadline
    assert deadline is not None
    assert (deadline.name, deadline.seconds) == (attempts.BUDGET, base_seconds)
    assert deadline.otherwise.event == "task.failed"
    assert deadline.otherwise.fields["retries_ended"] is RetriesEnded.BUDGET_USED
    assert deadline.otherwise.fields["error"] is FLAKY


def test_the_budget_counts_from_the_submission() -> None:
    """By the clock of the database; a task that ended has none any more."""
    assert machine.submit(TaskSpec("w", retry_seconds=60), "me", ()).fields[
        attempts.BUDGET
    ] == After(60)
    assert attempts.BUDGET not in machine.submit(TaskSpec("w"), "me", ()).fields
    assert _failed(TaskSpec("w", max_attempts=1)).fields[attempts.BUDGET] is ABSENT


@pytest.mark.parametrize("status", [S.QUEUED, S.SCHEDULED])
def test_who_waits_for_another_attempt_ends_with_the_budget(status: TaskStatus) -> None:
    """With the error of the last attempt, or one of its own after it was given back."""
    spec = TaskSpec("w", retry_seconds=60)
    for error, code in ((FLAKY, "flaky"), (None, "retry-budget-used")):
        task = task_of(status, spec, attempt=1, error=error)
        change = _made(machine.time_out(task, "retry", 0.0))
        assert change.fields["status"] is S.FAILED
        assert change.fields["error"].code == code
        assert change.fields["retries_ended"] is RetriesEnded.BUDGET_USED


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (S.QUEUED, {"attempt": 0}),
        (S.SCHEDULED, {"attempt": 0}),
        (S.QUEUED, {"attempt": 3, "attempts_before": 3}),
        (S.RUNNING, {}),
        (S.COMPLETED, {}),
    ],
    ids=["new", "new and later", "retried by hand", "running", "ended"],
)
def test_a_first_attempt_needs_no_budget(status: TaskStatus, fields: dict[str, Any]) -> None:
    """Nor does one that runs already, however long it runs."""
    assert machine.time_out(task_of(status, **fields), "retry", 0.0) is None


@pytest.mark.parametrize(
    ("heartbeat", "code"),
    [(None, "lease-expired"), (5.0, "heartbeat-timeout"), (30.0, "lease-expired")],
)
def test_a_lost_lease_says_for_which_limit_it_was_lost(heartbeat: float | None, code: str) -> None:
    """Of the lease period and the heartbeat, the shorter one was over; neither has a backoff."""
    spec = TaskSpec("w", timeouts=Timeouts(heartbeat_seconds=heartbeat), backoff=FIXED)
    change = machine.expire(task_of(S.RUNNING, spec), 0.0, 30.0)
    assert change.fields["error"].code == code
    assert change.fields["status"] is S.QUEUED


def test_a_lease_that_was_taken_back_is_remembered_with_its_attempt() -> None:
    """A late report is found by it; one that its holder ended has nothing to report."""
    taken = machine.expire(task_of(S.RUNNING, attempt=2), 0.0).fields["spent_leases"]
    assert taken.value == {
        "lease_id": "lse_held",
        "agent_id": "agt_1",
        "taken_back": True,
        "fence": 3,
        "attempt": 2,
    }
    ended = _failed(TaskSpec("w", max_attempts=1)).fields["spent_leases"]
    assert ended.value == {"lease_id": "lse_held", "agent_id": "agt_1"}
    released = machine.release(task_of(S.RUNNING), PROOF, None).fields["spent_leases"]
    assert "taken_back" not in released.value


@pytest.mark.parametrize("status", S)
@pytest.mark.parametrize(("kept", "replaces"), [(None, True), (2, True), (3, False), (4, False)])
def test_the_newest_fence_of_what_came_late_is_kept(
    status: TaskStatus,
    kept: int | None,
    replaces: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """In any status, which stays what it is."""
    late = None if kept is None else LateResult(1, "agt_9", kept, S.COMPLETED, EPOCH)
    change = attempts.keep_late_result(
        task_of(status, late_result=late),
        LostLease("agt_1", 3, 2),
        LateReport(S.FAILED, error=FLAKY),
    )
    if not replaces:
        assert change is None
        return
    assert _made(change).event == "task.late_result"
    assert _made(change).fields == {
        "late_result": {
            "attempt": 2,
            "agent_id": "agt_1",
            "fence": 3,
            "status": S.FAILED,
            "time": NOW,
            "error": FLAKY,
        }
    }


@pytest.mark.parametrize("over", [0, 1])
def test_of_a_late_result_that_is_too_large_the_size_is_kept(over: int) -> None:
    """65,536 bytes are kept; a report may also have no result."""
    result = RawJson(b"1" * (attempts.LATE_RESULT_BYTES + over))
    change = attempts.keep_late_result(
        task_of(S.QUEUED), LostLease("agt_1", 3, 2), LateReport(S.COMPLETED, result)
    )
    late = _made(change).fields["late_result"]
    assert late.get("result_bytes") == (attempts.LATE_RESULT_BYTES + 1 if over else None)
    assert late.get("result") == (None if over else result)
    none = attempts.keep_late_result(
        task_of(S.QUEUED), LostLease("agt_1", 3, 2), LateReport(S.COMPLETED)
    )
    assert not _made(none).fields["late_result"].keys() & {"result", "result_bytes", "error"}


@pytest.mark.parametrize("status", [status for status in S if status is not S.FAILED])
def test_only_a_failed_task_is_retried_by_hand(status: TaskStatus) -> None:
    """The refusal says what was expected and what is."""
    with pytest.raises(IllegalTransition, match=f"failed, got {status}"):
        machine.retry(task_of(status))


def test_each_retry_by_hand_gives_as_many_attempts_again() -> None:
    """The number of the attempt goes on; the limits of time count from the retry."""
    spec = TaskSpec("w", max_attempts=3, retry_seconds=60, timeouts=Timeouts(total_seconds=90))
    fields = machine.retry(task_of(S.FAILED, spec, attempt=3)).fields
    assert (fields["attempts_before"], fields["max_attempts"]) == (3, 6)
    assert fields[attempts.BUDGET] == After(60)
    assert fields["total_deadline"] == After(90)
    again = task_of(S.FAILED, TaskSpec("w", max_attempts=6), attempt=4, attempts_before=3)
    assert machine.retry(again).fields["max_attempts"] == 7


def test_nothing_of_the_end_is_left_after_a_retry_by_hand() -> None:
    """Whoever waits on the task is told of its next end, not of this one."""
    change = machine.retry(task_of(S.FAILED))
    gone = {name for name, value in change.fields.items() if value is ABSENT}
    assert gone >= {"ended_at", "ended_by", "error", "retries_ended", "release_pending"}
    assert (change.event, change.fields["status"]) == ("task.queued", S.QUEUED)
    assert change.fields["reason"] == "retried"
    assert change.fields["queued_at"] == NOW


@pytest.mark.parametrize(
    ("policy", "status", "may"),
    [
        (DependencyPolicy.FAIL, S.COMPLETED, True),
        (DependencyPolicy.FAIL, S.FAILED, False),
        (DependencyPolicy.FAIL, S.RUNNING, False),
        (DependencyPolicy.SKIP_ME, S.CANCELLED, False),
        (DependencyPolicy.RUN, S.FAILED, True),
        (DependencyPolicy.RUN, S.CANCELLED, True),
        (DependencyPolicy.RUN, S.QUEUED, False),
    ],
)
def test_a_retry_by_hand_needs_dependencies_that_let_it_run(
    policy: DependencyPolicy,
    status: TaskStatus,
    may: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """As the policy has it; one that is gone keeps nobody waiting."""
    task = task_of(S.FAILED, TaskSpec("w", dependencies=("tsk_0",), on_dependency_failure=policy))
    attempts.require_ended(task, {})
    if may:
        attempts.require_ended(task, {"tsk_0": status})
        return
    with pytest.raises(attempts.DependencyNotEnded, match=f"tsk_0 is {status}"):
        attempts.require_ended(task, {"tsk_0": status})


def test_a_world_makes_the_other_change_past_the_deadline() -> None:
    """What these tests rely on: the deadline is a time of the task, and the delay counts."""
    change = _failed(TaskSpec("w", retry_seconds=60, backoff=FIXED))
    for left, status in ((5, "scheduled"), (4, "failed")):
        document = {attempts.BUDGET: EPOCH + timedelta(seconds=left)}
        assert applied(document, change, EPOCH)["status"] == status
