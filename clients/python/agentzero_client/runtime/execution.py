"""One lease at work: the handler, its context and its reports.

    started -> handler ended -> final report answered -> over
            -> lease lost    -> handler told to stop, its result dropped -> over
            -> given back (drain) -> over, whether or not the handler stopped

A slot is taken until the handler is gone: a thread can't be interrupted, only asked.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from agentzero_client.client import AsyncClient
from agentzero_client.json_codec import NotJsonError, encode
from agentzero_client.models import Lease
from agentzero_client.runtime import reports
from agentzero_client.runtime.context import Cancellation, TaskContext, running_task
from agentzero_client.runtime.failures import (
    TaskCancelledError,
    TaskError,
    cut,
    describe,
    redact,
)
from agentzero_client.runtime.handlers import Handler, Handlers
from agentzero_client.runtime.outbox import Outbox
from agentzero_client.runtime.reports import Proof, Report, Reporter

CANCELLED = "cancelled"
LOST_GRACE_SECONDS = 1.0

_log = logging.getLogger("agentzero.agent")


class Execution:
    """Runs the handler of one lease and reports what became of it."""

    def __init__(
        self,
        lease: Lease,
        handlers: Handlers,
        client: AsyncClient,
        reporter: Reporter,
        lease_seconds: Callable[[], float],
        cancel_grace_seconds: float,
    ) -> None:
        self.proof = Proof(lease.lease_id, lease.fence)
        self.task = running_task(lease)
        self._handlers = handlers
        self._cancel_grace_seconds = cancel_grace_seconds
        self._outbox = Outbox(
            self.proof,
            reporter,
            lease_seconds,
            on_lost=self.lose,
            on_cancel_requested=self.cancel,
        )
        self._context = TaskContext(self.task, client, self._outbox)
        self._cancellation = Cancellation(self._context)
        self._outcome: asyncio.Future[Report | None] = asyncio.get_running_loop().create_future()
        self._work: asyncio.Task[None] | None = None
        self._given_back = False
        self._release_reason = CANCELLED
        self._stopping = False

    @property
    def has_lease(self) -> bool:
        """The lease is ours as far as we know; without it a handler may still be on its way out."""
        return not (self._outcome.done() and self._outcome.result() is None)

    @property
    def is_finishing(self) -> bool:
        """The final report is on its way; whether it still counts its answer will tell."""
        return self._outbox.is_finishing

    async def run(self) -> None:
        """Run the handler and report until that is answered. Never raises but for cancellation."""
        sending = asyncio.create_task(self._outbox.run(), name=f"reports {self.task.task_id}")
        self._work = asyncio.create_task(self._run_handler(), name=f"task {self.task.task_id}")
        try:
            report = await self._outcome
            if report is None:
                self._outbox.lose()
            else:
                self._outbox.finish(report)
            await sending
            if not self._given_back:
                await asyncio.wait({self._work})
        finally:
            self._given_back = True
            sending.cancel()
            self._work.cancel()

    def cancel(self) -> None:
        """The hive asks to stop: the handler has a grace period to obey."""
        self._stop(self._cancel_grace_seconds)

    def lose(self) -> None:
        """The lease is not ours any more: drop everything."""
        self._settle(None)
        self._stop(LOST_GRACE_SECONDS)

    async def give_back(self, reason: str, grace_seconds: float) -> None:
        """Stop the handler, within the grace if it is asynchronous, and release the lease."""
        self._release_reason = reason
        self._cancellation.set()
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait({self._work}, timeout=grace_seconds)
        self._given_back = True
        self._settle(reports.release(reason))

    def _stop(self, grace_seconds: float) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._cancellation.set()
        asyncio.get_running_loop().call_later(grace_seconds, self._interrupt)

    def _interrupt(self) -> None:
        if self._work is not None:
            self._work.cancel()

    def _settle(self, report: Report | None) -> None:
        if not self._outcome.done():
            self._outcome.set_result(report)

    async def _run_handler(self) -> None:
        try:
            report = await self._report_of_handler()
        except asyncio.CancelledError:
            self._settle(reports.release(self._release_reason))
            raise
        self._settle(report)

    async def _report_of_handler(self) -> Report:
        try:
            handler = self._handlers.choose(self.task)
            result = await self._call(handler)
        except Exception as error:  # noqa: BLE001  # Whatever a handler raises fails its task only.
            return self._report_of_error(error)
        if result is None and self._cancellation.was_seen:
            return reports.release(self._release_reason)
        try:
            encode(result)
        except NotJsonError as error:
            message = cut(f"The handler returned what is no JSON: {error.__cause__ or error}")
            return reports.failure("result-not-json", message, retryable=False)
        return reports.completion(result)

    def _report_of_error(self, error: Exception) -> Report:
        if isinstance(error, TaskCancelledError) and self._context.cancelled:
            return reports.release(self._release_reason)
        if isinstance(error, TaskError):
            message = cut(redact(error.message))
            return reports.failure(error.code, message, retryable=error.retryable)
        _log.error("task %s (%s) failed", self.task.name, self.task.task_id, exc_info=error)
        return reports.failure("unhandled-exception", describe(error), retryable=True)

    async def _call(self, handler: Handler) -> Any:
        call = handler.arguments(self._context, self.task.parameters)
        if handler.is_async:
            return await handler.function(*call.args, **call.kwargs)
        thread = _in_thread(
            lambda: handler.function(*call.args, **call.kwargs), f"task {self.task.task_id}"
        )
        while True:
            try:
                # Cancelling us must not look like the end of a thread that still runs.
                return await asyncio.shield(thread)
            except asyncio.CancelledError:
                if self._given_back or thread.cancelled():
                    raise


def _in_thread(function: Callable[[], Any], name: str) -> asyncio.Future[Any]:
    """Run in a daemon thread: one that never ends must not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def run() -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = function()
        except StopIteration as stop:
            error = RuntimeError(f"the handler raised {stop!r}")
        except BaseException as raised:  # noqa: BLE001  # SystemExit in a thread ends nothing else.
            error = raised if isinstance(raised, Exception) else RuntimeError(repr(raised))
        # The loop is closed when the agent is gone.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
