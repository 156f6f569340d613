"""What a handler sees of its task."""

from __future__ import annotations

import asyncio
import math
import threading
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import get_args

from agentzero_client.client import AsyncClient
from agentzero_client.models import Artifact, Lease, LeasedTask, LogLevel, Progress
from agentzero_client.portal import Portal
from agentzero_client.runtime.failures import TaskCancelledError, cut
from agentzero_client.runtime.outbox import LONGEST_PROGRESS_MESSAGE, Outbox
from agentzero_client.sync_client import BlockingClient

_LEVELS = frozenset(get_args(LogLevel))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTask(LeasedTask):
    """The task at hand. Pass `fence` to whatever you write to, and refuse smaller ones there."""

    fence: int


def running_task(lease: Lease) -> RunningTask:
    """The task of a lease, with its fence."""
    members = {field.name: getattr(lease.task, field.name) for field in fields(LeasedTask)}
    return RunningTask(**members, fence=lease.fence)


class TaskContext:
    """The first argument of every handler. What is not awaited may be used from any thread.

    `task` is what to do; `client` (asynchronous) and `blocking_client` (for handlers in threads)
    talk to the hive with the agent's own credential.
    """

    def __init__(self, task: RunningTask, client: AsyncClient, outbox: Outbox) -> None:
        self.task = task
        self.client = client
        self._loop = asyncio.get_running_loop()
        self._outbox = outbox
        self._cancelled = threading.Event()
        self._cancelled_here = asyncio.Event()
        self._seen = False

    @property
    def blocking_client(self) -> BlockingClient:
        """The client for a handler that runs in a thread."""
        return BlockingClient(self.client, Portal(self._loop))

    @property
    def cancelled(self) -> bool:
        """The work is to stop: cancelled, lease lost, or the agent shuts down.

        A handler that saw it and returns nothing has obeyed; one that returns a result completes.
        """
        self._seen = self._seen or self._cancelled.is_set()
        return self._cancelled.is_set()

    def raise_if_cancelled(self) -> None:
        """Raise TaskCancelledError when the work is to stop."""
        if self.cancelled:
            raise TaskCancelledError

    def wait_cancelled(self, seconds: float) -> bool:
        """Block this thread at most so long; True as soon as the work is to stop."""
        self._cancelled.wait(seconds)
        return self.cancelled

    async def until_cancelled(self) -> None:
        """Wait until the work is to stop."""
        await self._cancelled_here.wait()
        self._seen = True

    def progress(self, fraction: float, message: str | None = None) -> None:
        """Report how far the work is, from 0 to 1. Cheap: sent at most 5 times a second.

        Raise ValueError for NaN.
        """
        if math.isnan(fraction):
            raise ValueError("the fraction is not a number")
        text = None if message is None else cut(message, LONGEST_PROGRESS_MESSAGE)
        self._outbox.progress(Progress(fraction=min(max(float(fraction), 0.0), 1.0), message=text))

    def log(self, message: str, level: LogLevel = "info") -> None:
        """Add a line to the task's log. Cheap: lines are sent in batches."""
        if level not in _LEVELS:
            raise ValueError(f"level is one of {', '.join(sorted(_LEVELS))}, got {level!r}")
        self._outbox.log(level, str(message))

    async def attach(
        self, name: str, data: bytes | PathLike[str], content_type: str | None = None
    ) -> Artifact:
        """Hand a file over with the task: bytes, or what is in the file of this path.

        It is there when this returns; the same name again replaces it. Raise ConflictError when the
        task has as many files, or bytes of them, as it may, LeaseLostError when the work is lost.
        """
        if not isinstance(data, bytes | PathLike):
            raise TypeError(f"data is bytes or a path, not {type(data).__name__}")
        content = data if isinstance(data, bytes) else await asyncio.to_thread(_read, data)
        proof = self._outbox.proof
        return await self.client.leases.attach(
            proof.lease_id, proof.fence, name, content, content_type=content_type
        )

    def attach_blocking(
        self, name: str, data: bytes | PathLike[str], content_type: str | None = None
    ) -> Artifact:
        """As `attach`, for a handler that runs in a thread."""
        return Portal(self._loop).run(self.attach(name, data, content_type))


class Cancellation:
    """The runtime's side of a context: sets what the handler looks at."""

    def __init__(self, context: TaskContext) -> None:
        self._context = context

    def set(self) -> None:
        """Tell the handler to stop."""
        self._context._cancelled.set()  # noqa: SLF001  # The other side of one thing.
        self._context._cancelled_here.set()  # noqa: SLF001

    @property
    def was_seen(self) -> bool:
        """The handler has looked since."""
        return self._context._seen  # noqa: SLF001


def _read(path: PathLike[str]) -> bytes:
    return Path(path).read_bytes()
