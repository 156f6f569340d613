"""MongoDB dies or stalls under a server that runs: 503 meanwhile, then on as if nothing was.

The server's watcher starts a mongod that died again within a second or two, which is less than a
request waits: most answers to a kill of mongod are only slow. A mongod that is stopped is not dead;
requests end by their own 2 s then.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from server.data_directory import DataDirectory
from tests.faults.experiment import mongod_pid, run
from tests.faults.shape import Shape
from tests.servers import ServerProcess, wait_until

ANSWER_SECONDS = 2.5
RECOVERY_SECONDS = 10.0
STALL_SECONDS = 5.0


@dataclass(frozen=True)
class Probe:
    """One answer to somebody who asks without pause."""

    status: int
    kind: str
    retry_after: str | None
    seconds: float


class Prober:
    """Lists tasks as the operator, and asks for readiness."""

    def __init__(self, http: httpx.Client, data: DataDirectory) -> None:
        found = data.find_running_server()
        assert found is not None
        http.base_url = httpx.URL(found.url)
        http.headers["Authorization"] = f"Bearer {data.find_operator_key()}"
        self._http = http
        self.probes: list[Probe] = []

    def probe(self) -> Probe:
        """One request; what the contract says of a 503 is checked here."""
        began = time.monotonic()
        response = self._http.get("/api/v1/tasks?limit=1")
        probe = Probe(
            response.status_code,
            response.headers["content-type"],
            response.headers.get("retry-after"),
            time.monotonic() - began,
        )
        self.probes.append(probe)
        assert probe.status in (200, 503), response.text
        assert probe.seconds < ANSWER_SECONDS, probe
        if probe.status == 503:
            assert probe.kind == "application/problem+json", probe
            assert probe.retry_after, probe
        return probe

    def is_ready(self) -> bool:
        """What `/health/ready` says."""
        return self._http.get("/health/ready").status_code == 200

    def works(self) -> bool:
        """Ready, and a request succeeds."""
        return self.probe().status == 200 and self.is_ready()


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """A blocking client of the probers."""
    with httpx.Client(trust_env=False, timeout=10) as http:
        yield http


@pytest.mark.more
def test_kill_of_mongod_is_survived(server: ServerProcess, http: httpx.Client) -> None:
    """The server stays, starts another mongod, refuses nothing but with 503, and loses nothing."""

    def happen(chance: random.Random) -> list[float]:
        pid = server.pid
        recoveries = []
        prober = Prober(http, server.data)
        for _ in range(2):
            time.sleep(chance.uniform(0.5, 2.0))
            killed = mongod_pid(server)
            os.kill(killed, signal.SIGKILL)
            began = time.monotonic()
            wait_until(lambda: not Path(f"/proc/{killed}").exists(), "mongod is reaped")  # noqa: B023
            wait_until(prober.works, "the server works again", RECOVERY_SECONDS)
            recoveries.append(time.monotonic() - began)
            assert mongod_pid(server) != killed
        assert server.pid == pid
        os.kill(pid, 0)
        return recoveries

    verdict = run(server, happen, seed=2)
    assert not verdict.violations, str(verdict)
    assert max(verdict.restarts) < RECOVERY_SECONDS


def test_stalled_mongod_is_answered_with_503(server: ServerProcess, http: httpx.Client) -> None:
    """While MongoDB is stopped, requests end with 503 within 2.5 s and readiness is red."""
    probers: list[Prober] = []

    def happen(chance: random.Random) -> list[float]:
        probers.append(prober := Prober(http, server.data))
        time.sleep(chance.uniform(0.5, 2.0))
        stopped = mongod_pid(server)
        os.kill(stopped, signal.SIGSTOP)
        try:
            until = time.monotonic() + STALL_SECONDS
            while time.monotonic() < until:
                prober.probe()
            assert not prober.is_ready()
        finally:
            os.kill(stopped, signal.SIGCONT)
        began = time.monotonic()
        wait_until(prober.works, "the server works again", RECOVERY_SECONDS)
        assert mongod_pid(server) == stopped
        return [time.monotonic() - began]

    verdict = run(server, happen, seed=3, shape=Shape(agents=3))
    assert not verdict.violations, str(verdict)
    assert any(probe.status == 503 for probe in probers[0].probes)
