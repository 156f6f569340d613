"""What holders of leases may do: the current one everything, all others nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hive import task_machine as machine
from hive.attempts import HEARTBEAT
from hive.changes import ABSENT, NOW, After, Append, Change, Plus
from hive.errors import LeaseLost
from hive.leases import LeaseProof, NewLease
from hive.raw_json import RawJson
from hive.task_spec import Backoff, BackoffKind, TaskSpec
from hive.tasks import Task, TaskError, TaskStatus
from tests.hive.worlds import PROOF, task_of

BOOM = TaskError("boom", "It broke.")
REPORTS: dict[str, Callable[[Task, LeaseProof], Change | None]] = {
    "progress": lambda task, proof: machine.report_progress(task, proof, {"percent": 5}, 30.0),
    "complete": lambda task, proof: machine.complete(task, proof, None),
    "fail": lambda task, proof: machine.fail(task, proof, BOOM, 0.0),
    "release": lambda task, proof: machine.release(task, proof, None),
}


def _running(spec: TaskSpec | None = None, **fields: object) -> Task:
    return task_of(TaskStatus.RUNNING, spec or TaskSpec("work"), **fields)


def _made(change: Change | None) -> Change:
    assert change is not None
    return change


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize(
    "proof",
    [LeaseProof("lse_held", 2), LeaseProof("lse_held", 4), LeaseProof("lse_other", 3)],
    ids=["older fence", "newer fence", "other lease"],
)
def test_a_report_without_the_current_lease_is_refused(report: str, proof: LeaseProof) -> None:
    """Lease and fence must both be the current ones; the refusal is `lease-lost`."""
    with pytest.raises(LeaseLost) as refused:
        REPORTS[report](_running(), proof)
    assert refused.value.code == "lease-lost"


def test_start_counts_the_fence_and_the_attempt_in_one_change() -> None:
    """The fence in the lease and the task's own are the same number, one more than before."""
    change = machine.start(NewLease("lse_1", "agt_1", 2, 30.0, key="gpu", key_slot=1))
    assert change.fields["lease"] == {
        "lease_id": "lse_1",
        "agent_id": "agt_1",
        "slot": 2,
        "fence": Plus("fence"),
        "expires_at": After(30.0, at_most=HEARTBEAT),
        "key": "gpu",
        "key_slot": 1,
    }
    assert change.fields["fence"] == Plus("fence")
    assert change.fields["attempt"] == Plus("attempt")


def test_start_clears_what_the_last_attempt_left() -> None:
    """Progress and error are those of the attempt that runs."""
    fields = machine.start(NewLease("lse_1", "agt_1", 1, 30.0)).fields
    assert fields["progress"] is ABSENT
    assert fields["error"] is ABSENT


def test_progress_renews_the_lease_and_keeps_what_it_is() -> None:
    """The renewed lease has the same holder, slot and fence, and a later end."""
    lease = machine.report_progress(_running(), PROOF, {"percent": 5}, 12.0).fields["lease"]
    assert lease == {
        "lease_id": "lse_held",
        "agent_id": "agt_1",
        "slot": 1,
        "fence": 3,
        "expires_at": After(12.0, at_most=HEARTBEAT),
    }


def test_complete_repeated_by_the_same_lease_changes_nothing() -> None:
    """A lost answer can be asked for again."""
    done = task_of(TaskStatus.COMPLETED, ended_by=PROOF)
    assert machine.complete(done, PROOF, RawJson(b"2")) is None


def test_complete_by_another_lease_than_the_one_that_ended_it_is_refused() -> None:
    """An older holder can't claim the end for itself."""
    done = task_of(TaskStatus.COMPLETED, ended_by=PROOF)
    with pytest.raises(LeaseLost):
        machine.complete(done, LeaseProof("lse_old", 2), None)


def test_complete_after_the_same_lease_failed_is_refused() -> None:
    """One lease ends a task once: a failed task does not turn into a completed one."""
    failed = task_of(TaskStatus.FAILED, ended_by=PROOF)
    with pytest.raises(LeaseLost):
        machine.complete(failed, PROOF, None)


def test_fail_repeated_after_the_last_attempt_changes_nothing() -> None:
    """A lost answer to the last failure can be asked for again."""
    failed = task_of(TaskStatus.FAILED, ended_by=PROOF)
    assert machine.fail(failed, PROOF, BOOM, 0.0) is None


def test_complete_keeps_the_result_bytes() -> None:
    """The result is carried, not read."""
    result = RawJson(b'{"$x": 1,  "a.b":[]}')
    assert _made(machine.complete(_running(), PROOF, result)).fields["result"] == result


def test_fail_with_attempts_left_schedules_the_next_one() -> None:
    """The lease is spent, the error is told, and the delay is that of the backoff."""
    spec = TaskSpec("work", backoff=Backoff(BackoffKind.FIXED, 8.0, jitter=0.5))
    change = _made(machine.fail(_running(spec), PROOF, BOOM, 0.5))
    assert change.event == "task.retrying"
    assert change.fields["status"] is TaskStatus.SCHEDULED
    assert change.fields["run_at"] == After(6.0)
    assert change.fields["error"] == BOOM
    assert change.fields["lease"] is ABSENT
    spent = change.fields["spent_leases"]
    assert isinstance(spent, Append)
    assert spent.value == {"lease_id": "lse_held", "agent_id": "agt_1"}
    assert "attempt" not in change.fields


def test_fail_without_a_backoff_of_its_own_takes_the_usual_one() -> None:
    """One second, doubled with each attempt, a tenth of it random."""
    change = _made(machine.fail(_running(attempt=2), PROOF, BOOM, 0.0))
    assert change.fields["run_at"] == After(2.0)


@pytest.mark.parametrize(
    ("error", "spec"),
    [
        (TaskError("boom", "No use.", retryable=False), TaskSpec("work")),
        (BOOM, TaskSpec("work", non_retryable=("other", "boom"))),
        (BOOM, TaskSpec("work", max_attempts=1)),
    ],
    ids=["not retryable", "declared non-retryable", "no attempts left"],
)
def test_fail_that_can_not_be_tried_again_ends_the_task(error: TaskError, spec: TaskSpec) -> None:
    """The error says so, the task says so, or the attempts are used up."""
    change = _made(machine.fail(_running(spec), PROOF, error, 0.0))
    assert change.event == "task.failed"
    assert change.fields["error"] == error


@pytest.mark.parametrize(("attempt", "status"), [(2, "scheduled"), (3, "failed"), (4, "failed")])
def test_fail_counts_up_to_the_most_attempts(attempt: int, status: str) -> None:
    """The third of three attempts is the last."""
    change = _made(machine.fail(_running(attempt=attempt), PROOF, BOOM, 0.0))
    assert change.fields["status"] == status


def test_release_does_not_count_the_attempt() -> None:
    """Giving a task back is no failure: the attempt that start counted is taken off."""
    change = machine.release(_running(), PROOF, "shutting down")
    assert change.event == "task.released"
    assert change.fields["attempt"] == Plus("attempt", -1)
    assert change.fields["queued_at"] == NOW


def test_expire_tries_again_at_once() -> None:
    """A lost lease has waited long enough: no backoff."""
    spec = TaskSpec("work", backoff=Backoff(BackoffKind.FIXED, 60.0))
    change = machine.expire(_running(spec), 0.0)
    assert (change.event, change.fields["status"]) == ("task.retrying", TaskStatus.QUEUED)
    assert change.fields["error"].code == "lease-expired"


def test_expire_of_the_last_attempt_fails_the_task() -> None:
    """An agent that dies with every attempt does not run for ever."""
    change = machine.expire(_running(attempt=3), 0.0)
    assert change.fields["status"] is TaskStatus.FAILED
    assert change.fields["error"].code == "lease-expired"


def test_cancel_asks_a_running_task_to_stop_and_keeps_its_lease() -> None:
    """Cancelling is cooperative: the agent hears of it and has the grace period."""
    change = _made(machine.cancel(_running()))
    assert change == Change(
        "task.cancelling", {"cancel_requested": True, "cancel_requested_at": NOW}
    )


@pytest.mark.parametrize("what", ["queue", "execution", "total"])
def test_a_timeout_names_itself(what: str) -> None:
    """The error's code says which limit was passed."""
    status = TaskStatus.QUEUED if what == "queue" else TaskStatus.RUNNING
    change = _made(machine.time_out(task_of(status), what, 0.0))
    assert change.fields["error"].code == f"{what}-timeout"


def test_total_timeout_ends_even_with_attempts_left() -> None:
    """The total limit is over all attempts; the execution limit is of one."""
    assert _made(machine.time_out(_running(), "total", 0.0)).event == "task.failed"
    assert _made(machine.time_out(_running(), "execution", 0.0)).event == "task.retrying"
