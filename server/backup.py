"""The file of a backup: a compressed tar whose last member says what all others are.

Members: `mongodb/<collection>.bson` (documents, one behind the other), `sql/<table>.jsonl` (a row a
line), `secret.key` when the server made its own, and `manifest.json` with a SHA-256 of each.

Whoever has the file has the hive's secrets: it has mode 0600, under its name only when it is whole,
and never over another file. `read_backup` looks at everything before anything is given out; nothing
of it is ever unpacked to a path that the file names.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from server.data_directory import PRIVATE_FILE

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
SECRET: Final = "secret.key"  # noqa: S105 - the name of a member  # nosec B105
MONGODB: Final = "mongodb/"
SQL: Final = "sql/"
MAX_MANIFEST_BYTES: Final = 1_048_576
LENGTH_BYTES: Final = 4
BLOCK: Final = 1_048_576


class BackupError(Exception):
    """The backup can't be made or used; the text says why."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup is of; `members` has size and SHA-256 of each."""

    release: str
    created_at: str
    mongodb: dict[str, Any]
    sql_revision: str
    members: dict[str, dict[str, Any]] = field(default_factory=dict)


class BackupWriter:
    """Writes a new backup; used with `with`, whose end without `finish` leaves nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._draft = path.with_name(f".{path.name}.new")
        self._stack = contextlib.ExitStack()
        self._members: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        if self._path.exists():
            raise BackupError(f"{self._path} exists already.")
        try:
            self._draft.unlink(missing_ok=True)
            handle = os.open(
                self._draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE
            )
        except OSError as error:
            raise BackupError(f"{self._path} can't be written: {error.strerror}.") from error
        self._stack.callback(self._draft.unlink, missing_ok=True)
        self._file = self._stack.enter_context(os.fdopen(handle, "wb"))
        self._zipped = self._stack.enter_context(
            gzip.GzipFile(fileobj=self._file, mode="wb", compresslevel=6)
        )
        self._tar = self._stack.enter_context(tarfile.open(fileobj=self._zipped, mode="w|"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def add(self, name: str, parts: Iterable[bytes]) -> None:
        """Add a member."""
        with self.member(name) as file:
            for part in parts:
                file.write(part)

    @contextlib.contextmanager
    def member(self, name: str) -> Iterator[IO[bytes]]:
        """A member that grows while this is open."""
        # A tar wants the size first. The file has no name, so a kill leaves nothing.
        with tempfile.TemporaryFile(dir=self._path.parent) as file:
            yield file
            size = file.tell()
            file.seek(0)
            self._members[name] = {"bytes": size, "sha256": _digest(file)}
            file.seek(0)
            self._tar.addfile(_member(name, size), file)

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, have all of it on disk, and give the file its name."""
        encoded = json.dumps(
            {
                "format": FORMAT,
                "release": manifest.release,
                "created_at": manifest.created_at,
                "mongodb": manifest.mongodb,
                "sql_revision": manifest.sql_revision,
                "members": self._members,
            },
            indent=1,
        ).encode()
        self._tar.addfile(_member(MANIFEST, len(encoded)), io.BytesIO(encoded))
        self._tar.close()
        self._zipped.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        try:
            os.link(self._draft, self._path)
        except FileExistsError:
            raise BackupError(f"{self._path} exists already.") from None


class BackupReader:
    """A backup that was looked at and is whole."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._path = path
        self.manifest = manifest

    def names(self, folder: str) -> list[str]:
        """The members of a folder, without the folder and the ending."""
        return [
            name.removeprefix(folder).rpartition(".")[0]
            for name in self.manifest.members
            if name.startswith(folder)
        ]

    def members(self) -> Iterator[tuple[str, IO[bytes]]]:
        """Every member in the order of the file; each is readable until the next one."""
        for name, file in _members(self._path):
            if name != MANIFEST:
                yield name, file


def read_backup(path: Path) -> BackupReader:
    """Look at the whole file. Raises BackupError when anything about it is wrong."""
    found: dict[str, dict[str, Any]] = {}
    manifest: dict[str, Any] | None = None
    for name, file in _members(path):
        if manifest is not None or name in found:
            raise BackupError(f"{path} is no backup: {name} is out of place.")
        if name == MANIFEST:
            manifest = json.loads(file.read(MAX_MANIFEST_BYTES))
        else:
            digest = _digest(file)
            found[name] = {"bytes": file.tell(), "sha256": digest}
    if manifest is None:
        raise BackupError(f"{path} is no backup, or only a part of one.")
    if manifest.get("format") != FORMAT:
        raise BackupError(f"{path} has the format {manifest.get('format')}, not {FORMAT}.")
    if manifest["members"] != found:
        raise BackupError(f"{path} is damaged: its members are not those of its manifest.")
    return BackupReader(
        path,
        Manifest(
            manifest["release"],
            manifest["created_at"],
            manifest["mongodb"],
            manifest["sql_revision"],
            found,
        ),
    )


def split_documents(file: IO[bytes], batch_bytes: int) -> Iterator[list[bytes]]:
    """BSON documents in batches of about so many bytes: each begins with its own length."""
    batch: list[bytes] = []
    size = 0
    while head := file.read(LENGTH_BYTES):
        document = head + file.read(int.from_bytes(head, "little") - LENGTH_BYTES)
        batch.append(document)
        size += len(document)
        if size >= batch_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    try:
        with tarfile.open(path, mode="r|gz") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                if file is None:
                    raise BackupError(f"{path} is no backup: {member.name} is not a file.")
                yield member.name, file
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
        raise BackupError(f"{path} is no backup, or only a part of one: {error}.") from error
    except OSError as error:
        raise BackupError(f"{path} can't be read: {error.strerror or error}.") from error


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while part := file.read(BLOCK):
        digest.update(part)
    return digest.hexdigest()


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = PRIVATE_FILE
    return member
