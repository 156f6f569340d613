"""What is asked of a task: priorities, capabilities, dependencies and delays."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive import task_machine as machine
from hive.changes import NOW, After
from hive.errors import Invalid
from hive.task_spec import (
    PRIORITY_RANKS,
    Backoff,
    BackoffKind,
    TaskPriority,
    TaskSpec,
    Timeouts,
    can_run,
    capability_key,
    check_dependencies,
)
from hive.tasks import TaskStatus
from tests.hive.worlds import EPOCH

SPREAD = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("kind", "delays"),
    [
        (BackoffKind.FIXED, [2, 2, 2, 2, 2]),
        (BackoffKind.LINEAR, [2, 4, 6, 8, 10]),
        (BackoffKind.EXPONENTIAL, [2, 4, 8, 10, 10]),
    ],
)
def test_delays_grow_as_the_kind_says_up_to_the_cap(kind: BackoffKind, delays: list[int]) -> None:
    """Attempts 1 to 5 with a base of 2 s and a cap of 10 s, without jitter."""
    backoff = Backoff(kind, base_seconds=2.0, max_seconds=10.0, jitter=0.0)
    assert [backoff.delay_seconds(attempt, 0.9) for attempt in range(1, 6)] == delays


@given(
    kind=st.sampled_from(BackoffKind),
    base=st.floats(0, 3600),
    cap=st.floats(0, 86_400),
    jitter=st.floats(0, 1),
    attempt=st.integers(1, 10_000),
    chance=SPREAD,
)
def test_a_delay_stays_between_its_bounds(
    kind: BackoffKind, base: float, cap: float, jitter: float, attempt: int, chance: float
) -> None:
    """Jitter only shortens, by its share at most; no attempt number overflows."""
    spread = Backoff(kind, base, cap, jitter).delay_seconds(attempt, chance)
    whole = Backoff(kind, base, cap, 0.0).delay_seconds(attempt, chance)
    assert 0 <= whole <= cap
    assert whole * (1 - jitter) - 1e-9 <= spread <= whole


def test_ranks_follow_the_order_of_the_priorities() -> None:
    """Critical before high before medium before low."""
    assert sorted(TaskPriority, key=PRIORITY_RANKS.__getitem__) == [
        TaskPriority.LOW,
        TaskPriority.MEDIUM,
        TaskPriority.HIGH,
        TaskPriority.CRITICAL,
    ]


@given(
    required=st.sets(st.sampled_from(["cpu", "gpu", "python", "go"])),
    has=st.sets(st.sampled_from(["cpu", "gpu", "python", "go"])),
)
def test_an_agent_can_run_what_needs_a_subset_of_its_capabilities(
    required: set[str], has: set[str]
) -> None:
    """The key of a queue says the same as the sets, in any order."""
    assert can_run(frozenset(has), capability_key(tuple(required))) == (required <= has)
    assert capability_key(tuple(sorted(required))) == capability_key(
        tuple(sorted(required, reverse=True))
    )


def test_a_dependency_named_twice_is_pointed_at() -> None:
    """The pointer names the second one."""
    with pytest.raises(Invalid) as refused:
        check_dependencies(("tsk_1", "tsk_2", "tsk_1"))
    assert refused.value.pointer == "/dependencies/2"


@pytest.mark.parametrize(
    ("later", "waiting_on", "status"),
    [
        (False, (), TaskStatus.QUEUED),
        (False, ("tsk_0",), TaskStatus.BLOCKED),
        (True, (), TaskStatus.SCHEDULED),
        (True, ("tsk_0",), TaskStatus.SCHEDULED),
    ],
)
def test_a_new_task_starts_where_it_has_to_wait(
    later: bool,  # noqa: FBT001 - a column of the table
    waiting_on: tuple[str, ...],
    status: TaskStatus,
) -> None:
    """Its time comes first, its dependencies second; else it is queued at once."""
    spec = TaskSpec("work", run_at=EPOCH + timedelta(days=1) if later else None)
    fields = machine.submit(spec, "usr_1", waiting_on).fields
    assert fields["status"] is status
    assert ("queued_at" in fields) == (status is TaskStatus.QUEUED)


def test_a_total_limit_becomes_a_deadline_by_the_clock_of_the_database() -> None:
    """It counts from the submission, over all attempts."""
    fields = machine.submit(TaskSpec("work", timeouts=Timeouts(total_seconds=60)), "me", ()).fields
    assert fields["total_deadline"] == After(60)
    assert fields["created_at"] == NOW
    assert "total_deadline" not in machine.submit(TaskSpec("work"), "me", ()).fields
