"""Bugs on purpose: for each, a short run under the same load must show a violation.

python -m pytest tests/faults/test_mutations.py -m more -o log_cli=true -o log_cli_level=INFO
"""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.experiment import SETTINGS, kills, run
from tests.faults.mutated_server import MUTATIONS
from tests.faults.shape import Shape
from tests.servers import ServerProcess

SHAPE = Shape(pause_seconds=0.05, drain_seconds=10.0)
UNTIL_SEEN = replace(SHAPE, tasks=120)
"""What shows itself by numbers has to have them, however busy the machine is."""
SEEN_AS = {
    "event-apart": {"version-hole", "document-differs", "no-event"},
    "fence-stays": {"fence-not-increasing"},
    "event-dropped": {"version-hole"},
    "checkpoint-first": {"version-hole", "no-event"},
    "receipt-first": {"lost-task"},
    "claim-in-two-steps": {"illegal-move"},
    "insert-twice": {"unexpected-task"},
    "acknowledged-in-memory": {"lost-task", "lost-report"},
    "lease-by-own-clock": {"lease-cut-short"},
    "stale-read": {"backward-read"},
}


@pytest.mark.more
@pytest.mark.timeout(180)
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_mutation_is_caught(mutation: str, tmp_path: Path) -> None:
    """The checker goes red, by a rule that names what the mutation breaks."""
    # Kept answers would keep the bug of the store from being read.
    without = {"RESPONSE_CACHE": "off"} if mutation == "stale-read" else {}
    server = ServerProcess(tmp_path / "var", **SETTINGS, **without)
    server.program = ("-m", "tests.faults.mutated_server", mutation)
    try:
        if mutation == "stale-read":
            verdict = run(server, _nothing, seed=7, shape=UNTIL_SEEN)
        elif mutation == "acknowledged-in-memory":
            verdict = run(server, kills(server, 1), seed=7, shape=UNTIL_SEEN)
        else:
            verdict = run(server, kills(server, 4, longest_seconds=1.5), seed=7, shape=SHAPE)
    finally:
        server.kill()
    assert SEEN_AS[mutation] & {v.rule for v in verdict.violations}, str(verdict)


def _nothing(_chance: random.Random) -> list[float]:
    """No fault: a bug that shows without one."""
    time.sleep(0.1)
    return []
