"""What stands in the way of a server on this machine: files that are missing, weak or exposed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from server.settings import Settings
from server.settings_checks import Contradiction
from server.tls import CertificateRefused, read_certificate

_SECRET_FILES = ("secret.key", "operator.key")


def find_obstacles(settings: Settings) -> Iterator[Contradiction]:
    """Everything that a start would fail at, or should."""
    if settings.tls_cert is not None and settings.tls_key is not None:
        try:
            read_certificate(settings.tls_cert, settings.tls_key)
        except CertificateRefused as error:
            for problem in error.problems:
                name, _, why = problem.partition(": ")
                yield Contradiction((name.removeprefix("AGENTZERO_").lower(),), why)
    directory = settings.data_dir.expanduser().absolute()
    if reason := _unusable(directory):
        yield Contradiction(("data_dir",), reason)
        return
    for file in (directory / name for name in _SECRET_FILES):
        if _is_exposed(file):
            yield Contradiction(
                ("data_dir",),
                f"everybody on this machine can read {file}: it is no secret any more. Take it "
                "away, so that another one is made, or chmod 600 when nobody else was here",
            )


def _unusable(directory: Path) -> str | None:
    """Why nothing can be kept in the directory, or made where it is to be."""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not existing.is_dir():
        return f"{existing} is no directory"
    if not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
        return f"{existing} can't be written to"
    return None


def _is_exposed(file: Path) -> bool:
    """Whether others can read the file and go through the directory that it is in."""
    try:
        return bool(
            file.stat().st_mode & stat.S_IROTH and file.parent.stat().st_mode & stat.S_IXOTH
        )
    except OSError:
        return False
