"""The measurement of dispatch measures what it says, and stops when it can't."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.dispatch.figures import Figures, Plan, Row
from benchmarks.dispatch.marks import Marker, Marks
from benchmarks.dispatch.report import describe
from tests.servers import ROOT

PLAN = Plan(latencies=4, tasks=100, workers=[1, 2], slots=16, at_once=8)
OURS = Row("AgentZero API, one by one", "POST, {at_once} at once", "journaled", "`completed`")


def report_of(figures: Figures) -> str:
    """The page."""
    return describe(figures, PLAN, 2, measured="Now.", notes=["{slots} slots."])


@pytest.mark.parametrize(("slowest", "verdict"), [(9.0, "met"), (30.0, "MISSED")])
def test_slowest_starts_decide_of_the_latency(slowest: float, verdict: str) -> None:
    """p99 of all tasks is what the aim is about."""
    figures = Figures()
    figures.add_latencies(OURS, [1.0] * 150)
    figures.add_latencies(OURS, [1.0] * 40 + [slowest] * 10)
    page = report_of(figures)
    assert f"| 200 | 1.0 | {slowest:.1f} | {slowest:.1f} |" in page
    assert f"at most 10 ms are wanted: {verdict}." in page


@pytest.mark.parametrize(("rate", "verdict"), [(1_200.0, "met"), (980.0, "MISSED")])
def test_median_of_the_rounds_decides_of_the_throughput(rate: float, verdict: str) -> None:
    """With the number of agents that does best."""
    figures = Figures()
    for workers, rates in ((1, [500.0, 700.0]), (2, [rate - 100, rate + 100])):
        for each in rates:
            figures.add_rate(OURS, workers, each)
    page = report_of(figures)
    assert "| POST, 8 at once | journaled | `completed` | 600 (500-700) |" in page
    assert f"{rate:,.0f} tasks/s at best; 1,000 are wanted: {verdict}." in page
    assert "- 16 slots." in page


def test_marks_of_several_workers_are_counted_once(tmp_path: Path) -> None:
    """From where the last count ended, and not those of the warm-up."""
    marks = Marks(tmp_path / "marks")
    workers = [Marker(str(tmp_path / "marks")) for _ in range(2)]
    workers[0].mark(0)
    marks.forget()
    for worker in workers:
        worker.mark(0)
    assert marks.look() == 2
    assert len(marks.take(2)) == 2


def test_task_that_ran_twice_stops_the_measurement(tmp_path: Path) -> None:
    """A rate of what ran more than once would be too good."""
    marks = Marks(tmp_path / "marks")
    worker = Marker(str(tmp_path / "marks"))
    for _ in range(3):
        worker.mark(0)
    with pytest.raises(AssertionError, match="3 tasks were started, not 2"):
        marks.take(2)


@pytest.mark.more
def test_hive_is_measured_with_a_server_and_agents(tmp_path: Path) -> None:
    """The program as users run it, with few tasks: every row is there."""
    options = {"--only": "hive", "--rounds": 1, "--latencies": 5, "--tasks": 20, "--workers": 1}
    given = [str(part) for pair in options.items() for part in pair]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.dispatch", *given, "--directory", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    for name in ("WebSocket", "long poll", "batches", "one by one"):
        assert f"| AgentZero API, {name} |" in done.stdout
