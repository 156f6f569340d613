"""`agentzero keys rotate` while no server runs: it changes the database itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from server import cli
from server.data_directory import DataDirectory

SECRET = "correct-horse-battery-staple-0123456789"


def run(directory: Path, *arguments: str, **env: str) -> tuple[int, str]:
    """Exit code and everything that was printed."""
    env["AGENTZERO_DATA_DIR"] = str(directory)
    result = CliRunner().invoke(cli.app, ["keys", "rotate", *arguments], env=env)
    return result.exit_code, result.output


def test_keys_are_rotated_without_a_server(tmp_path: Path) -> None:
    """The new key, when it signs, and until when tokens of the older ones are accepted."""
    code, said = run(tmp_path, "--algorithm", "EdDSA")
    assert code == 0, said
    first, second = said.splitlines()
    assert "(EdDSA) signs from 20" in first
    assert "(HS256) are accepted until 20" in second
    code, again = run(tmp_path)
    assert code == 0, again
    assert "(EdDSA) signs from" in again.splitlines()[0]
    assert len(again.splitlines()) == 3


def test_directory_of_a_server_that_starts_is_left_alone(tmp_path: Path) -> None:
    """Exit code 2 while somebody has the lock and does not listen yet."""
    with DataDirectory(tmp_path):
        code, said = run(tmp_path)
    assert code == 2
    assert "is in use by" in said


def test_running_server_without_an_operator_key_is_said(tmp_path: Path) -> None:
    """Exit code 2 and the file that is missing."""
    with DataDirectory(tmp_path) as directory:
        directory.write_running_server("http://127.0.0.1:1")
        code, said = run(tmp_path)
    assert code == 2
    assert "operator.key" in said


def test_server_that_does_not_answer_is_said(tmp_path: Path) -> None:
    """Exit code 1 and where it should listen."""
    with DataDirectory(tmp_path) as directory:
        directory.write_running_server("http://127.0.0.1:1")
        directory.write_operator_key("azk_x")
        code, said = run(tmp_path)
    assert code == 1
    assert "http://127.0.0.1:1 does not answer" in said


def test_too_many_rotations_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1, and what to do."""
    monkeypatch.setattr("hive.token_keys.MOST_KEYS", 2)
    assert run(tmp_path)[0] == 0
    code, said = run(tmp_path)
    assert code == 1
    assert "Try again in a while" in said


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    """Exit code 2 and the variable's name."""
    code, said = run(tmp_path, AGENTZERO_TOKEN_ALGORITHM="none")
    assert code == 2
    assert "AGENTZERO_TOKEN_ALGORITHM" in said


def test_keys_of_another_secret_are_forgotten(tmp_path: Path) -> None:
    """The way out that the refusal to start names."""
    assert run(tmp_path, "--algorithm", "EdDSA")[0] == 0
    code, said = run(tmp_path, AGENTZERO_SECRET_KEY=SECRET)
    assert code == 0, said
    assert len(said.splitlines()) == 2
    assert "(EdDSA) signs from" in said
