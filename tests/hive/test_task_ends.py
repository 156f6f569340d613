"""Ends that say why."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from hive import task_machine as machine
from hive.changes import ABSENT
from hive.leases import LeaseProof, NewLease, TaskLease
from hive.task_spec import TaskSpec
from hive.tasks import Task, TaskStatus

NOW = datetime(2026, 11, 21, tzinfo=UTC)
PROOF = LeaseProof("lse_1", 1)


def running(*, cancel_requested: bool = False) -> Task:
    """A task that an agent works on."""
    return Task(
        task_id="tsk_1",
        spec=TaskSpec(name="work"),
        owner="usr_1",
        status=TaskStatus.RUNNING,
        version=2,
        created_at=NOW,
        updated_at=NOW,
        attempt=1,
        fence=1,
        lease=TaskLease("lse_1", "agt_1", 1, 1, NOW),
        agent_id="agt_1",
        cancel_requested=cancel_requested,
    )


@pytest.mark.parametrize("what", ["execution", "total"])
def test_a_task_that_was_asked_to_stop_is_cancelled_by_any_timeout(what: str) -> None:
    """Not failed: somebody wanted its end."""
    change = machine.time_out(running(cancel_requested=True), what, 0.0)
    assert change is not None
    assert (change.event, change.fields["reason"]) == ("task.cancelled", "cancelled")
    failed = machine.time_out(running(), "total", 0.0)
    assert failed is not None
    assert failed.event == "task.failed"


def test_a_release_says_why_until_the_next_start() -> None:
    """The reason of the last agent is shown while the task waits for another one."""
    released = machine.release(running(), PROOF, "shutting down")
    assert released.fields["reason"] == "shutting down"
    assert "reason" not in machine.release(running(), PROOF, None).fields
    started = machine.start(NewLease("lse_2", "agt_2", 1, 30))
    assert started.fields["reason"] is ABSENT
