"""The README's tour works line by line on a real server."""

from __future__ import annotations

from pathlib import Path

from tests.docs.scripts import run_page


def test_tour_of_the_readme_works_as_written(tmp_path: Path) -> None:
    """Each command succeeds and shows what the text around it says."""
    printed = run_page("README.md", "tour", tmp_path / "var", at_least=6)
    for shown in (
        '"status":"ready"',
        '"status":"blocked"',
        '"cancel_requested":false',
        '"result":{"words": 1200}',
        '"type":"task.completed"',
        "task.queued sum up",
        "Task cancelled",
        "Agent unregistered successfully",
    ):
        assert shown in printed, f"{shown!r} is missing in:\n{printed}"
