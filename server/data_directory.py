"""The data directory of a server: one server at a time, and the files that outlive it.

Life: `acquire()` makes the directory and takes the lock; the kernel releases the lock when the
process ends, however it ends. Files with secrets have mode 0600 and are replaced as a whole.
Other processes of the same user ask `find_running_server()`.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from typeid import TypeID

SECRET_KEY_BYTES = 48
PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700
_LOCK_PATIENCE_SECONDS = 0.5
_LOCK_POLL_SECONDS = 0.02


class DataDirectoryError(Exception):
    """The data directory can't be used; the text says why and what to do."""


class DataDirectoryInUse(DataDirectoryError):
    """Another server runs on this data directory."""

    def __init__(self, path: Path, pid: int | None) -> None:
        self.path = path
        self.pid = pid
        holder = f"process {pid}" if pid else "another process"
        super().__init__(
            f"{path} is in use by {holder}: one server at a time. "
            "Stop it, or set AGENTZERO_DATA_DIR to another directory."
        )


@dataclass(frozen=True, slots=True)
class RunningServer:
    """Where the server of a data directory listens, and its process.

    `certificate` is the chain (PEM) that it shows, when it speaks TLS: whoever can read this
    directory knows the server by it, whatever its name and whoever issued it.
    """

    url: str
    pid: int
    certificate: str | None = None


class DataDirectory:
    """One server's own directory. Everything but `find_running_server` needs the lock."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self._lock: int | None = None

    @property
    def mongo_path(self) -> Path:
        """The embedded MongoDB's files."""
        return self.path / "mongo"

    @property
    def mongo_log_path(self) -> Path:
        """What the embedded MongoDB says."""
        return self.path / "mongod.log"

    @property
    def sqlite_path(self) -> Path:
        """The identities, when no SQL server is named."""
        return self.path / "identities.sqlite3"

    @property
    def operator_key_path(self) -> Path:
        """The API key that the command line on the same machine uses."""
        return self.path / "operator.key"

    @property
    def _secret_key_path(self) -> Path:
        return self.path / "secret.key"

    @property
    def _node_id_path(self) -> Path:
        return self.path / "node_id"

    @property
    def _lock_path(self) -> Path:
        return self.path / "lock"

    @property
    def _server_path(self) -> Path:
        return self.path / "server.json"

    def acquire(self) -> Self:
        """Make the directory (0700) and take its lock; raises `DataDirectoryInUse`."""
        try:
            self.path.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        except OSError as error:
            message = f"{self.path} can't be used as the data directory: {error.strerror}."
            raise DataDirectoryError(message) from error
        if not _take(lock):
            pid = _read_pid(lock)
            os.close(lock)
            raise DataDirectoryInUse(self.path, pid)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock
        self._server_path.unlink(missing_ok=True)
        return self

    def release(self) -> None:
        """Say that nobody listens any more, and let the next server in. Idempotent."""
        if self._lock is not None:
            self._server_path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def node_id(self) -> str:
        """This node's identifier, made once."""
        return self._read_or_make(self._node_id_path, lambda: str(TypeID(prefix="nod")))

    def secret_key(self) -> str:
        """The server's own key, made once: 48 random bytes as text."""
        return self._read_or_make(
            self._secret_key_path, lambda: secrets.token_urlsafe(SECRET_KEY_BYTES)
        )

    def find_secret_key(self) -> str | None:
        """The server's own key, or None before the first start. Needs no lock."""
        return _read(self._secret_key_path)

    def keep_secret_key(self, secret: str) -> None:
        """Keep the key of a server whose data came here."""
        self._write(self._secret_key_path, secret)

    def write_operator_key(self, api_key: str) -> None:
        """Keep the operator's API key for the command line."""
        self._write(self.operator_key_path, api_key)

    def find_operator_key(self) -> str | None:
        """The operator's API key, or None before the first start. Needs no lock."""
        return _read(self.operator_key_path)

    def write_running_server(self, url: str, certificate: str | None = None) -> None:
        """Say where this process listens, once it does, and with which certificate."""
        found = {"url": url, "pid": os.getpid(), "certificate": certificate}
        self._write(self._server_path, json.dumps(found))

    def find_running_server(self) -> RunningServer | None:
        """The server that listens now, or None; what a killed one left behind is not believed."""
        text = _read(self._server_path)
        if text is None or not self.is_locked():
            return None
        found = json.loads(text)
        return RunningServer(found["url"], found["pid"], found.get("certificate"))

    def is_locked(self) -> bool:
        """Whether a server has the directory, be it starting, listening or ending."""
        try:
            probe = os.open(self._lock_path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(probe, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(probe)

    def _read_or_make(self, path: Path, make: Callable[[], str]) -> str:
        found = _read(path)
        if found:
            path.chmod(PRIVATE_FILE)
            return found
        made = make()
        self._write(path, made)
        return made

    def _write(self, path: Path, text: str) -> None:
        if self._lock is None:
            message = f"{self.path} is not locked by this process"
            raise DataDirectoryError(message)
        draft = path.with_name(f".{path.name}.new")
        draft.unlink(missing_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)


def _take(lock: int) -> bool:
    # Somebody who only asks whether a server runs holds the lock for an instant: look again.
    deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOCK_POLL_SECONDS)
        else:
            return True


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None


def _read_pid(lock: int) -> int | None:
    text = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdecimal() else None
