"""`agentzero contract`: what a change of the contracts would break, and the released copies.

Exit codes: 0 nothing would break, 1 something would, 2 there is nothing to compare.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server import resources
from server.cli_exits import FAILED, refuse
from server.documents import ContractError

if TYPE_CHECKING:
    from server.compatibility import Release

app = typer.Typer(help="The contracts, and what would break their clients.", no_args_is_help=True)


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(help="Folder with openapi.yaml and asyncapi.yaml.")],
    new: Annotated[
        Path | None, typer.Argument(help="The same; this server's when left out.")
    ] = None,
) -> None:
    """Name everything that would break a client of the old contracts (docs/versioning.md)."""
    breaks = _breaks(_read(old), _read(new or _own_folder()))
    for line in breaks:
        typer.echo(line)
    if breaks:
        raise refuse(f"{len(breaks)} breaking changes.", FAILED)
    typer.echo("No breaking change.")


@app.command()
def release(
    folder: Annotated[Path, typer.Argument(help="Gets a folder named after the version.")],
    *,
    replace: Annotated[
        bool, typer.Option("--replace", help="Again, for a version that nobody has yet.")
    ] = False,
) -> None:
    """Keep a copy of this server's contracts as released; `make test` compares with the last."""
    own = _own_folder()
    target = folder / f"v{_read(own).openapi['info']['version']}"
    if target.exists() and not replace:
        raise refuse(f"{target} is released. Raise info.version, or say --replace.")
    target.mkdir(parents=True, exist_ok=True)
    for name in ("openapi.yaml", "asyncapi.yaml"):
        shutil.copyfile(own / name, target / name)
    typer.echo(f"Released as {target}.")


def _own_folder() -> Path:
    return resources.openapi_path().parent


def _breaks(old: Release, new: Release) -> list[str]:
    from server.compatibility import find_breaks  # noqa: PLC0415 - `--help` should not wait

    try:
        return [str(one) for one in find_breaks(old, new)]
    except ContractError as error:
        raise refuse(str(error)) from None


def _read(folder: Path) -> Release:
    from server.compatibility import Release  # noqa: PLC0415 - `--help` should not wait

    try:
        return Release.read(folder)
    except (OSError, ContractError) as error:
        raise refuse(f"{folder}: {error}") from None
