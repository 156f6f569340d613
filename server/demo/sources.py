"""The files of the demo's input: which they are, what they are called, and who profiles them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from server.demo.reading import printable

TEXT = "text.profile"
CSV = "csv.profile"
CAPABILITIES = {".txt": TEXT, ".md": TEXT, ".csv": CSV}

_URI = "file://"


class SourcesUnreadable(Exception):
    """The input directory, or one below it, can't be listed; the message says why."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file: its name relative to the input (with `/`, printable), and its absolute path."""

    name: str
    path: Path
    capability: str


def find_sources(directory: Path, *, leave_out: Path) -> list[Source]:
    """The .txt, .md and .csv files below a directory, whatever the case of the suffix, by name.

    Hidden directories and links to directories are not entered; `leave_out` is the report that an
    earlier run may have left there. Raises `SourcesUnreadable`.
    """
    directory = directory.absolute()
    files = (path for path in _walk(directory) if path != leave_out.absolute())
    chosen = (path for path in files if path.suffix.lower() in CAPABILITIES)
    return sorted(
        (
            Source(
                printable(path.relative_to(directory).as_posix()),
                path,
                CAPABILITIES[path.suffix.lower()],
            )
            for path in chosen
        ),
        key=lambda source: source.name,
    )


def path_to_text(path: Path) -> str:
    """The path as JSON can carry it: itself, or a file URI when its name is not valid Unicode."""
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return path.as_uri()
    return text


def path_from_text(text: str) -> Path:
    """The path that `path_to_text` was given."""
    if text.startswith(_URI):
        return Path(os.fsdecode(unquote_to_bytes(text.removeprefix(_URI))))
    return Path(text)


def _walk(directory: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        where = printable(str(error.filename))
        raise SourcesUnreadable(f"{where} can't be read: {error.strerror}.") from error

    for place, subdirectories, names in os.walk(directory, onerror=refuse):
        subdirectories[:] = [name for name in subdirectories if not name.startswith(".")]
        yield from (Path(place, name) for name in names)
