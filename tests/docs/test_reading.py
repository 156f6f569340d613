"""The commands of docs/reading.md work as they stand."""

from __future__ import annotations

from pathlib import Path

from tests.docs.scripts import run_page


def test_commands_of_the_page_work_as_written(tmp_path: Path) -> None:
    """Each command succeeds, or is refused as the text around it says."""
    printed = run_page("docs/reading.md", "run", tmp_path / "var", at_least=4)
    for shown in (
        '"name":"page.1"',
        '"name":"page.3"',
        "unchanged: 304",
        "HTTP/1.1 200 OK",
        '"admin_allowlist":["127.0.0.0/8"]',
        '"code":"precondition-failed"',
        '"admin_allowlist":[]',
    ):
        assert shown in printed, f"{shown!r} is missing in:\n{printed}"
