"""`agentzero backup`: the whole hive in one file, and back.

Exit codes: 0 done, 2 it could not be done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli_exits import read_settings, refuse
from server.data_directory import DataDirectory, DataDirectoryError
from server.embedded import EmbeddedMongoError
from server.settings import Settings

if TYPE_CHECKING:
    from server.backup import Manifest

app = typer.Typer(help="The whole hive in one file, and back.", no_args_is_help=True)
File = Annotated[Path, typer.Argument(help="The backup: a compressed tar.", dir_okay=False)]
Work = Callable[[Settings, DataDirectory, Path], "Awaitable[Manifest]"]


@app.command()
def create(file: File) -> None:
    """Write users, keys, tasks, events and all else to a new FILE (mode 0600: it has secrets)."""
    from server.bootstrap.backups import create_backup  # noqa: PLC0415 - `--help` should not wait

    made = _run(create_backup, file)
    typer.echo(f"Made {file}: both stores as of {made.created_at}.")


@app.command()
def restore(file: File) -> None:
    """Read FILE into a new data directory and empty databases, while no server runs there."""
    from server.bootstrap.backups import restore_backup  # noqa: PLC0415 - as above

    read = _run(restore_backup, file)
    typer.echo(f"Restored {file}, made by release {read.release} at {read.created_at}.")


def _run(work: Work, file: Path) -> Manifest:
    from hive.errors import Unavailable  # noqa: PLC0415 - as above
    from hive.store_schema import StoreRefused  # noqa: PLC0415
    from server.backup import BackupError  # noqa: PLC0415

    settings = read_settings()
    path = file.absolute()

    async def unit() -> Manifest:
        return await work(settings, DataDirectory(settings.data_dir), path)

    try:
        return asyncio.run(unit())
    except (
        BackupError,
        DataDirectoryError,
        EmbeddedMongoError,
        StoreRefused,
        Unavailable,
    ) as error:
        raise refuse(str(error)) from None
