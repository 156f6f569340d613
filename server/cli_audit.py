"""`agentzero audit`: whether the audit log is what was written.

Works beside a running server, and without one: then the embedded MongoDB runs for the command.
Exit codes: 0 every chain is whole, 1 one is broken, 2 it could not be looked at.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer

from server.cli_exits import FAILED, read_settings, refuse
from server.data_directory import DataDirectory
from server.settings import Settings

if TYPE_CHECKING:
    from server.audit_verification import Verdict

app = typer.Typer(help="The audit log.", no_args_is_help=True)


@app.callback()
def _audit() -> None:
    pass


@app.command()
def verify() -> None:
    """Check every chain of audit records against its hashes and its signed checkpoints."""
    settings = read_settings()
    try:
        verdict = asyncio.run(_verify(settings))
    except Exception as error:  # noqa: BLE001 - whatever it is, nothing was verified
        raise refuse(f"The audit log could not be verified: {error}") from None
    for broken in verdict.breaks:
        typer.echo(f"BROKEN: {broken}")
    counted = (
        f"{verdict.chains} chains, {verdict.records} records, {verdict.checkpoints} checkpoints"
    )
    if verdict.breaks:
        typer.echo(f"{counted}: {len(verdict.breaks)} broken.")
        raise typer.Exit(FAILED)
    typer.echo(f"{counted}: whole.")


async def _verify(settings: Settings) -> Verdict:
    from server import bootstrap  # noqa: PLC0415 - `--help` should not wait

    directory = DataDirectory(settings.data_dir)
    async with bootstrap.open_verification(settings, directory) as verification:
        return await verification.run()
