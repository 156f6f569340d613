"""The server is killed under load, again and again: nothing is lost, doubled or out of order."""

from __future__ import annotations

import random

import httpx
import pytest

from tests.faults.experiment import Verdict, kill_in_start, kills, run
from tests.faults.history import Outcome
from tests.servers import ServerProcess


def judge(verdict: Verdict) -> None:
    """A run that shows nothing proves nothing."""
    assert not verdict.violations, str(verdict)
    accepted = [r for r in verdict.history.reports if r.outcome is Outcome.ACCEPTED]
    unanswered = sum(count for name, count in verdict.history.answers.items() if "Error" in name)
    assert len(verdict.found.tasks) > 30, str(verdict)
    assert len(accepted) > 30, str(verdict)
    assert unanswered > 5, str(verdict)


@pytest.mark.more
@pytest.mark.timeout(240)
def test_kill_four_times_loses_nothing(server: ServerProcess) -> None:
    """Four kills at random moments: every accepted task ends once, with its whole history."""
    judge(run(server, kills(server, 4), seed=1))


@pytest.mark.parametrize("seed", range(11, 13))
def test_kill_in_the_first_start_leaves_a_directory_that_starts(
    server: ServerProcess, seed: int
) -> None:
    """Killed at random moments before it ever listened, it comes up with a key that works."""
    chance = random.Random(seed)
    for _ in range(3):
        kill_in_start(server, chance.uniform(0.3, 1.8))
    url = server.start()
    bearer = {"Authorization": f"Bearer {server.data.find_operator_key()}"}
    task = httpx.post(f"{url}/api/v1/tasks", headers=bearer, json={"name": "first"})
    assert task.status_code == 200, task.text
    me = httpx.get(f"{url}/api/v1/auth/me", headers=bearer)
    assert me.json()["role"] == "admin"


@pytest.mark.soak
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("seed", range(100, 105))
def test_kill_fifty_times_loses_nothing(server: ServerProcess, seed: int) -> None:
    """Fifty kills in five runs of ten: as above."""
    judge(run(server, kills(server, 10), seed=seed))
