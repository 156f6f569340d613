"""An agent in a process of its own, which can be killed and stopped like any other.

    python -m tests.faults.agent_process ORDERS

`ORDERS` is a JSON file that says who the agent is. What it sees goes into a journal, one record at
a time and unbuffered: of a process that is killed, no more is missing than the record that it was
at. A new process under the same orders goes on in the same journal.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

import uvloop

from server import die_with_parent
from server.data_directory import DataDirectory
from tests.faults.agent import Agent
from tests.faults.client import open_client
from tests.faults.history import Grant, History, Outcome, Report, Verb
from tests.faults.shape import Shape
from tests.servers import ROOT


@dataclass(slots=True)
class Journal(History):
    """A history that is on the disk as soon as it is known."""

    file: BinaryIO = field(kw_only=True)

    def note_grants(self, grants: Sequence[Grant]) -> None:
        """As the base."""
        for grant in grants:
            self._write("grant", _values(grant))

    def note_report(self, report: Report) -> None:
        """As the base."""
        self._write("report", _values(report))

    def note_surprise(self, text: str) -> None:
        """As the base."""
        self._write("surprise", [text])

    def _write(self, kind: str, values: Sequence[Any]) -> None:
        answers = dict(self.answers)
        self.answers.clear()
        # A record begins on a line of its own, whatever a process left unfinished before.
        self.file.write(f"\n{json.dumps([kind, answers, *values])}".encode())


def _values(record: Grant | Report) -> list[Any]:
    found = [getattr(record, item.name) for item in fields(record)]
    return [_values(value) if isinstance(value, Grant) else value for value in found]


def read_journal(path: Path, history: History) -> None:
    """Add what a journal says; records that a kill cut off are passed over."""
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            kind, answers, *values = json.loads(line)
        except ValueError:
            continue
        history.answers.update(answers)
        match kind:
            case "grant":
                history.grants.append(Grant(*values))
            case "report":
                grant, verb, outcome, *rest = values
                history.reports.append(Report(Grant(*grant), Verb(verb), Outcome(outcome), *rest))
            case _:
                history.surprises += values


class AgentProcess:
    """One agent; `start` again makes a new process of it after `kill`.

    It dies with the thread that starts it.
    """

    def __init__(
        self, directory: Path, agent: Agent, nodes: Sequence[DataDirectory], shape: Shape, seed: int
    ) -> None:
        self._orders = directory / f"{agent.agent_id}.json"
        self._journal = self._orders.with_suffix(".journal")
        self._process: subprocess.Popen[bytes] | None = None
        self._resuming: threading.Timer | None = None
        orders = {
            "agent_id": agent.agent_id,
            "key": agent.key,
            "nodes": [str(node.path) for node in nodes],
            "shape": asdict(shape),
            "seed": seed,
            "journal": str(self._journal),
        }
        directory.mkdir(parents=True, exist_ok=True)
        self._orders.write_text(json.dumps(orders))

    def start(self) -> None:
        """Start it; it works when it is there."""
        parent = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid())]
        program = [sys.executable, "-m", __spec__.name, str(self._orders)]
        self._process = subprocess.Popen([*parent, *program], cwd=ROOT)

    def kill(self) -> None:
        """End it as a power cut would. Idempotent."""
        process, self._process = self._process, None
        if self._resuming is not None:
            self._resuming.cancel()
        if process is not None:
            ended = process.poll()
            process.kill()
            process.wait()
            assert ended is None, f"an agent ended by itself: {ended}"

    def stop_for(self, seconds: float) -> None:
        """Let it stand still so long, while everything else goes on."""
        process = self._process
        assert process is not None, "the agent was not started"
        if self._resuming is not None:
            self._resuming.cancel()
        process.send_signal(signal.SIGSTOP)
        self._resuming = threading.Timer(seconds, process.send_signal, [signal.SIGCONT])
        self._resuming.daemon = True
        self._resuming.start()

    def read(self, history: History) -> None:
        """Add what it saw."""
        read_journal(self._journal, history)


async def _work(orders: dict[str, Any], file: BinaryIO) -> None:
    nodes = [DataDirectory(Path(path)) for path in orders["nodes"]]
    journal = Journal(file=file)
    async with open_client(nodes, journal.answers) as client:
        shape = Shape(**orders["shape"])
        agent = Agent(client, journal, orders["agent_id"], orders["key"], shape)
        # The next process of this agent does something else.
        await agent.work(random.Random(f"{orders['seed']}:{file.seek(0, os.SEEK_END)}"))


def main(orders: Path) -> None:
    """Work until killed."""
    given = json.loads(orders.read_text())
    with Path(given["journal"]).open("ab", buffering=0) as file:
        uvloop.run(_work(given, file))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
