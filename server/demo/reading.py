"""Reads UTF-8 files block by block, so that a large file never has to fit in memory.

A byte order mark at the start is allowed and is not part of the text. Whatever stops a file from
being read is an `UnreadableFile` whose message is one sentence for the person who sent the file.
"""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

Progress = Callable[[float], None]
IsCancelled = Callable[[], bool]

BLOCK_BYTES = 256 * 1024


class UnreadableFile(Exception):
    """The file can't be profiled; the message names it (base name) and says why."""

    @classmethod
    def because(cls, path: str | Path, reason: str) -> UnreadableFile:
        """Build the sentence from the name of the file and the reason, a predicate."""
        return cls(f"{printable(Path(path).name or str(path))} {reason}.")


class Cancelled(Exception):
    """The caller's `cancelled()` answered true; nothing was produced."""


def printable(name: str) -> str:
    """Show any file name on one line as valid Unicode: what can't be shown is escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in name
    )


def read_text(
    path: str | Path,
    *,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
    span: tuple[float, float] = (0.0, 1.0),
) -> Generator[str, None, None]:
    """Yield the text of a file in pieces, line ends as they are in the file.

    `progress` gets the fraction of bytes read, mapped onto `span`, once a block of 256 KiB.
    Raises `UnreadableFile`, or `Cancelled` when `cancelled()` is true before a block.
    """
    path = Path(path)
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    low, high = span
    done = 0
    for block, size in _blocks(path):
        if cancelled is not None and cancelled():
            raise Cancelled
        if done == 0:
            _refuse_utf_16(path, block)
        pending = len(decoder.getstate()[0])
        text = _decode(decoder, path, block, offset=done - pending)
        if done == 0:
            text = text.removeprefix("\ufeff")
        done += len(block)
        if text:
            yield text
        if progress is not None:
            progress(low + (high - low) * min(1.0, done / max(size, 1)))
    pending = len(decoder.getstate()[0])
    _decode(decoder, path, b"", offset=done - pending, final=True)


def _blocks(path: Path) -> Iterator[tuple[bytes, int]]:
    try:
        # Opening a pipe would wait for a writer, so the kind of file is asked first.
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableFile.because(path, "is a directory, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableFile.because(path, "is not a regular file")
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block, status.st_size
    except FileNotFoundError:
        raise UnreadableFile.because(path, "does not exist") from None
    except PermissionError:
        raise UnreadableFile.because(path, "may not be read: permission denied") from None
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise UnreadableFile.because(path, f"can't be read: {reason}") from error


def _decode(
    decoder: codecs.IncrementalDecoder,
    path: Path,
    block: bytes,
    *,
    offset: int,
    final: bool = False,
) -> str:
    try:
        text = decoder.decode(block, final)
    except UnicodeDecodeError as error:
        where = f"byte 0x{error.object[error.start]:02x} at offset {offset + error.start}"
        raise UnreadableFile.because(path, f"is not UTF-8 text: {where} is not valid") from None
    if "\0" in text:
        raise UnreadableFile.because(path, "is not text: it contains NUL bytes")
    return text


def _refuse_utf_16(path: Path, block: bytes) -> None:
    if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UnreadableFile.because(path, "is UTF-16, not UTF-8: save it as UTF-8")
