"""One run: a server under load, faults at moments that the seed chooses, and the verdict."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from server.data_directory import DataDirectory
from tests.faults.agent import Agent
from tests.faults.checker import Violation, check
from tests.faults.history import Found, History, Outcome
from tests.faults.load import Load
from tests.faults.shape import Shape
from tests.servers import ServerProcess, wait_until

LEASE_SECONDS = 2
SETTINGS = {
    "LEASE_SECONDS": str(LEASE_SECONDS),
    "CANCEL_GRACE_SECONDS": "1",
    "HEARTBEAT_SECONDS": "1",
    "AGENT_TIMEOUT_SECONDS": "5",
    "RATE_LIMIT_ENABLED": "false",
}
IN_START = 3
"""Which kill of five is followed by another one during the start."""
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Verdict:
    """What a run showed; `restarts` is the seconds from each start to a server that listens."""

    history: History
    found: Found
    violations: list[Violation]
    seconds: float
    restarts: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        outcomes = Counter(report.outcome for report in self.history.reports)
        restarts = ", ".join(f"{seconds:.1f}" for seconds in self.restarts)
        broken = Counter(violation.rule for violation in self.violations)
        leases = len(self.history.grants)
        tasks, events = len(self.found.tasks), len(self.found.events)
        unanswered = sum(s.task_id is None for s in self.history.submissions)
        reported = ", ".join(f"{outcomes[outcome]} {outcome}" for outcome in Outcome)
        lines = [
            f"{tasks} tasks, {events} events, {leases} leases, {self.seconds:.0f} s",
            f"submissions without an answer: {unanswered}; reports: {reported}",
            f"events by type: {dict(Counter(e['type'] for e in self.found.events))}",
            f"answers: {dict(self.history.answers)}",
            f"seconds to restart: [{restarts}]",
            f"violations: {dict(broken)}",
            *map(str, self.violations[:20]),
        ]
        if self.violations:
            lines += self._story(self.violations[0].subject.partition(":")[0])
        return "\n".join(lines)

    def _story(self, subject: str) -> list[str]:
        """What the log and the agents know of a subject."""
        events = [event for event in self.found.events if event["subject"] == subject]
        told = [
            f"  {event['seq']} {event['id'].partition(':')[2]} {event['type']} "
            f"by {event.get('actor')} {event['data'].get('error', '')}"
            for event in events
        ]
        reports = [report for report in self.history.reports if report.grant.task_id == subject]
        return [f"history of {subject}:", *told, *(f"  {report}" for report in reports)]


class System(Protocol):
    """What is under load: one server, or several nodes with their stores."""

    @property
    def nodes(self) -> Sequence[DataDirectory]:
        """The data directories of the servers, which say where they listen."""

    def start(self) -> object:
        """Start all of it; return when it listens."""

    def employ(self, agents: Sequence[Agent], shape: Shape, seed: int) -> None:
        """Start a process for each agent."""

    def dismiss(self, history: History) -> None:
        """End the agents' processes, and add what they saw. Idempotent."""


class Alone:
    """One server with its own stores."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server

    @property
    def nodes(self) -> Sequence[DataDirectory]:
        """Its directory."""
        return [DataDirectory(self._server.data.path)]

    def start(self) -> str:
        """Start it."""
        return self._server.start()

    def employ(self, agents: Sequence[Agent], shape: Shape, seed: int) -> None:
        """Nobody: its agents live in the load."""

    def dismiss(self, history: History) -> None:
        """Nobody."""


def run(
    server: ServerProcess | System,
    faults: Callable[[random.Random], list[float]],
    *,
    seed: int,
    shape: Shape | None = None,
) -> Verdict:
    """Start the server, load it, let `faults` happen, let everything end, and judge.

    `faults` gives the seconds that each restart took. With a number of tasks they go on until the
    last one has ended.
    """
    began = time.monotonic()
    shape = shape or Shape()
    system: System = Alone(server) if isinstance(server, ServerProcess) else server
    system.start()
    load = Load(system.nodes, seed, shape)
    load.start()
    if shape.apart:
        system.employ(load.agents, shape, seed)
    chance = random.Random(seed)
    try:
        restarts = faults(chance)
        while not load.has_enough:
            restarts += faults(chance)
        load.drain()
        while shape.tasks is not None and not load.has_drained:
            restarts += faults(chance)
        wait_until(lambda: load.has_drained, "the load has drained", shape.drain_seconds + 60)
    except BaseException:
        load.abandon()
        raise
    system.dismiss(load.history)
    found = load.finish()
    violations = check(load.history, found)
    verdict = Verdict(load.history, found, violations, time.monotonic() - began, restarts)
    log.info("seed %d\n%s", seed, verdict)
    return verdict


def mongod_pid(server: ServerProcess) -> int:
    """The embedded mongod, as its own lock file has it."""
    return int((server.data.mongo_path / "db" / "mongod.lock").read_text())


def kill_in_start(server: ServerProcess, after_seconds: float) -> None:
    """Start the server and SIGKILL it so long after, listening or not."""
    pids: list[int] = []

    def strike() -> None:
        pids.append(server.pid)
        os.kill(server.pid, signal.SIGKILL)

    timer = threading.Timer(after_seconds, strike)
    timer.start()
    # It says that the server ended before it listened: so it should.
    with suppress(AssertionError):
        server.start()
    timer.join()
    assert pids, "the server ended by itself"
    server.kill()


def kills(
    server: ServerProcess, times: int, *, longest_seconds: float = 3.0
) -> Callable[[random.Random], list[float]]:
    """SIGKILL so often, at random moments: while it runs, and now and then while it starts."""

    def happen(chance: random.Random) -> list[float]:
        restarts = []
        for number in range(times):
            # The moment of the fault is the experiment: the one thing that is not waited for.
            time.sleep(chance.uniform(0.0, longest_seconds))
            server.kill()
            if number % 5 == IN_START:
                kill_in_start(server, chance.uniform(0.3, 2.0))
            began = time.monotonic()
            server.start()
            restarts.append(time.monotonic() - began)
        time.sleep(chance.uniform(0.0, longest_seconds))
        return restarts

    return happen
