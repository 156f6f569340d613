"""Several nodes under load, and everything around them is killed or stopped at random.

The whole of it, with numbers of one's own:

    SOAK_TASKS=5000 SOAK_NODES=3 SOAK_AGENTS=6 SOAK_SEED=7 SOAK_PAUSE_SECONDS=8 make soak-hive

With SOAK_KEEP=1 the table of the run is kept in `SOAK.md` beside this file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.experiment import Verdict, run
from tests.faults.history import Outcome
from tests.faults.several import FAULTS, SeveralNodes
from tests.faults.shape import Shape
from tests.faults.soak_report import soak_report

TASKS = int(os.environ.get("SOAK_TASKS", "100000"))
NODES = int(os.environ.get("SOAK_NODES", "3"))
AGENTS = int(os.environ.get("SOAK_AGENTS", "6"))
SEED = int(os.environ.get("SOAK_SEED", "1"))
PAUSE_SECONDS = float(os.environ.get("SOAK_PAUSE_SECONDS", "8"))
log = logging.getLogger(__name__)
HEAD = """# The hive, while everything around it is killed and stopped

`{command} SOAK_KEEP=1 make soak-hive`

Submissions that the hive did not answer may exist or not; all that exist are judged.

"""
SHORT = ("kill a node", "stop an agent", "stop Redis", "kill an agent", "kill mongod")


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
    """Nodes, agents, mongod, Redis are killed or stopped: each task ends once, with its history."""
    shape = Shape(agents=3, apart=True)
    verdict = run(hive, hive.faults(SHORT, longest_seconds=0.7), seed=21, shape=shape)
    judge(verdict, at_least=30)


@pytest.mark.soak
@pytest.mark.timeout(86_400)
@pytest.mark.parametrize("hive", [NODES], indirect=True)
def test_soak_of_the_hive(hive: SeveralNodes) -> None:
    """So many tasks in mixed graphs over these nodes and agents, and every fault all the time."""
    shape = Shape(
        submitters=6,
        agents=AGENTS,
        slots=24,
        pause_seconds=0.02,
        drain_seconds=900,
        tasks=TASKS,
        open_tasks=2_000,
        keys=20,
        chatter=0.3,
        batch=100,
        apart=True,
    )
    faults = hive.endless_faults(list(FAULTS), longest_seconds=PAUSE_SECONDS)
    verdict = run(hive, faults, seed=SEED, shape=shape)
    report = soak_report(verdict, hive.happened)
    log.info("%s", report)
    if "SOAK_KEEP" in os.environ:
        command = f"SOAK_TASKS={TASKS} SOAK_NODES={NODES} SOAK_AGENTS={AGENTS} SOAK_SEED={SEED}"
        Path(__file__).with_name("SOAK.md").write_text(HEAD.format(command=command) + report)
    judge(verdict, at_least=min(TASKS, 30))
    assert set(hive.happened) == set(FAULTS)
