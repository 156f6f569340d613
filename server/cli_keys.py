"""`agentzero keys`: the keys that sign access tokens.

With a server running on the data directory its REST interface does the work, and the operator's
key proves who asks. Without one the database is changed directly, under the data directory's lock;
nodes elsewhere that share the database follow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hive.changes import Actor
from hive.token_keys import TokenAlgorithm, TokenKey
from server.cli_database import change_database
from server.cli_exits import read_settings
from server.cli_server import find_link
from server.data_directory import DataDirectory
from server.settings import Settings

if TYPE_CHECKING:
    from server.token_keys import SealedTokenKeys

OPERATOR = Actor("system:operator")
ROTATE = "/api/v1/auth/keys/rotate"

app = typer.Typer(help="The keys that sign access tokens.", no_args_is_help=True)


@app.callback()
def _keys() -> None:
    pass


@app.command()
def rotate(
    algorithm: Annotated[
        TokenAlgorithm | None,
        typer.Option(help="Of the new key; else as in the settings, or as of the newest key."),
    ] = None,
) -> None:
    """Make the next key that signs access tokens; tokens of earlier keys stay valid."""
    settings = read_settings()
    link = find_link(DataDirectory(settings.data_dir))
    if link is None:
        ring = _rotate_here(settings, algorithm)
    else:
        body = {} if algorithm is None else {"algorithm": algorithm.value}
        ring = link.ask("POST", ROTATE, body)
    typer.echo(f"The key {ring['kid']} ({ring['algorithm']}) signs from {ring['signs_from']}.")
    for key in ring["verifying"]:
        until = key["verifies_until"]
        typer.echo(f"Tokens of {key['kid']} ({key['algorithm']}) are accepted until {until}.")


def _rotate_here(settings: Settings, algorithm: TokenAlgorithm | None) -> Mapping[str, Any]:
    from handlers.keys import describe_ring  # noqa: PLC0415 - `--help` should not wait
    from server import bootstrap  # noqa: PLC0415
    from server.answers import encode_json  # noqa: PLC0415

    async def work(keys: SealedTokenKeys) -> Sequence[TokenKey]:
        return await keys.replace_unreadable(OPERATOR, algorithm)

    ring = change_database(settings, bootstrap.open_token_keys, work)
    return dict(json.loads(encode_json(describe_ring(ring))))
