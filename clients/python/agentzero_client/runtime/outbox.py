"""The reports of one lease, sent one after the other until they are answered.

Logs go before progress, both before the final report. Lines are batched and progress is coalesced
(the newest wins), at most every 0.2 s. With nothing else to say the lease is renewed at a third of
its period. A report without an answer is repeated, over whichever transport there is; a completion
is idempotent by lease and fence, lines may then be logged twice. The hive alone decides when a
lease is lost: during an outage the work goes on.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from agentzero_client.backoff import Backoff
from agentzero_client.errors import (
    AgentZeroError,
    AuthenticationError,
    LeaseLostError,
    NotFoundError,
    ProblemError,
)
from agentzero_client.models import Progress
from agentzero_client.retrying import PASSING_STATUSES
from agentzero_client.runtime import reports
from agentzero_client.runtime.failures import LONGEST_MESSAGE, cut
from agentzero_client.runtime.reports import Proof, Report, Reporter

FLUSH_SECONDS = 0.2
LINES_IN_BATCH = 500
BATCH_CHARACTERS = 128 * 1024
LINES_WAITING = 10_000
AGAIN_CAP_SECONDS = 5.0
LONGEST_PROGRESS_MESSAGE = 500

_log = logging.getLogger("agentzero.agent")


class Outbox:
    """`progress` and `log` may be called from any thread; everything else on the event loop."""

    def __init__(
        self,
        proof: Proof,
        reporter: Reporter,
        lease_seconds: Callable[[], float],
        *,
        on_lost: Callable[[], None],
        on_cancel_requested: Callable[[], None],
    ) -> None:
        self._proof = proof
        self._reporter = reporter
        self._lease_seconds = lease_seconds
        self._on_lost = on_lost
        self._on_cancel_requested = on_cancel_requested
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._lines: deque[dict[str, str]] = deque()
        self._dropped_lines = 0
        self._progress: Progress | None = None
        self._batch: list[dict[str, str]] = []
        self._final: Report | None = None
        self._lost = False
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()
        self._renewed_at = time.monotonic()
        self._backoff = Backoff(cap_seconds=AGAIN_CAP_SECONDS)

    @property
    def is_finishing(self) -> bool:
        """The final report is on its way."""
        return self._final is not None

    def progress(self, progress: Progress) -> None:
        """Report progress; the newest wins."""
        with self._lock:
            self._progress = progress
        self._poke()

    def log(self, level: str, message: str) -> None:
        """Report a line. Beyond 10,000 that wait the oldest are dropped, and counted."""
        text = cut(message, max(len(message), 1))
        pieces = range(0, max(len(text), 1), LONGEST_MESSAGE)
        with self._lock:
            for start in pieces:
                piece = text[start : start + LONGEST_MESSAGE]
                self._lines.append({"level": level, "message": piece})
            while len(self._lines) > LINES_WAITING:
                self._lines.popleft()
                self._dropped_lines += 1
        self._poke()

    @property
    def proof(self) -> Proof:
        """The lease that is reported about."""
        return self._proof

    def finish(self, final: Report) -> None:
        """Send what waits, then this, and end. Only the first one counts."""
        if self._final is None:
            self._final = final
        self._urgent.set()
        self._wake.set()

    def lose(self) -> None:
        """Send nothing any more."""
        self._lost = True
        self._urgent.set()
        self._wake.set()

    async def run(self) -> bool:
        """Send until the final report is answered (True) or the lease is lost (False)."""
        while not self._lost:
            report = self._next()
            if report is None:
                await self._idle()
            elif not await self._send(report):
                await self._back_off()
            elif report is self._final:
                return not self._lost
            elif len(self._lines) < LINES_IN_BATCH:
                await self._pause()
        return False

    def _next(self) -> Report | None:
        self._fill_batch()
        if self._batch:
            return reports.log(self._batch)
        if self._progress is not None:
            return reports.renewal(self._progress)
        if self._final is not None:
            return self._final
        return reports.renewal() if self._renewal_due_seconds() <= 0 else None

    def _fill_batch(self) -> None:
        if self._batch:
            return  # Not answered yet.
        with self._lock:
            if self._dropped_lines:
                note = f"({self._dropped_lines} lines were dropped: the hive did not answer)"
                self._batch.append({"level": "warning", "message": note})
                self._dropped_lines = 0
            characters = 0
            while self._lines and len(self._batch) < LINES_IN_BATCH:
                characters += len(self._lines[0]["message"])
                if self._batch and characters > BATCH_CHARACTERS:
                    break
                self._batch.append(self._lines.popleft())

    async def _send(self, report: Report) -> bool:
        """Send once; False when it is to be sent again."""
        sent_at = time.monotonic()
        progress = self._progress
        try:
            answer = await self._reporter.report(self._proof, report)
        except (LeaseLostError, NotFoundError, AuthenticationError) as error:
            _log.warning("lease of %s lost: %s", report.kind, error)
            self._lost = True
            self._on_lost()
            return True
        except ProblemError as error:
            if error.status in PASSING_STATUSES:
                return False
            self._refused(report, error)
        except AgentZeroError as error:
            _log.debug("no answer to %s: %s", report.kind, error)
            return False
        else:
            self._answered(report, answer, sent_at)
        self._backoff.reset()
        if report.kind == "log":
            self._batch = []
        elif report.kind == "progress":
            with self._lock:
                if self._progress is progress:
                    self._progress = None
        return True

    def _answered(self, report: Report, answer: Any, sent_at: float) -> None:
        if report.kind != "progress":
            return
        self._renewed_at = sent_at
        if isinstance(answer, Mapping) and answer.get("cancel_requested"):
            self._on_cancel_requested()

    def _refused(self, report: Report, error: ProblemError) -> None:
        """The server does not take the report as it is: say so where that is possible."""
        _log.error("the server refuses a %s: %s", report.kind, error)
        if report is not self._final:
            self._renewed_at = time.monotonic()
        elif report.kind == "complete":
            message = cut(f"The server refused the result: {error}")
            self._final = reports.failure("result-refused", message, retryable=False)
        else:
            self._lost = True
            self._on_lost()

    async def _idle(self) -> None:
        self._wake.clear()
        if self._lines or self._progress is not None or self._final is not None or self._lost:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(max(self._renewal_due_seconds(), 0.0)):
                await self._wake.wait()

    async def _pause(self) -> None:
        """Let lines gather, unless the end is near."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._urgent.wait()

    async def _back_off(self) -> None:
        """Leave a server that is away alone; an end that comes meanwhile is tried once."""
        seconds = self._backoff.next_seconds()
        if self._urgent.is_set():
            await asyncio.sleep(seconds)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._urgent.wait()

    def _renewal_due_seconds(self) -> float:
        return self._renewed_at + self._lease_seconds() / 3 - time.monotonic()

    def _poke(self) -> None:
        # The loop is closed when a thread outlives its agent.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wake.set)
