"""How profiles become one report, and how the report reaches the disk."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from server.demo.csv_profile import profile_csv
from server.demo.report import merge, render_markdown, write_report
from server.demo.text_profile import profile_text

EXAMPLES = Path(__file__).parents[2] / "examples" / "data"


@pytest.fixture
def report(tmp_path: Path) -> dict[str, Any]:
    """Merge one text, one table and one failure."""
    text, table = tmp_path / "b.txt", tmp_path / "a.csv"
    text.write_text("One two. Three.")
    table.write_text("x,y\n1,p\n2,q\n")
    profiles = {"b.txt": profile_text(text), "a.csv": profile_csv(table)}
    return merge(profiles, {"c.txt": "c.txt does not exist."}, generated_at="2026-11-21T20:00:00Z")


def test_merge_puts_every_file_under_its_name(report: dict[str, Any]) -> None:
    """Each file's figures are at the top of its entry, and failures are entries too."""
    assert list(report["files"]) == ["a.csv", "b.txt", "c.txt"]
    text, table = report["files"]["b.txt"], report["files"]["a.csv"]
    assert (text["kind"], text["words"], text["sentences"]) == ("text", 3, 2)
    assert (table["kind"], table["rows"], list(table["columns"])) == ("csv", 2, ["x", "y"])
    assert report["files"]["c.txt"] == {"error": "c.txt does not exist."}
    assert report["failures"] == {"c.txt": "c.txt does not exist."}
    assert report["generated_at"] == "2026-11-21T20:00:00Z"


def test_merge_totals_what_adds_up(report: dict[str, Any]) -> None:
    """Totals are sums over the files that were read."""
    assert report["totals"] == {
        "files": 3,
        "text_files": 1,
        "csv_files": 1,
        "failed": 1,
        "characters": 15,
        "words": 3,
        "sentences": 2,
        "rows": 2,
        "columns": 2,
        "reading_time_seconds": 0.9,
    }


def test_merge_of_nothing_is_a_report() -> None:
    """No files is no error, and a name in both maps is a failure."""
    empty = merge({}, {})
    assert (empty["files"], empty["totals"]["files"]) == ({}, 0)
    assert "generated_at" not in empty
    assert render_markdown(empty).startswith("# Report\n\n0 files")
    both = merge({"a.txt": {"words": 1}}, {"a.txt": "a.txt failed."})
    assert both["files"] == {"a.txt": {"error": "a.txt failed."}}
    assert both["totals"]["words"] == 0


def test_markdown_shows_all_parts(report: dict[str, Any]) -> None:
    """The page names each file, its figures and the failure."""
    page = render_markdown(report)
    assert "| c.txt | c.txt does not exist. |" in page
    assert "| b.txt | 15 | 3 | 2 | 1 s |" in page
    assert "| b.txt | one (1), three (1), two (1) |" in page
    assert "| x | integer | 0 | 1 | 2 | 1.5 |  |" in page
    assert "| y | string | 0 |  |  |  | p (1), q (1) |" in page


def test_markdown_survives_hostile_names_and_values(tmp_path: Path) -> None:
    """Pipes, line ends, backticks and tags in data can't break a table or become markup."""
    table = tmp_path / "t.csv"
    evil = "a|b `c`\n# <script>*x* [y](z) \\| \u202e"
    table.write_text(f'"{evil}",n\n"{evil}",1\n', encoding="utf-8")
    page = render_markdown(merge({evil: profile_csv(table)}, {f"{evil}2": evil}))
    for line in page.splitlines():
        if line.startswith("|"):
            cells = len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) - 1
            assert cells in {2, 3, 7}, line
    assert not re.search(r"(?<!\\)[`<]", page)
    assert "\u202e" not in page
    assert "\\# \\<script\\>" in page


def test_write_report_makes_both_files(tmp_path: Path, report: dict[str, Any]) -> None:
    """The directory is made, the JSON is the report, and nothing else is left behind."""
    directory = tmp_path / "new" / "out"
    page, data = write_report(directory, report)
    assert json.loads(data.read_text(encoding="utf-8")) == report
    assert page.read_text(encoding="utf-8") == render_markdown(report)
    assert sorted(p.name for p in directory.iterdir()) == ["report.json", "report.md"]


def test_write_report_replaces_whole_files_only(tmp_path: Path, report: dict[str, Any]) -> None:
    """A report that can't be written as JSON leaves the earlier one as it was."""
    write_report(tmp_path, report)
    before = (tmp_path / "report.json").read_bytes(), (tmp_path / "report.md").read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_report(tmp_path, {**report, "generated_at": float("nan")})
    after = (tmp_path / "report.json").read_bytes(), (tmp_path / "report.md").read_bytes()
    assert before == after


def test_write_report_takes_names_that_are_no_unicode(tmp_path: Path) -> None:
    """A file name with undecodable bytes can still be reported."""
    report = merge({}, {"x\udcff.txt": "x\\udcff.txt does not exist."})
    _, data = write_report(tmp_path, report)
    assert list(json.loads(data.read_text(encoding="utf-8"))["files"]) == ["x\udcff.txt"]


def test_report_of_the_examples_is_whole(tmp_path: Path) -> None:
    """All example files can be read, and the report holds each."""
    profiles = {
        path.name: (profile_csv if path.suffix == ".csv" else profile_text)(path)
        for path in EXAMPLES.iterdir()
    }
    report = merge(profiles, {})
    assert report["totals"]["failed"] == 0
    assert report["totals"]["csv_files"] >= 3
    write_report(tmp_path, report)
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert all(path.name in page for path in EXAMPLES.iterdir())
