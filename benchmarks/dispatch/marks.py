"""What tasks leave behind when they start: a line in a file that all workers append to.

The same for every contender, so that none has a cheaper way to tell. Only the standard library: it
is imported by what is installed elsewhere.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "BENCH_MARKS"
"""Names the file to the workers."""


class Marker:
    """The workers' side: appends a line a task, by one write, which no other one gets between."""

    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self._file: int | None = None

    def mark(self, sent: int) -> None:
        """A task that was submitted at `sent` starts now; nanoseconds of the machine's clock."""
        started = time.monotonic_ns()
        if self._file is None:
            path = self._path or os.environ[VARIABLE]
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(self._file, b"%d %d\n" % (sent, started))


class Marks:
    """The submitter's side: reads the lines of a new file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.delays: list[float] = []
        path.touch()

    def look(self) -> int:
        """How many tasks have started by now."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            lines = file.read().splitlines(keepends=True)
        for line in lines:
            if line.endswith(b"\n"):
                sent, started = map(int, line.split())
                self.delays.append((started - sent) / 1e6)
                self._read += len(line)
        return len(self.delays)

    def forget(self) -> None:
        """Count from here: what has started until now were others."""
        self.look()
        self.delays.clear()

    def take(self, count: int) -> Sequence[float]:
        """Milliseconds from submission to start; stop when it was not exactly so many tasks."""
        assert self.look() == count, f"{len(self.delays)} tasks were started, not {count}"
        return list(self.delays)
