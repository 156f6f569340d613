"""docs/permissions.md is what the command prints."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from server.cli import app

PAGE = Path(__file__).resolve().parents[2] / "docs" / "permissions.md"


def test_page_is_what_the_command_prints() -> None:
    """A new operation or permission is in the page, or this fails."""
    printed = CliRunner().invoke(app, ["permissions"])
    assert printed.exit_code == 0
    written = PAGE.read_text(encoding="utf-8")
    assert written == printed.stdout, "run: .venv/bin/agentzero permissions > docs/permissions.md"
