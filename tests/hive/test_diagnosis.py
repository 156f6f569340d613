"""Why a task waits: one test for each cause, and which of several is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hive.coordination import HiveControl, HiveState
from hive.diagnosis import CAUSES, AgentOutlook, Cause, Diagnosis, Snapshot, diagnose
from hive.task_spec import AgentLabels, Concurrency, TaskSpec
from hive.tasks import Task, TaskError, TaskStatus
from tests.hive.worlds import EPOCH

ABLE = AgentOutlook(frozenset({"gpu", "cpu"}), {"zone": "eu"})
PAUSED = HiveControl(state=HiveState.PAUSED, version=1)


def _task(status: TaskStatus = TaskStatus.QUEUED, **fields: Any) -> Task:
    spec = TaskSpec("work", required_capabilities=("gpu",), concurrency=Concurrency("db", 2))
    usual: dict[str, Any] = {
        "task_id": "tsk_1",
        "spec": spec,
        "owner": "usr_1",
        "status": status,
        "version": 1,
        "created_at": EPOCH,
        "updated_at": EPOCH,
    }
    return Task(**{**usual, **fields})


def _cause(task: Task, **snapshot: Any) -> Cause | None:
    diagnosis = diagnose(task, Snapshot(**{"agents": [ABLE], **snapshot}))
    return None if diagnosis is None else diagnosis.cause


def test_a_task_for_later_waits_for_its_time() -> None:
    """The time is told."""
    task = _task(TaskStatus.SCHEDULED, run_at=EPOCH)
    assert diagnose(task, Snapshot()) == Diagnosis(Cause.RUN_AT, run_at=EPOCH)


def test_a_task_that_failed_once_waits_for_the_next_attempt() -> None:
    """It is scheduled as well, but because of its error."""
    task = _task(TaskStatus.SCHEDULED, run_at=EPOCH, attempt=1, error=TaskError("x", "y"))
    assert diagnose(task, Snapshot()) == Diagnosis(Cause.BACKOFF, run_at=EPOCH)


def test_a_blocked_task_waits_for_its_dependencies() -> None:
    """They are named, a hundred at most."""
    waiting_on = tuple(f"tsk_{n}" for n in range(200))
    diagnosis = diagnose(_task(TaskStatus.BLOCKED, waiting_on=waiting_on), Snapshot())
    assert diagnosis == Diagnosis(Cause.DEPENDENCY, waiting_on=waiting_on[:100])


@pytest.mark.parametrize("state", [HiveState.PAUSED, HiveState.DRAINING])
def test_a_hive_that_grants_nothing_keeps_everything_queued(state: HiveState) -> None:
    """Paused and draining are the same to a task."""
    assert _cause(_task(), hive=HiveControl(state=state, version=1)) is Cause.HIVE_PAUSED


def test_nobody_has_the_capabilities() -> None:
    """All of them have to be one agent's; no agent at all is the same."""
    task = _task(spec=TaskSpec("work", required_capabilities=("gpu", "tpu")))
    others = [ABLE, replace(ABLE, capabilities=frozenset({"tpu"}))]
    assert _cause(task, agents=others) is Cause.NO_CAPABLE_AGENT
    assert _cause(task, agents=[]) is Cause.NO_CAPABLE_AGENT


def test_nobody_has_the_labels() -> None:
    """Required labels are looked at like capabilities."""
    task = _task(spec=TaskSpec("work", agent_labels=AgentLabels(required={"zone": "us"})))
    assert _cause(task) is Cause.NO_CAPABLE_AGENT
    here = _task(spec=TaskSpec("work", agent_labels=AgentLabels(required={"zone": "eu"})))
    assert _cause(here) is Cause.NOT_CLAIMED


def test_those_who_could_are_offline() -> None:
    """Also when they were paused before; who is there and can't run it changes nothing."""
    away = replace(ABLE, online=False)
    agents = [away, replace(away, takes_work=False), AgentOutlook(frozenset())]
    assert _cause(_task(), agents=agents) is Cause.CAPABLE_AGENTS_OFFLINE


def test_those_who_could_and_are_there_are_paused() -> None:
    """One that is away does not help, either."""
    agents = [replace(ABLE, takes_work=False), replace(ABLE, online=False)]
    assert _cause(_task(), agents=agents) is Cause.CAPABLE_AGENTS_PAUSED


def test_the_concurrency_key_is_at_its_limit() -> None:
    """The key is told; slots of a larger limit than the task's own don't count."""
    full = {"db": frozenset({1, 2})}
    diagnosis = diagnose(_task(), Snapshot(agents=[ABLE], key_slots=full))
    assert diagnosis == Diagnosis(Cause.CONCURRENCY_LIMIT, concurrency_key="db")
    assert _cause(_task(), key_slots={"db": frozenset({1, 3})}) is Cause.NOT_CLAIMED
    assert _cause(_task(), key_slots={"other": frozenset({1, 2})}) is Cause.NOT_CLAIMED


def test_no_slot_is_free() -> None:
    """Those who are paused have free slots in vain."""
    agents = [replace(ABLE, free_slots=0), replace(ABLE, takes_work=False)]
    assert _cause(_task(), agents=agents) is Cause.NO_FREE_SLOT
    # An agent that was given fewer slots holds more leases than it has slots.
    assert _cause(_task(), agents=[replace(ABLE, free_slots=-1)]) is Cause.NO_FREE_SLOT


def test_nothing_is_in_the_way() -> None:
    """It is there to be claimed."""
    assert _cause(_task()) is Cause.NOT_CLAIMED


@pytest.mark.parametrize(
    "status", [TaskStatus.RUNNING, TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED]
)
def test_what_runs_or_has_ended_waits_for_nothing(status: TaskStatus) -> None:
    """Whatever the hive is like."""
    assert diagnose(_task(status), Snapshot(hive=PAUSED)) is None


def test_what_has_to_end_first_is_told() -> None:
    """A cause holds until it is taken away, and then the next one of the order is told."""
    full = {"db": frozenset({1, 2})}
    none: list[AgentOutlook] = []
    away, still = replace(ABLE, online=False), replace(ABLE, takes_work=False)
    used = replace(ABLE, free_slots=0)
    assert [
        _cause(_task(), hive=PAUSED, agents=none, key_slots=full),
        _cause(_task(), agents=none, key_slots=full),
        _cause(_task(), agents=[away], key_slots=full),
        _cause(_task(), agents=[away, still], key_slots=full),
        _cause(_task(), agents=[away, still, used], key_slots=full),
        _cause(_task(), agents=[away, still, used]),
        _cause(_task(), agents=[away, still, used, ABLE]),
    ] == list(Cause)[3:]


def test_every_cause_says_what_it_means_and_what_helps() -> None:
    """The docs are made from these texts."""
    assert set(CAUSES) == set(Cause)
    assert all(text.endswith(".") for texts in CAUSES.values() for text in texts)
