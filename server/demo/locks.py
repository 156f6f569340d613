"""Locks between demos of one data directory; the kernel releases them however a process ends."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

POLL_SECONDS = 0.05
_PRIVATE = 0o600


class FileLock:
    """A lock on a file. Another process that inherits `descriptor` holds it too."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE)

    def try_take(self, *, shared: bool = False) -> bool:
        """Take it, or change how it is held; False when others hold it otherwise."""
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self.descriptor, kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise
        return True

    async def take(self, *, shared: bool = False) -> None:
        """Wait for it."""
        # The kernel has no event for it that would not block.
        while not self.try_take(shared=shared):  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Give it up in this process. Idempotent."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
