"""The demo from end to end: real servers, real agents in processes of their own, real files."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from agentzero_client import AsyncClient, TaskSummary
from server.demo import plan, run
from server.resources import examples_path
from server.settings import Settings
from tests.demo.processes import DemoProcess, find_processes, run_demo
from tests.servers import ServerProcess, wait_until

ROWS = 300_000


def read_report(output: Path) -> dict[str, Any]:
    """The report of a run."""
    report: dict[str, Any] = json.loads((output / "report.json").read_text())
    return report


def write_files(directory: Path, files: dict[str, bytes]) -> Path:
    """Make a directory of files."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A directory with tables that take many seconds each; nobody waits for them."""
    lines = "".join(f"{n},{n / 7:.3f},word {n % 977}\n" for n in range(ROWS))
    table = f"number,fraction,word\n{lines}".encode()
    return write_files(tmp_path / "large", {f"{n}.csv": table for n in range(3)})


def run_in_process(server: ServerProcess, source: Path, output: Path) -> int:
    """Run a demo in this process, against the running server."""
    settings = Settings(data_dir=server.data.path)
    return run.main(settings, source=source, output=output, keep_running=False)


def identities(data_dir: Path) -> dict[str, str]:
    """The agents that demos of a data directory made: name -> identifier."""
    files = (data_dir / "demo").glob("demo-agent-*.json")
    kept = [json.loads(file.read_text()) for file in files]
    return {one["name"]: one["agent_id"] for one in kept if one}


def told(event_type: str, name: str, file: str) -> str:
    """What the demo says of an event, behind its time."""
    return f"  {event_type:<15} {name:<13} {file}"


MERGE_SUBMITTED = told("task.created", "report.merge", "report")
"""The last task is in the hive: one that came while the others are cancelled would run at once,
because a merge runs whatever became of its dependencies, and complete."""


async def tasks_of_last_run(client: AsyncClient) -> list[TaskSummary]:
    """The tasks that were submitted by the demo that began last."""
    newest = [task async for task in client.tasks.list(limit=10)]
    return [task for task in newest if task.labels["demo"] == newest[0].labels["demo"]]


def test_without_a_server_the_demo_starts_one_and_ends_it(tmp_path: Path) -> None:
    """The examples are profiled, right; the second run has the same agents; nothing runs on."""
    data_dir, output = tmp_path / "fresh", tmp_path / "out"
    first = run_demo(data_dir, "--output", output)
    assert first.code == 0, first.said
    assert "its password is" in first.said
    assert "\x1b" not in first.said
    assert str(output / "report.json") in first.said
    files = read_report(output)["files"]
    examples = examples_path() / "data"
    assert set(files) == {path.name for path in examples.iterdir()}
    for path in examples.iterdir():
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".csv":
            delimiter = ";" if ";" in text.splitlines()[0] else ","
            header, *records = csv.reader(text.splitlines(), delimiter=delimiter)
            assert files[path.name]["rows"] == len(records)
            assert list(files[path.name]["columns"]) == header
        else:
            assert files[path.name]["words"] == len(text.split())
            assert files[path.name]["characters"] == len(text)
    assert (output / "report.md").read_text().startswith("# Report")
    assert find_processes(data_dir) == []

    made = identities(data_dir)
    second = run_demo(data_dir, "--output", output)
    assert second.code == 0, second.said
    assert "its password is" not in second.said
    assert identities(data_dir) == made
    assert find_processes(data_dir) == []


def test_keep_running_leaves_server_and_agents_and_says_how_to_stop_them(tmp_path: Path) -> None:
    """The command that it prints ends what it left."""
    data_dir = tmp_path / "kept"
    source = write_files(tmp_path / "in", {"a.txt": b"One. Two."})
    outcome = run_demo(data_dir, "--input", source, "--output", tmp_path / "out", "--keep-running")
    assert outcome.code == 0, outcome.said
    command = re.search(r"kill ((?:\d+ ?)+)", outcome.said)
    assert command is not None, outcome.said
    told = [int(pid) for pid in command[1].split()]
    left = find_processes(data_dir)
    try:
        assert len(told) == 3
        assert set(told) < set(left)  # The rest is the server's mongod.
        for pid in told:
            signal_process(pid)
        wait_until(lambda: not find_processes(data_dir), "all have ended", 20)
    finally:
        for pid in find_processes(data_dir):
            signal_process(pid, signal.SIGKILL)


def signal_process(pid: int, number: signal.Signals = signal.SIGTERM) -> None:
    """What the shell's `kill` does."""
    os.kill(pid, number)


def test_a_running_server_is_used_and_left_running(
    server: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Byte order marks are allowed; hidden files and an earlier report are left out."""
    source = write_files(
        tmp_path / "in",
        {
            "notes/Deep.MD": b"Hello there. How are you? Fine",
            "bom.CSV": b"\xef\xbb\xbfname,age\nAnn,3\nBob,\nCid,8\n",
            "bom.txt": b"\xef\xbb\xbfThree words here.",
            "report.md": b"# An earlier report",
            "picture.png": b"\x89PNG",
            ".hidden/secret.txt": b"not for us",
        },
    )
    assert run_in_process(server, source, source) == 0
    said = capsys.readouterr().out
    assert "Starting the server" not in said
    files = read_report(source)["files"]
    assert set(files) == {"notes/Deep.MD", "bom.CSV", "bom.txt"}
    deep, table = files["notes/Deep.MD"], files["bom.CSV"]
    assert (deep["words"], deep["sentences"]) == (6, 3)
    assert files["bom.txt"]["characters"] == 17
    assert table["rows"] == 3
    assert table["columns"]["age"] == {
        "type": "integer",
        "nulls": 1,
        "min": 3,
        "max": 8,
        "mean": 5.5,
    }
    assert server.data.find_running_server() is not None


def test_unreadable_files_fail_their_own_tasks_only(
    server: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1; the report is written, has the others, and names these with the reason."""
    wide = ",".join(f"column number {n}" for n in range(20_000))
    source = write_files(
        tmp_path / "in",
        {
            "good.txt": b"Good.",
            "latin.txt": "Caf\xe9".encode("latin-1"),
            "[red]\x1b[31m.txt": b"An unusual name.",
            "wide.csv": f"{wide}\n{'1,' * 19_999}1\n".encode(),
        },
    )
    (source / "dangling.md").symlink_to("nowhere")
    output = tmp_path / "out"
    assert run_in_process(server, source, output) == 1
    said = capsys.readouterr().out
    assert "3 of 6 tasks did not complete; the report names them." in said
    assert "\x1b" not in said
    report = read_report(output)
    assert set(report["failures"]) == {"latin.txt", "dangling.md", "wide.csv"}
    assert "not UTF-8" in report["files"]["latin.txt"]["error"]
    assert "does not exist" in report["failures"]["dangling.md"]
    assert "too large" in report["failures"]["wide.csv"]
    assert report["files"]["good.txt"]["words"] == 1
    assert report["files"]["[red]\\x1b[31m.txt"]["words"] == 3
    assert "latin.txt" in (output / "report.md").read_text()


def test_an_agent_whose_key_is_lost_comes_back_under_another_name(
    server: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its old name may be at work for somebody else, so that it is left alone."""
    source = write_files(tmp_path / "in", {"a.txt": b"A."})
    assert run_in_process(server, source, tmp_path / "out") == 0
    before = identities(server.data.path)
    for kept in (server.data.path / "demo").glob("demo-agent-*.json"):
        kept.write_text("{}")
    assert run_in_process(server, source, tmp_path / "out") == 0
    assert set(identities(server.data.path)).isdisjoint(before)
    assert "All 2 tasks completed." in capsys.readouterr().out


def test_more_files_than_a_task_may_have_dependencies_are_merged_in_levels(
    server: ServerProcess,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With three dependencies at most, seven files take four merges and one of those."""
    monkeypatch.setattr(plan, "MOST_DEPENDENCIES", 3)
    source = write_files(tmp_path / "in", {f"{n}.txt": b"A word. " * n for n in range(7)})
    output = tmp_path / "out"
    assert run_in_process(server, source, output) == 0
    assert "All 11 tasks completed." in capsys.readouterr().out
    files = read_report(output)["files"]
    assert {name: entry["words"] for name, entry in files.items()} == {
        f"{n}.txt": 2 * n for n in range(7)
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "is not a directory"),
        (lambda path: path.mkdir(), "There is no .txt, .md or .csv file"),
    ],
    ids=["missing", "empty"],
)
def test_nothing_to_profile_is_refused_before_anything_starts(
    make: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and a sentence; no directory was made."""
    make(tmp_path / "in")
    settings = Settings(data_dir=tmp_path / "data")
    code = run.main(settings, source=tmp_path / "in", output=tmp_path / "out", keep_running=False)
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "out").exists()


def test_a_server_that_can_t_start_is_told_with_its_last_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1, and the reason is on the screen."""
    monkeypatch.setenv("AGENTZERO_MONGODB_URI", "mongodb://127.0.0.1:1/?timeoutMS=200")
    monkeypatch.setenv("AGENTZERO_SQL_URL", "sqlite:////nowhere/at/all.sqlite3")
    source = write_files(tmp_path / "in", {"a.txt": b"A."})
    settings = Settings(data_dir=tmp_path / "data")
    code = run.main(settings, source=source, output=tmp_path / "out", keep_running=False)
    assert code == 1
    assert "The server ended with code" in capsys.readouterr().err


async def test_ctrl_c_cancels_what_is_left_and_ends_the_agents(
    server: ServerProcess, client: AsyncClient, large: Path, tmp_path: Path
) -> None:
    """Exit code 130; every task has ended in the hive, and no agent runs."""
    before = find_processes(server.data.path)
    arguments = ("--input", large, "--output", tmp_path / "out")
    with DemoProcess(server.data.path, *arguments) as demo:
        demo.read_until("task.started", MERGE_SUBMITTED)
        demo.send(signal.SIGINT)
        outcome = demo.wait()
    assert outcome.code == 130, outcome.said
    tasks = await tasks_of_last_run(client)
    assert sorted((task.name, task.status) for task in tasks) == [
        *[("csv.profile", "cancelled")] * 3,
        ("report.merge", "cancelled"),
    ]
    assert find_processes(server.data.path) == before


@pytest.mark.more
async def test_a_killed_demo_leaves_no_process_and_does_not_slow_the_next(
    server: ServerProcess, client: AsyncClient, large: Path, tmp_path: Path
) -> None:
    """Its agents die with it, and the next demo frees their slots and cancels its tasks."""
    before = find_processes(server.data.path)
    arguments = ("--input", large, "--output", tmp_path / "out")
    with DemoProcess(server.data.path, *arguments) as demo:
        # What an agent had not accepted when it died would be given back.
        begun = [told("task.log", "csv.profile", f"{n}.csv") for n in range(3)]
        demo.read_until(MERGE_SUBMITTED, *begun)
        demo.send(signal.SIGKILL)
        demo.wait()
    killed = await tasks_of_last_run(client)
    assert sorted((task.name, task.status) for task in killed) == [
        *[("csv.profile", "running")] * 3,
        ("report.merge", "blocked"),
    ]
    wait_until(lambda: find_processes(server.data.path) == before, "its agents have died")
    source = write_files(tmp_path / "small", {"a.txt": b"A."})
    outcome = run_demo(server.data.path, "--input", source, "--output", tmp_path / "out")
    assert outcome.code == 0, outcome.said
    statuses = [(await client.tasks.get(task.task_id)).status for task in killed]
    assert set(statuses) == {"cancelled"}


@pytest.mark.more
async def test_two_demos_at_once_have_agents_of_their_own(
    server: ServerProcess, large: Path, tmp_path: Path
) -> None:
    """Neither waits for the other's files, and both succeed."""
    small = write_files(tmp_path / "small", {"a.txt": b"A."})
    slow_arguments = ("--input", large, "--output", tmp_path / "slow")
    with DemoProcess(server.data.path, *slow_arguments) as slow:
        said = slow.read_until("task.started")
        quick = run_demo(server.data.path, "--input", small, "--output", tmp_path / "quick")
        assert quick.code == 0, quick.said
        agents = set(re.findall(r"demo-agent-[\w-]+", quick.said))
        assert agents.isdisjoint(re.findall(r"demo-agent-[\w-]+", said))
        slow.send(signal.SIGINT)
        slow.wait()
