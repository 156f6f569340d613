"""Several nodes on one MongoDB, one Redis and one SQL, each of which can be killed or stopped."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from server import die_with_parent
from server.data_directory import DataDirectory
from tests.faults.experiment import SETTINGS
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
        self.happened: list[str] = []

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

    def stop(self) -> None:
        """End what still runs."""
        for server in self.servers:
            server.kill()
        self.redis.kill()
        self.mongod.stop()

    def faults(
        self, kinds: Sequence[str], *, longest_seconds: float = 2.0
    ) -> Callable[[random.Random], list[float]]:
        """These faults, one after the other at random moments; the seconds that each took."""

        def happen(chance: random.Random) -> list[float]:
            took = []
            for kind in kinds:
                # The moment of the fault is the experiment: it is not waited for.
                time.sleep(chance.uniform(0.0, longest_seconds))
                began = time.monotonic()
                self.happened.append(kind)
                FAULTS[kind](self, chance)
                took.append(time.monotonic() - began)
            time.sleep(chance.uniform(0.0, longest_seconds))
            return took

        return happen


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


FAULTS: dict[str, Callable[[SeveralNodes, random.Random], None]] = {
    "kill a node": _kill_node,
    "end a node": _end_node,
    "stop a node": _stop_node,
    "kill Redis": _kill_redis,
    "stop Redis": _stop_redis,
    "kill mongod": _kill_mongod,
    "stop mongod": _stop_mongod,
}
