"""The task machine played at random in memory."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.hive.lifecycle import Lifecycle
from tests.hive.worlds import MemoryWorld


class InMemory(Lifecycle):
    """A new world for each course."""

    def __init__(self) -> None:
        super().__init__(MemoryWorld())


def test_no_course_of_events_breaks_a_task() -> None:
    """Any order of submissions, claims, reports, losses and sweeps leaves every task whole."""
    run_state_machine_as_test(
        InMemory,
        settings=settings(
            max_examples=120,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
