"""The server that the demo talks to: the one of the data directory, or one that it starts.

take the lock of users (shared) -> running? use it -> else start one, wait until it listens
... -> if it is ours and not kept: wait for the other users, end it
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from server.data_directory import DataDirectory, RunningServer
from server.demo.children import Child, end
from server.demo.failure import DemoFailed, DemoRefused
from server.demo.locks import FileLock
from server.settings import PREFIX

POLL_SECONDS = 0.02
START_SECONDS = 90.0
WATCH_SECONDS = 0.25
GONE_SECONDS = 15.0
END_SECONDS = 20.0
_FOR_OTHERS = ("HOST", "TLS_CERT", "TLS_KEY", "TLS_REDIRECT_PORT")


@dataclass(slots=True)
class Host:
    """A server that listens, and the key to it.

    `child` is None when somebody else started it. With `stays` it outlives the demo.
    """

    url: str
    pid: int
    operator_key: str
    child: Child | None
    stays: bool = False


class ServerLocks:
    """Who starts the server, and who uses it, among the demos of a data directory."""

    def __init__(self, directory: Path) -> None:
        self.start = FileLock(directory / "start.lock")
        self.use = FileLock(directory / "use.lock")

    def close(self) -> None:
        """Give both up."""
        self.start.close()
        self.use.close()


@asynccontextmanager
async def open_host(
    data: DataDirectory, directory: Path, *, may_stay: bool, say: Callable[[str], None]
) -> AsyncIterator[Host]:
    """Have a server for the time of the context.

    One that was started here is ended with it, unless it `may_stay` and `stays` was set meanwhile.
    `directory` is for locks and logs. Raises DemoFailed and DemoRefused.
    """
    locks = ServerLocks(directory)
    child: Child | None = None
    host: Host | None = None
    try:
        await locks.use.take(shared=True)
        await locks.start.take()
        running = data.find_running_server()
        if running is None:
            say("Starting the server.")
            child = _start(data, directory, kept=may_stay)
            running = await _wait_until_listening(data, child)
        locks.start.close()
        key = data.find_operator_key()
        if key is None:
            raise DemoRefused(f"There is no operator's key: {data.operator_key_path} is missing.")
        ours = child if child is not None and child.pid == running.pid else None
        host = Host(running.url, running.pid, key, ours)
        yield host
    finally:
        try:
            if child is not None and not (host is not None and host.stays):
                await _end(child, locks.use, say)
        finally:
            locks.close()


async def watch_over(host: Host, data: DataDirectory) -> NoReturn:
    """Raise DemoFailed as soon as the server is gone and does not come back."""
    gone_since: float | None = None
    loop = asyncio.get_running_loop()
    while True:
        if host.child is not None and not host.child.is_running:
            raise host.child.failure()
        if data.find_running_server() is not None:
            gone_since = None
        elif gone_since is None:
            gone_since = loop.time()
        elif loop.time() - gone_since > GONE_SECONDS:
            raise DemoFailed(f"The server at {host.url} has ended.")
        await asyncio.sleep(WATCH_SECONDS)


def _start(data: DataDirectory, directory: Path, *, kept: bool) -> Child:
    env = {
        f"{PREFIX}DATA_DIR": str(data.path),
        f"{PREFIX}PORT": "0",
        # It is for this machine only, whatever the settings make of a server for others.
        **dict.fromkeys((f"{PREFIX}{name}" for name in _FOR_OTHERS), ""),
    }
    log_path = directory / "server.log"
    return Child("The server", "server.cli", "serve", env=env, log_path=log_path, kept=kept)


async def _wait_until_listening(data: DataDirectory, child: Child) -> RunningServer:
    """The server that listens: the child, or another that had the data directory before it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_SECONDS
    while loop.time() < deadline:
        ended = not child.is_running
        running = data.find_running_server()
        if running is not None and (ended or running.pid == child.pid):
            return running
        if ended and not data.is_locked():
            raise child.failure()
        await asyncio.sleep(POLL_SECONDS)
    raise DemoFailed(f"The server does not listen after {START_SECONDS:.0f} s.")


async def _end(child: Child, use: FileLock, say: Callable[[str], None]) -> None:
    try:
        if child.is_running and not use.try_take():
            say("Another demo uses this server: it is ended after that one.")
            await use.take()
    finally:
        await end([child], END_SECONDS)
