"""`agentzero database`: which versions the stores have, and how they get the newest ones.

Works beside a running server, and without one: then the embedded MongoDB runs for the command.
Exit codes: 0 done, 2 it could not be done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import typer

from server.cli_exits import read_settings, refuse
from server.data_directory import DataDirectory, DataDirectoryError
from server.embedded import EmbeddedMongoError
from server.settings import Settings

if TYPE_CHECKING:
    from server.bootstrap.schemas import Schemas

app = typer.Typer(help="The versions of MongoDB's documents and of SQL.", no_args_is_help=True)


@app.command()
def status() -> None:
    """Show the versions, and the migrations that are missing."""
    _with_schemas(_show)


@app.command()
def migrate() -> None:
    """Carry out the migrations that are missing, as the start of a server does."""

    async def work(schemas: Schemas) -> None:
        await schemas.migrate()
        await _show(schemas)

    _with_schemas(work)


async def _show(schemas: Schemas) -> None:
    for line in await schemas.status():
        typer.echo(line)


def _with_schemas(work: Callable[[Schemas], Awaitable[None]]) -> None:
    from hive.errors import Unavailable  # noqa: PLC0415 - `--help` should not wait
    from hive.store_schema import StoreRefused  # noqa: PLC0415

    settings = read_settings()
    try:
        asyncio.run(_run(settings, work))
    except (DataDirectoryError, EmbeddedMongoError, StoreRefused, Unavailable) as error:
        raise refuse(str(error)) from None


async def _run(settings: Settings, work: Callable[[Schemas], Awaitable[None]]) -> None:
    from server.bootstrap.schemas import open_schemas  # noqa: PLC0415 - as above

    async with open_schemas(settings, DataDirectory(settings.data_dir)) as schemas:
        await work(schemas)
