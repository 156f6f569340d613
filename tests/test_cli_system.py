"""`agentzero system`: it changes the database itself, while no server runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy import select
from typer.testing import CliRunner

from hive.changes import Actor
from hive.system_settings import SystemSettings
from server import cli
from server.data_directory import DataDirectory
from storage.sql.database import Database
from storage.sql.identity import SqlIdentity
from storage.sql.models import OutboxRow
from storage.sql.system_settings import SUBJECT, SqlSystemSettings

ELSEWHERE = ("192.0.2.0/24", "2001:db8::/32")
EMPTIED = "The stored allowlist is empty now. It was: 192.0.2.0/24, 2001:db8::/32\n"
EMPTY = "The stored allowlist was empty already.\n"
FIXED = "AGENTZERO_ADMIN_ALLOWLIST is set: where it is, it goes on to decide.\n"


def run(directory: Path, **env: str) -> tuple[int, str]:
    """Exit code and everything that was printed."""
    env["AGENTZERO_DATA_DIR"] = str(directory)
    result = CliRunner().invoke(cli.app, ["system", "reset-allowlist"], env=env)
    return result.exit_code, result.output


def opened(directory: Path) -> Database:
    """The identities of the directory, migrated."""
    database = Database(f"sqlite:///{directory / 'identities.sqlite3'}")
    database.migrate()
    return database


def keep_out(directory: Path) -> SystemSettings:
    """Store a list, and the demand for signatures, as an admin elsewhere would."""

    async def work() -> SystemSettings:
        database = opened(directory)
        try:
            return await SqlSystemSettings(database).change(
                lambda _: SystemSettings(ELSEWHERE, signing_required=True), Actor("usr_1")
            )
        finally:
            database.close()

    return asyncio.run(work())


def stored(directory: Path) -> tuple[SystemSettings, list[tuple[str, str, int]]]:
    """What is in the database: the settings, and type, actor and version of their events."""

    async def work() -> tuple[SystemSettings, list[tuple[str, str, int]]]:
        database = opened(directory)
        try:
            events = await database.read(
                lambda sql: [
                    (row.event_type, row.actor, row.data["version"])
                    for row in sql.scalars(select(OutboxRow).order_by(OutboxRow.position))
                ]
            )
            return await SqlSystemSettings(database).read(), events
        finally:
            database.close()

    return asyncio.run(work())


def test_allowlist_is_emptied_and_nothing_else(tmp_path: Path) -> None:
    """The networks are said once more; the change has its event; signatures are still demanded."""
    keep_out(tmp_path)
    assert run(tmp_path) == (0, EMPTIED)
    settings, events = stored(tmp_path)
    assert (settings.admin_allowlist, settings.signing_required) == ((), True)
    assert (settings.version, settings.updated_by) == (2, "system:operator")
    changed = "system.settings_updated"
    assert events == [(changed, "usr_1", 1), (changed, "system:operator", 2)]
    assert run(tmp_path) == (0, EMPTY)
    assert stored(tmp_path)[0] == settings


def test_directory_without_settings_is_left_as_it_is(tmp_path: Path) -> None:
    """Nothing to empty is no failure, and no version."""
    assert run(tmp_path) == (0, EMPTY)
    assert stored(tmp_path) == (SystemSettings(), [])


def test_variable_that_decides_is_named(tmp_path: Path) -> None:
    """The stored list is emptied all the same: it counts once the variable is gone."""
    keep_out(tmp_path)
    said = run(tmp_path, AGENTZERO_ADMIN_ALLOWLIST="127.0.0.0/8")
    assert said == (0, EMPTIED + FIXED)
    assert stored(tmp_path)[0].admin_allowlist == ()


def test_running_server_has_to_be_stopped_first(tmp_path: Path) -> None:
    """Exit code 2 while somebody has the lock; the list stays."""
    kept = keep_out(tmp_path)
    with DataDirectory(tmp_path) as directory:
        directory.write_running_server("http://127.0.0.1:1")
        code, said = run(tmp_path)
    assert code == 2
    assert "is in use by" in said
    assert "Stop it" in said
    assert stored(tmp_path)[0] == kept


def test_other_nodes_hear_of_it(tmp_path: Path) -> None:
    """The change is among those that every node on the database follows."""
    keep_out(tmp_path)

    async def subjects(position: int) -> tuple[int, list[str]]:
        database = opened(tmp_path)
        try:
            store = SqlIdentity(database)
            seen = await store.changes_after(position)
            return await store.change_position(), list(seen.subjects)
        finally:
            database.close()

    position, _ = asyncio.run(subjects(0))
    assert run(tmp_path)[0] == 0
    assert asyncio.run(subjects(position))[1] == [SUBJECT]
