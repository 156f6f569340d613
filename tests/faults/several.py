"""Several nodes on one MongoDB, one Redis and one SQL, and their agents.

Each of them is a process that can be killed or stopped.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from server import die_with_parent
from server.data_directory import DataDirectory
from tests.faults.agent import Agent
from tests.faults.agent_process import AgentProcess
from tests.faults.experiment import LEASE_SECONDS, SETTINGS
from tests.faults.history import History
from tests.faults.shape import Shape
from tests.servers import ROOT, RedisProcess, ServerProcess, wait_until

SECRET = "Zq7h2LxP9vTn4RkWb8YcJd3MfGs6QaEu"
LONGEST_STOP_SECONDS = 6.0
"""More than a duty's lease, and more than twice that of a task."""


class MongodProcess:
    """A mongod that is started again when it is killed, as a supervisor does."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Start it; its URI."""
        self._directory.mkdir(parents=True, exist_ok=True)
        parent = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid())]
        program = [sys.executable, "-m", "tests.faults.mongod_process", str(self._directory)]
        self._process = process = subprocess.Popen([*parent, *program], cwd=ROOT)
        uri = self._directory / "uri"

        def listens() -> bool:
            assert process.poll() is None, "mongod has ended"
            return uri.exists()

        wait_until(listens, "mongod listens", 60)
        return uri.read_text()

    def pid(self) -> int:
        """The mongod that runs; waits for it while one is started again."""
        lock = self._directory / "mongo" / "db" / "mongod.lock"
        found: list[int] = []

        def runs() -> bool:
            found[:] = map(int, lock.read_text().split())
            return bool(found) and Path(f"/proc/{found[0]}").exists()

        wait_until(runs, "mongod runs", 60)
        return found[0]

    def stop(self) -> None:
        """End it; mongod goes with the process that started it. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


class SeveralNodes:
    """The nodes and their stores; `stop` ends all of it."""

    def __init__(self, directory: Path, nodes: int) -> None:
        self._directory = directory
        self._count = nodes
        self.mongod = MongodProcess(directory / "mongod")
        self.redis = RedisProcess(directory / "redis")
        self.servers: list[ServerProcess] = []
        self.agents: list[AgentProcess] = []
        self.happened: Counter[str] = Counter()

    @property
    def nodes(self) -> Sequence[DataDirectory]:
        """The data directories of the servers."""
        return [DataDirectory(server.data.path) for server in self.servers]

    def start(self) -> None:
        """Start the stores, then the nodes one after the other."""
        self._directory.mkdir(parents=True, exist_ok=True)
        shared = {
            **SETTINGS,
            "MONGODB_URI": self.mongod.start(),
            "REDIS_URL": self.redis.start(),
            "SQL_URL": f"sqlite:///{self._directory / 'identities.sqlite3'}",
            "SECRET_KEY": SECRET,
            # Two nodes and their load share a small machine with the faults.
            "LOAD_SHEDDING_ENABLED": "false",
        }
        for number in range(self._count):
            self.servers.append(ServerProcess(self._directory / f"node{number}", **shared))
            self.servers[-1].start()

    def employ(self, agents: Sequence[Agent], shape: Shape, seed: int) -> None:
        """Start a process for each agent."""
        for number, agent in enumerate(agents):
            directory = self._directory / "agents"
            own = AgentProcess(directory, agent, self.nodes, shape, seed * 100 + number)
            self.agents.append(own)
            own.start()

    def dismiss(self, history: History) -> None:
        """End the agents, and add what they saw."""
        for agent in self.agents:
            agent.kill()
            agent.read(history)

    def stop(self) -> None:
        """End what still runs."""
        for agent in self.agents:
            agent.kill()
        for server in self.servers:
            server.kill()
        self.redis.kill()
        self.mongod.stop()

    def faults(
        self, kinds: Sequence[str], *, longest_seconds: float = 2.0
    ) -> Callable[[random.Random], list[float]]:
        """These faults, one after the other at random moments; the seconds that each took."""

        def happen(chance: random.Random) -> list[float]:
            took = [self._suffer(kind, chance, longest_seconds) for kind in kinds]
            time.sleep(chance.uniform(0.0, longest_seconds))
            return took

        return happen

    def endless_faults(
        self, kinds: Sequence[str], *, longest_seconds: float
    ) -> Callable[[random.Random], list[float]]:
        """All of the faults at the first call, then one of them at each.

        Each kind comes once before the first comes again.
        """
        waiting: list[str] = []

        def happen(chance: random.Random) -> list[float]:
            is_first = not self.happened
            took: list[float] = []
            while not took or (is_first and waiting):
                if not waiting:
                    waiting.extend(chance.sample(kinds, len(kinds)))
                took.append(self._suffer(waiting.pop(), chance, longest_seconds))
            return took

        return happen

    def _suffer(self, kind: str, chance: random.Random, longest_seconds: float) -> float:
        # The moment of the fault is the experiment: it is not waited for.
        time.sleep(chance.uniform(0.0, longest_seconds))
        began = time.monotonic()
        FAULTS[kind](self, chance)
        self.happened[kind] += 1
        return time.monotonic() - began


def _kill_node(hive: SeveralNodes, chance: random.Random) -> None:
    server = chance.choice(hive.servers)
    server.kill()
    time.sleep(chance.uniform(0.0, 1.0))
    server.start()


def _end_node(hive: SeveralNodes, chance: random.Random) -> None:
    server = chance.choice(hive.servers)
    assert server.stop() == 0, server.log_path.read_text()[-4_000:]
    server.start()


def _stop_node(hive: SeveralNodes, chance: random.Random) -> None:
    server = chance.choice(hive.servers)
    server.send_signal(signal.SIGSTOP)
    time.sleep(chance.uniform(0.5, LONGEST_STOP_SECONDS))
    server.send_signal(signal.SIGCONT)


def _kill_redis(hive: SeveralNodes, chance: random.Random) -> None:
    hive.redis.kill()
    time.sleep(chance.uniform(0.0, 2.0))
    hive.redis.start()


def _stop_redis(hive: SeveralNodes, chance: random.Random) -> None:
    hive.redis.pause()
    time.sleep(chance.uniform(0.5, 2.0))
    hive.redis.resume()


def _kill_mongod(hive: SeveralNodes, chance: random.Random) -> None:
    os.kill(hive.mongod.pid(), signal.SIGKILL)
    time.sleep(chance.uniform(0.5, 2.0))
    wait_until(lambda: any(node.find_running_server() for node in hive.nodes), "a node listens")


def _stop_mongod(hive: SeveralNodes, chance: random.Random) -> None:
    pid = hive.mongod.pid()
    os.kill(pid, signal.SIGSTOP)
    time.sleep(chance.uniform(0.5, 4.0))
    os.kill(pid, signal.SIGCONT)


def _kill_agent(hive: SeveralNodes, chance: random.Random) -> None:
    agent = chance.choice(hive.agents)
    agent.kill()
    time.sleep(chance.uniform(0.0, 1.0))
    agent.start()


def _stop_agent(hive: SeveralNodes, chance: random.Random) -> None:
    """It wakes up behind the end of its leases; other faults happen meanwhile."""
    chance.choice(hive.agents).stop_for(LEASE_SECONDS * chance.uniform(1.1, 3.0))


FAULTS: dict[str, Callable[[SeveralNodes, random.Random], None]] = {
    "kill a node": _kill_node,
    "end a node": _end_node,
    "stop a node": _stop_node,
    "kill Redis": _kill_redis,
    "stop Redis": _stop_redis,
    "kill mongod": _kill_mongod,
    "stop mongod": _stop_mongod,
    "kill an agent": _kill_agent,
    "stop an agent": _stop_agent,
}
