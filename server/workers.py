"""Runs several nodes on one port of one machine, as children of one process.

1. The caller holds the data directory, has the stores ready and gives the environment of a node.
2. `start` spawns the nodes, never forks: each has a data directory of its own, and with it an
   identity. All listen on one port, and the kernel spreads the connections (SO_REUSEPORT).
3. `watch` starts a node again that ended by itself, until that happens too often.
4. `stop` asks all of them to drain, and ends those that don't.

When this process is killed, the kernel ends the nodes with it (`die_with_parent.py`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess  # what it runs is this program  # nosec B404
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from server import die_with_parent
from server.data_directory import DataDirectory

MAX_WORKERS: Final = 64
START_SECONDS: Final = 60.0
MAX_ENDS: Final = 5
ENDS_SECONDS: Final = 60.0
"""A node that ended five times within a minute is not started again: something is wrong."""
STOP_SECONDS: Final = 4.0
"""What a node may need on top of its drain."""
_POLL_SECONDS: Final = 0.05

log = structlog.get_logger(__name__)


class WorkersFailed(Exception):
    """A node ends again and again; the text says where to look."""


class Worker:
    """One node: its process, and how often it has ended."""

    def __init__(self, number: int, directory: Path, environment: Mapping[str, str]) -> None:
        self.number = number
        self.directory = DataDirectory(directory)
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._ends: deque[float] = deque(maxlen=MAX_ENDS)

    @property
    def pid(self) -> int | None:
        """Its process, if it runs."""
        return self._process.pid if self._process is not None else None

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll() if self._process is not None else None

    @property
    def listens(self) -> bool:
        """Whether it takes connections."""
        found = self.directory.find_running_server()
        return found is not None and found.pid == self.pid

    def spawn(self) -> None:
        """Start it; call from the main thread."""
        parent = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid())]
        program = [sys.executable, "-m", "server.cli", "serve", "--as-worker"]
        self._process = subprocess.Popen(  # noqa: S603 - this program, no shell  # nosec B603
            [*parent, *program],
            env=dict(self._environment),
            start_new_session=True,  # Ctrl-C is for the parent, which drains all of them.
        )

    def note_end(self) -> bool:
        """Count an end that nobody asked for; False when there were too many."""
        self._ends.append(time.monotonic())
        full = len(self._ends) == MAX_ENDS
        return not (full and self._ends[-1] - self._ends[0] < ENDS_SECONDS)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def reap(self) -> None:
        """Wait for a process that was killed."""
        if self._process is not None:
            self._process.wait()


class Workers:
    """All nodes of this machine."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers

    async def start(self, stopping: asyncio.Event) -> bool:
        """Return once all of them listen; False when it was stopped before.

        Raises WorkersFailed.
        """
        for worker in self._workers:
            worker.spawn()
        deadline = time.monotonic() + START_SECONDS
        while not all(worker.listens for worker in self._workers):
            for worker in self._workers:
                if worker.exit_code is not None:
                    raise WorkersFailed(_ended(worker))
            if stopping.is_set():
                return False
            if time.monotonic() > deadline:
                raise WorkersFailed(f"The nodes did not listen within {START_SECONDS:.0f} s.")
            await asyncio.sleep(_POLL_SECONDS)
        return True

    async def watch(self, stopping: asyncio.Event) -> None:
        """Start again what ends, until it is stopped. Raises WorkersFailed."""
        while not stopping.is_set():
            for worker in self._workers:
                if worker.exit_code is None:
                    continue
                log.error("worker.ended", worker=worker.number, exit_code=worker.exit_code)
                if not worker.note_end():
                    raise WorkersFailed(_ended(worker))
                worker.spawn()
            await asyncio.sleep(_POLL_SECONDS)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all of them."""
        for worker in self._workers:
            worker.send(number)

    async def stop(self, drain_seconds: float) -> None:
        """Have all of them drain at the same time; end by force what takes too long."""
        self.send(signal.SIGTERM)
        deadline = time.monotonic() + drain_seconds + STOP_SECONDS
        while any(worker.pid and worker.exit_code is None for worker in self._workers):
            if time.monotonic() > deadline:
                log.warning("workers.killed", after_seconds=drain_seconds + STOP_SECONDS)
                self.send(signal.SIGKILL)
                for worker in self._workers:
                    worker.reap()
                return
            await asyncio.sleep(_POLL_SECONDS)


def reserve_port(host: str, port: int) -> socket.socket:
    """Bind the port, and leave the listening to the nodes; 0 becomes a free one. Raises OSError.

    Bound as they bind it, so that they can; nobody else's server gets the port while it is held.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    reserved = socket.socket(family, kind, protocol)
    try:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(address)
    except BaseException:
        reserved.close()
        raise
    return reserved


def _ended(worker: Worker) -> str:
    return (
        f"Node {worker.number} ended with exit code {worker.exit_code}, what it said stands above; "
        f"its data directory is {worker.directory.path}."
    )


__all__ = ["MAX_WORKERS", "Worker", "Workers", "WorkersFailed", "reserve_port"]
