"""How the commands of `agentzero` begin and end: their settings and their exit codes."""

from __future__ import annotations

import typer

from server.settings import Check, Settings, SettingsError, load_settings

FAILED = 1
REFUSED = 2
INTERRUPTED = 130


def read_settings(*checks: Check) -> Settings:
    """The settings of the environment; exits with REFUSED and all that is wrong with them."""
    try:
        return load_settings(None, *checks)
    except SettingsError as error:
        raise refuse("\n".join(["These settings are wrong:", *error.problems])) from None


def refuse(message: str, code: int = REFUSED) -> typer.Exit:
    """Say why, and give what ends the command."""
    typer.echo(message, err=True)
    return typer.Exit(code)
