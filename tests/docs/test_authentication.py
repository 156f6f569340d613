"""The commands of docs/authentication.md work as they stand."""

from __future__ import annotations

from pathlib import Path

from tests.docs.scripts import run_page


def test_commands_of_the_guide_work_as_written(tmp_path: Path) -> None:
    """Each command succeeds and shows what the text around it says."""
    printed = run_page("docs/authentication.md", "run", tmp_path / "var", at_least=10)
    for shown in (
        '"username":"ann"',
        '"device":"laptop"',
        '"message":"Password changed"',
        '"token_type":"bearer"',
        '"status":"active"',
        '"type":"pong"',
        '"kty":"OKP"',
        '"admin_allowlist":["127.0.0.0/8"]',
        '"operation":"login"',
        '"message":"User deleted"',
    ):
        assert shown in printed, f"{shown!r} is missing in:\n{printed}"
