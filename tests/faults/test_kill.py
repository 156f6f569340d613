"""The server is killed under load, again and again: nothing is lost, doubled or out of order."""

from __future__ import annotations

import pytest

from tests.faults.experiment import Verdict, kills, run
from tests.faults.history import Outcome
from tests.servers import ServerProcess


def judge(verdict: Verdict) -> None:
    """A run that shows nothing proves nothing."""
    assert not verdict.violations, str(verdict)
    outcomes = {report.outcome for report in verdict.history.reports}
    assert {Outcome.ACCEPTED, Outcome.REFUSED} <= outcomes, str(verdict)
    assert len(verdict.found.tasks) > 100, str(verdict)


@pytest.mark.timeout(240)
def test_kill_five_times_loses_nothing(server: ServerProcess) -> None:
    """Five kills at random moments: every accepted task ends once, with its whole history."""
    judge(run(server, kills(server, 5), seed=1))


@pytest.mark.soak
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("seed", range(100, 105))
def test_kill_fifty_times_loses_nothing(server: ServerProcess, seed: int) -> None:
    """Fifty kills in five runs of ten: as above."""
    judge(run(server, kills(server, 10), seed=seed))
