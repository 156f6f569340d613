"""The command line: `agentzero serve`, `agentzero demo`, `agentzero mock`.

Exit codes: 0 done, 1 failed, 2 the settings or the data directory forbid it.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Annotated

import typer

from server import cli_audit, cli_backup, cli_contract, cli_keys, cli_stores, cli_system, cli_users
from server.cli_exits import FAILED, INTERRUPTED, read_settings, refuse
from server.data_directory import DataDirectoryError
from server.embedded import EmbeddedMongoError
from server.settings import SettingsError, find_unknown_variables
from server.settings_checks import find_contradictions

# How long the event loop waits for a thread that runs Python (SQL, hashing, the audit log): with
# Python's own 5 ms the p99 of requests beside a rush of logins is twice as high.
MAX_WAIT_FOR_THREADS_SECONDS = 0.001

app = typer.Typer(
    name="agentzero",
    help="The control plane of a hive of agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_keys.app, name="keys")
app.add_typer(cli_audit.app, name="audit")
app.add_typer(cli_users.app, name="user")
app.add_typer(cli_system.app, name="system")
app.add_typer(cli_contract.app, name="contract")
app.add_typer(cli_stores.app, name="database")
app.add_typer(cli_backup.app, name="backup")


def main() -> None:
    """The entry point of the console script."""
    app()


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer's callbacks take the value
    if wanted:
        typer.echo(f"agentzero {importlib.metadata.version('agentzero-api')}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    *,
    workers: Annotated[
        int,
        typer.Option(min=1, max=64, help="So many nodes on one port; more than one needs Redis."),
    ] = 1,
    as_worker: Annotated[bool, typer.Option("--as-worker", hidden=True)] = False,
) -> None:
    """Run the server until SIGTERM or Ctrl-C. Settings: AGENTZERO_* variables."""
    from server.start_checks import find_obstacles  # noqa: PLC0415 - for `--help`

    # Whoever spawns a worker has judged the settings of all, and changes some.
    checks = () if as_worker else (find_contradictions, find_obstacles)
    settings = read_settings(*checks)
    import structlog  # noqa: PLC0415 - `--help` should not wait for the server's imports
    import uvloop  # noqa: PLC0415

    from hive.errors import Unavailable  # noqa: PLC0415
    from hive.store_schema import StoreRefused  # noqa: PLC0415
    from server import bootstrap  # noqa: PLC0415
    from server.binding import BindingError  # noqa: PLC0415
    from server.documents import ContractError  # noqa: PLC0415
    from server.logs import configure_logging  # noqa: PLC0415
    from server.workers import WorkersFailed  # noqa: PLC0415

    configure_logging(settings.log_format, settings.log_level)
    sys.setswitchinterval(MAX_WAIT_FOR_THREADS_SECONDS)
    for name in find_unknown_variables():
        structlog.get_logger(__name__).warning("settings.unknown", variable=name)
    try:
        if workers > 1:
            uvloop.run(bootstrap.serve_workers(settings, workers))
        else:
            uvloop.run(bootstrap.serve(settings, shares_port=as_worker))
    except (
        BindingError,
        ContractError,
        DataDirectoryError,
        EmbeddedMongoError,
        SettingsError,
        StoreRefused,
        Unavailable,
    ) as error:
        raise refuse(str(error)) from None
    except WorkersFailed as error:
        raise refuse(str(error), FAILED) from None
    except KeyboardInterrupt:  # Before the server listens for signals.
        raise typer.Exit(INTERRUPTED) from None


@app.command()
def demo(
    source: Annotated[
        Path | None,
        typer.Option("--input", help="Directory of .txt, .md and .csv files.", file_okay=False),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", help="Where the report is written.", file_okay=False)
    ] = Path("out"),
    *,
    keep_running: Annotated[
        bool, typer.Option("--keep-running", help="Leave the server and the agents running.")
    ] = False,
) -> None:
    """Profile a directory of files with two agents, and watch them live."""
    settings = read_settings()
    try:
        import agentzero_client  # noqa: F401, PLC0415 - asks whether the client is installed
    except ImportError:
        message = "The demo needs the Python client: `make setup`, or pip install clients/python"
        raise refuse(message) from None
    from server.demo import run  # noqa: PLC0415 - needs the client

    code = run.main(settings, source=source, output=output, keep_running=keep_running)
    raise typer.Exit(code)


@app.command()
def permissions() -> None:
    """Print who may do what, as Markdown: operations, roles, ownership."""
    from server.bootstrap import bind_interface  # noqa: PLC0415 - `--help` should not wait
    from server.permission_table import permission_page  # noqa: PLC0415

    typer.echo(permission_page(bind_interface().contract), nl=False)


@app.command()
def limits() -> None:
    """Print every limit and the answer when it is exceeded, as Markdown."""
    from server.bootstrap import STORE_TIMES, bind_interface  # noqa: PLC0415 - as above
    from server.limit_table import limit_page  # noqa: PLC0415

    typer.echo(limit_page(bind_interface().contract, STORE_TIMES), nl=False)


@app.command()
def mock(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on.")] = 8080,
) -> None:
    """Answer every operation with the contract's example, for teams that write clients."""
    from server.mock import MockUnavailable, serve_mock  # noqa: PLC0415 - an extra

    try:
        serve_mock(host, port)
    except MockUnavailable as error:
        raise refuse(str(error)) from None


if __name__ == "__main__":
    main()
