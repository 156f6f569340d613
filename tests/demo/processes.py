"""`agentzero demo` as users run it: a process of its own, on a data directory of the test's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from server.settings import PREFIX
from tests.servers import ROOT

SECONDS = 60


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a demo ended, and all that it said."""

    code: int
    said: str


class DemoProcess:
    """A running demo; leaving the context kills it, if it still runs."""

    def __init__(self, data_dir: Path, *arguments: str | Path) -> None:
        env = {n: v for n, v in os.environ.items() if not n.startswith(PREFIX)}
        program = [sys.executable, "-m", "server.cli", "demo", *map(str, arguments)]
        self.process = subprocess.Popen(
            program,
            cwd=ROOT,
            env=env | {f"{PREFIX}DATA_DIR": str(data_dir), "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def read_until(self, *texts: str) -> str:
        """Read lines until each text was in one, in any order; what was read."""
        said, missing = "", set(texts)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said += line
            missing -= {text for text in missing if text in line}
            if not missing:
                return said
        raise AssertionError(f"the demo ended without {missing}:\n{said}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the demo alone."""
        self.process.send_signal(number)

    def wait(self) -> Outcome:
        """Read the rest, and wait for the end."""
        said, _ = self.process.communicate(timeout=SECONDS)
        return Outcome(self.process.returncode, said)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate()


def run_demo(data_dir: Path, *arguments: str | Path) -> Outcome:
    """Run a demo to its end."""
    with DemoProcess(data_dir, *arguments) as demo:
        return demo.wait()


def find_processes(data_dir: Path) -> list[int]:
    """The processes that were started for this data directory and still run, whatever they are."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:  # It has ended.
            continue
        if os.fsencode(data_dir) in told and state != "Z":
            found.append(int(process.name))
    return found
