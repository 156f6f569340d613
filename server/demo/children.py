"""Programs that the demo starts, and ends: by their process id, whatever happens.

A child has a session of its own, so that Ctrl-C in the terminal reaches the demo only, which then
ends it in good order. Unless it is to be kept, it dies with the demo (`die_with_parent.py`): start
it from the main thread.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess  # what it runs is judged at each call  # nosec B404
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from server import die_with_parent
from server.demo.failure import DemoFailed

POLL_SECONDS = 0.02
TAIL_LINES = 15
_PRIVATE = 0o600


class Child:
    """A running program of ours. Its log is a file that only the user can read."""

    def __init__(
        self,
        title: str,
        module: str,
        *arguments: str,
        env: Mapping[str, str],
        log_path: Path,
        kept: bool,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start `python -m module`; raises OSError when the log file can't be written."""
        self.title = title
        self._log_path = log_path
        program = [sys.executable, "-P", "-m", module, *arguments]
        if not kept:
            parent = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid())]
            program = [*parent, *program]
        # It imports what this process imports, also where nothing is installed.
        path = os.pathsep.join(place for place in sys.path if place)
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _PRIVATE)
        try:
            self._log_start = os.fstat(log).st_size
            # Without a name: it may hold a password.
            self._output = tempfile.TemporaryFile()  # noqa: SIM115 - read as long as it runs
            self._process = subprocess.Popen(  # noqa: S603 - our own program, no shell  # nosec B603
                program,
                env={**os.environ, **env, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=log,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        finally:
            os.close(log)

    @property
    def pid(self) -> int:
        """The process: by this number it is ended."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def printed(self) -> str:
        """All that it printed (standard output) until now."""
        size = os.fstat(self._output.fileno()).st_size
        # The program writes at the same place in the file: it must not move.
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    def failure(self) -> DemoFailed:
        """What to say when it ended by itself."""
        with self._log_path.open("rb") as log:
            log.seek(self._log_start)
            said = log.read().decode(errors="replace")
        last = "\n".join(f"  {line}" for line in said.splitlines()[-TAIL_LINES:])
        code = self._process.returncode
        how = f"was ended by signal {-code}" if code and code < 0 else f"ended with code {code}"
        return DemoFailed(f"{self.title} {how}. It said ({self._log_path}):\n{last}")

    def ask_to_end(self) -> None:
        """Send SIGTERM, if it runs."""
        if self.is_running:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it now, and reap it. Idempotent."""
        self._process.kill()
        self._process.wait()
        self._output.close()


async def end(children: Sequence[Child], seconds: float) -> None:
    """Ask all of them to end, and kill after so many seconds, or when cancelled, what still runs.

    Idempotent.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    try:
        for child in children:
            child.ask_to_end()
        # A process that ends sets no event.
        while any(child.is_running for child in children) and loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)
    finally:
        for child in children:
            child.kill()
