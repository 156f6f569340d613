"""The README's tour works line by line on a real server."""

from __future__ import annotations

from pathlib import Path

from tests.docs.scripts import run_page
from tests.servers import ROOT


def test_every_page_is_in_the_readme() -> None:
    """Nobody finds a page that nothing links to."""
    readme = (ROOT / "README.md").read_text("utf-8")
    pages = [f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")]
    assert [page for page in pages if f"({page})" not in readme] == []


def test_tour_of_the_readme_works_as_written(tmp_path: Path) -> None:
    """Each command succeeds and shows what the text around it says."""
    printed = run_page("README.md", "tour", tmp_path / "var", at_least=7)
    for shown in (
        '"status":"ready"',
        '"status":"blocked"',
        '"cancel_requested":false',
        '"result":{"words": 1200}',
        '"type":"task.completed"',
        "task.queued sum up",
        '"times":[',
        '"cause":"not-claimed"',
        '"cancelled":2',
        "Schedule deleted",
        "Task cancelled",
        "Agent unregistered successfully",
    ):
        assert shown in printed, f"{shown!r} is missing in:\n{printed}"
