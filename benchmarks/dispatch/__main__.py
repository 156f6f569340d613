"""What a task costs from submission to start, and end to end: `python -m benchmarks.dispatch`.

One real server with its mongod and shipped agents; beside it, in the same run and turn by turn, so
that whatever else the machine does hits all. Latency: one task at a time, all else idle, from just
before the submission to the first line of the handler. Throughput: tasks that do nothing, from
before the first submission to the end of the last one.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from benchmarks.dispatch import hive, peers
from benchmarks.dispatch.figures import Figures, Plan
from benchmarks.dispatch.machine import describe_machine
from benchmarks.dispatch.report import describe

HERE = Path(__file__).resolve().parent
Measure = Callable[[Path, Plan, Figures], None]


@dataclass(frozen=True, slots=True)
class Contender:
    """Measures all its rows; `notes` say how."""

    measure: Measure
    notes: Sequence[str]


CONTENDERS = {
    "hive": Contender(hive.measure, [hive.NOTE]),
    **{
        peer.module.removesuffix("_peer"): Contender(
            partial(peers.measure, peer), [peer.note, peers.REDIS_NOTE]
        )
        for peer in (peers.CELERY, peers.TASKIQ)
    },
}
PACE_NOTE = (
    "Every task appends a line to a file when it starts, by which its start is known and that it"
    " ran once. Clocks are the machine's one. Before each figure some tasks run that don't count."
    " Contenders take turns, in the reverse order in every other round."
)


def main() -> None:
    """Measure and tell."""
    given = read_options()
    plan = Plan(given.latencies, given.tasks, given.workers, given.slots, given.at_once)
    names = given.only or list(CONTENDERS)
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="agentzero-bench-", dir=given.directory) as place:
        machine = describe_machine(Path(place))
        for number in range(given.rounds):
            for name in names if number % 2 == 0 else reversed(names):
                sys.stderr.write(f"round {number + 1} of {given.rounds}: {name}\n")
                folder = Path(place) / f"{name}-{number}"
                folder.mkdir()
                CONTENDERS[name].measure(folder, plan, figures)
    measured = (
        f"`{shlex.join(['python', '-m', 'benchmarks.dispatch', *sys.argv[1:]])}`,"
        f" {datetime.now(UTC):%Y-%m-%d}, {machine}; load average before the end"
        f" {os.getloadavg()[0]:.1f}."
    )
    # Some share a note.
    notes = dict.fromkeys(note for name in names for note in CONTENDERS[name].notes)
    report = describe(figures, plan, given.rounds, measured=measured, notes=[*notes, PACE_NOTE])
    sys.stdout.write(report)
    if given.keep:
        (HERE / "RESULTS.md").write_text(report, encoding="utf-8")


def read_options() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dispatch")
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), help="not all contenders")
    parser.add_argument("--rounds", type=int, default=2, help="of all contenders (default 2)")
    parser.add_argument("--latencies", type=int, default=300, help="tasks, one at a time (300)")
    parser.add_argument("--tasks", type=int, default=5_000, help="of each throughput (5,000)")
    parser.add_argument(
        "--workers", type=int, nargs="*", default=[1, 2, 4], help="agents or workers (1 2 4)"
    )
    parser.add_argument("--slots", type=int, default=16, help="of each agent (default 16)")
    parser.add_argument("--at-once", type=int, default=16, help="single submissions (default 16)")
    parser.add_argument("--directory", help="where the data is kept (default: that of tempfile)")
    parser.add_argument("--keep", action="store_true", help="write RESULTS.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
