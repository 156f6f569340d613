"""Several nodes under load, and everything around them is killed or stopped at random.

The whole of it, with numbers of one's own:

    SOAK_TASKS=5000 SOAK_NODES=3 SOAK_AGENTS=6 SOAK_SEED=7 make soak-hive
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.experiment import Verdict, run
from tests.faults.history import Outcome
from tests.faults.load import Shape
from tests.faults.several import FAULTS, SeveralNodes

TASKS = int(os.environ.get("SOAK_TASKS", "100000"))
NODES = int(os.environ.get("SOAK_NODES", "3"))
AGENTS = int(os.environ.get("SOAK_AGENTS", "6"))
SEED = int(os.environ.get("SOAK_SEED", "1"))
SHORT = ("kill a node", "stop Redis", "kill mongod")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the nodes and the stores have their files."""
    return tmp_path / "hive"


@pytest.fixture
def hive(directory: Path, request: pytest.FixtureRequest) -> Iterator[SeveralNodes]:
    """Nodes that were not started yet; they are ended after the test."""
    several = SeveralNodes(directory, getattr(request, "param", 2))
    yield several
    several.stop()


def judge(verdict: Verdict, at_least: int) -> None:
    """A run that shows nothing proves nothing."""
    assert not verdict.violations, str(verdict)
    accepted = [r for r in verdict.history.reports if r.outcome is Outcome.ACCEPTED]
    agents = {grant.agent_id for grant in verdict.history.grants}
    assert len(verdict.found.tasks) >= at_least, str(verdict)
    assert len(accepted) >= at_least, str(verdict)
    assert len(agents) > 1, str(verdict)


@pytest.mark.timeout(240)
def test_two_nodes_lose_nothing_when_everything_around_them_dies(hive: SeveralNodes) -> None:
    """A node, mongod and Redis are killed or stopped: every task ends once, with its history."""
    judge(run(hive, hive.faults(SHORT, longest_seconds=0.7), seed=21), at_least=30)


@pytest.mark.soak
@pytest.mark.timeout(86_400)
@pytest.mark.parametrize("hive", [NODES], indirect=True)
def test_soak_of_the_hive(hive: SeveralNodes) -> None:
    """So many tasks in mixed graphs over these nodes and agents, and every fault all the time."""
    shape = Shape(
        submitters=8, agents=AGENTS, slots=8, pause_seconds=0.02, drain_seconds=600, tasks=TASKS
    )
    verdict = run(hive, hive.faults(list(FAULTS)), seed=SEED, shape=shape)
    judge(verdict, at_least=min(TASKS, 30))
    assert set(hive.happened) == set(FAULTS)
