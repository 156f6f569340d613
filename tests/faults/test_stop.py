"""The server is asked to end at random moments under load, as in every deployment."""

from __future__ import annotations

import random
import time

import pytest

from tests.faults.experiment import run
from tests.servers import ServerProcess

STOPS = 2
STOP_SECONDS = 15.0


@pytest.mark.timeout(240)
def test_stop_under_load_ends_in_time_and_loses_nothing(server: ServerProcess) -> None:
    """SIGTERM ends it with code 0 within 15 s; the next start goes on where it was."""

    def happen(chance: random.Random) -> list[float]:
        restarts = []
        for _ in range(STOPS):
            time.sleep(chance.uniform(0.0, 1.5))
            assert server.stop(STOP_SECONDS) == 0, server.log_path.read_text()[-4_000:]
            began = time.monotonic()
            server.start()
            restarts.append(time.monotonic() - began)
        return restarts

    verdict = run(server, happen, seed=5)
    assert not verdict.violations, str(verdict)
