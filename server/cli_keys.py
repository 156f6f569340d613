"""`agentzero keys`: the keys that sign access tokens.

With a server running on the data directory its REST interface does the work, and the operator's
key proves who asks. Without one the database is changed directly, under the data directory's lock;
nodes elsewhere that share the database follow.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from hive.changes import Actor
from hive.token_keys import TokenAlgorithm, TokenKey
from server.cli_exits import FAILED, read_settings, refuse
from server.data_directory import DataDirectory, DataDirectoryError, RunningServer
from server.settings import Settings

TIMEOUT_SECONDS = 30.0
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
    directory = DataDirectory(settings.data_dir)
    server = directory.find_running_server()
    if server is None:
        ring = _rotate_here(settings, algorithm)
    else:
        ring = _ask(server, directory, algorithm)
    typer.echo(f"The key {ring['kid']} ({ring['algorithm']}) signs from {ring['signs_from']}.")
    for key in ring["verifying"]:
        until = key["verifies_until"]
        typer.echo(f"Tokens of {key['kid']} ({key['algorithm']}) are accepted until {until}.")


def _ask(
    server: RunningServer, directory: DataDirectory, algorithm: TokenAlgorithm | None
) -> Mapping[str, Any]:
    from tornado.httpclient import HTTPClient, HTTPClientError  # noqa: PLC0415 - for `--help`

    credential = directory.find_operator_key()
    if credential is None:
        raise refuse(f"There is no {directory.operator_key_path}; start the server again.")
    client = HTTPClient()
    try:
        response = client.fetch(
            server.url + ROTATE,
            method="POST",
            headers={
                "Authorization": f"Bearer {credential}",
                "Content-Type": "application/json",
            },
            body=json.dumps({} if algorithm is None else {"algorithm": algorithm.value}),
            request_timeout=TIMEOUT_SECONDS,
            raise_error=False,
        )
    except (OSError, HTTPClientError) as error:
        raise refuse(f"The server at {server.url} does not answer: {error}", FAILED) from None
    finally:
        client.close()
    answer = json.loads(response.body or b"{}")
    if response.error is not None:
        reason = answer.get("detail", response.reason)
        raise refuse(f"The server at {server.url} refused ({response.code}): {reason}", FAILED)
    return dict(answer)


def _rotate_here(settings: Settings, algorithm: TokenAlgorithm | None) -> Mapping[str, Any]:
    from handlers.keys import describe_ring  # noqa: PLC0415 - `--help` should not wait
    from hive.errors import HiveError  # noqa: PLC0415
    from server import bootstrap  # noqa: PLC0415
    from server.answers import encode_json  # noqa: PLC0415

    async def work() -> Sequence[TokenKey]:
        with DataDirectory(settings.data_dir) as directory:
            async with bootstrap.open_token_keys(settings, directory) as keys:
                return await keys.replace_unreadable(OPERATOR, algorithm)

    try:
        ring = asyncio.run(work())
    except DataDirectoryError as error:
        raise refuse(str(error)) from None
    except HiveError as error:
        raise refuse(error.detail, FAILED) from None
    return dict(json.loads(encode_json(describe_ring(ring))))
