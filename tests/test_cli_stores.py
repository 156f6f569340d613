"""`agentzero database`: the versions of the stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from typer.testing import CliRunner

from server import cli
from storage.mongo.migrations import MIGRATIONS
from storage.sql.database import Database

NEWEST = MIGRATIONS[-1].version


@pytest.fixture
def env(tmp_path: Path, mongodb_uri: str, database_name: str) -> dict[str, str]:
    """A MongoDB and an SQLite that no server has used yet."""
    url = f"sqlite:///{tmp_path / 'identities.sqlite3'}"
    database = Database(url)
    database.migrate()
    database.close()
    return {
        "AGENTZERO_DATA_DIR": str(tmp_path),
        "AGENTZERO_MONGODB_URI": mongodb_uri,
        "AGENTZERO_MONGODB_DATABASE": database_name,
        "AGENTZERO_SQL_URL": url,
    }


def run(command: str, env: dict[str, str]) -> tuple[int, str]:
    """Exit code and everything that was printed."""
    result = CliRunner().invoke(cli.app, ["database", command], env=env)
    return result.exit_code, result.output


def test_migrate_brings_both_stores_to_the_newest_version(env: dict[str, str]) -> None:
    """What is missing is listed before, and nothing after."""
    code, before = run("status", env)
    assert (code, before.count("MongoDB: missing")) == (0, len(MIGRATIONS)), before
    code, after = run("migrate", env)
    assert code == 0, after
    assert f"MongoDB: version {NEWEST}, newest {NEWEST}, readable from version" in after
    assert "missing" not in after
    code, shown = run("status", env)
    assert code == 0
    assert after.endswith(shown)
    revision = after.splitlines()[-1]
    assert revision.startswith("SQL: revision ")
    assert revision.split()[2].rstrip(",") == revision.split()[4]


def test_a_store_of_a_newer_release_is_refused(
    env: dict[str, str], mongodb_client: MongoClient[dict[str, Any]], database_name: str
) -> None:
    """By the command and by a start, with a text that says what to do."""
    newer = {"_id": "store", "version": NEWEST + 2, "readable_from": NEWEST + 1}
    mongodb_client[database_name]["schema"].insert_one(newer)
    code, output = run("migrate", env)
    assert code == 2
    assert f"this release knows version {NEWEST}" in output
    result = CliRunner().invoke(cli.app, ["serve"], env=env)
    assert result.exit_code == 2, result.output
    assert "Start the release that migrated them, or a newer one." in result.output


def test_a_directory_without_data_is_refused(tmp_path: Path) -> None:
    """Nothing is made by looking."""
    code, output = run("status", {"AGENTZERO_DATA_DIR": str(tmp_path / "none")})
    assert (code, "has no data of a server" in output) == (2, True)
    assert not (tmp_path / "none").exists()
