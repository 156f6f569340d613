"""Worker processes: started for one measurement, ended after it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from server import die_with_parent
from tests.servers import ROOT

STOP_SECONDS = 3


@contextlib.contextmanager
def running_workers(
    programs: Sequence[Sequence[str]], environment: Mapping[str, str], log: Path
) -> Iterator[None]:
    """Run the programs; stop when one of them ended before its time. What they say is in `log`."""
    parent = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid())]
    processes: list[subprocess.Popen[bytes]] = []
    with log.open("ab") as output:
        try:
            for program in programs:
                process = subprocess.Popen(  # noqa: S603  # Ours.
                    [*parent, *program],
                    cwd=ROOT,
                    env={**os.environ, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
                processes.append(process)
            yield
            assert all(p.poll() is None for p in processes), log.read_text()[-4_000:]
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Wait a moment for the end that it was asked for, then insist; no process of it is left."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    # taskiq waits for a read of Redis, and leaves its children behind.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
