"""`agentzero system`: settings of the system that keep out whoever could change them by request.

The database is changed directly, under the data directory's lock: a running server would refuse
those for whom the command is. Nodes elsewhere that share the database follow.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from hive.changes import Actor
from server.cli_database import change_database
from server.cli_exits import read_settings

if TYPE_CHECKING:
    from hive.system_settings import SystemSettings, SystemSettingsStore

OPERATOR = Actor("system:operator")

app = typer.Typer(help="Settings of the system, while no server runs.", no_args_is_help=True)


@app.callback()
def _system() -> None:
    pass


@app.command()
def reset_allowlist() -> None:
    """Empty the stored allowlist: admin operations are allowed from everywhere again."""
    from server import bootstrap  # noqa: PLC0415 - `--help` should not wait

    settings = read_settings()
    before = change_database(settings, bootstrap.open_system_settings, _empty)
    if before:
        typer.echo(f"The stored allowlist is empty now. It was: {', '.join(before)}")
    else:
        typer.echo("The stored allowlist was empty already.")
    if settings.admin_allowlist:
        typer.echo("AGENTZERO_ADMIN_ALLOWLIST is set: where it is, it goes on to decide.")


async def _empty(store: SystemSettingsStore) -> tuple[str, ...]:
    """The networks that were in it."""
    before: tuple[str, ...] = ()

    def decide(stored: SystemSettings) -> SystemSettings:
        nonlocal before
        before = stored.admin_allowlist
        return replace(stored, admin_allowlist=())

    await store.change(decide, OPERATOR)
    return before
