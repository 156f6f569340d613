"""The leases that an agent works on: taken into free slots, given up in good order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Protocol

from agentzero_client.backoff import Backoff
from agentzero_client.client import AsyncClient
from agentzero_client.errors import AgentZeroError, ProblemError
from agentzero_client.models import Lease
from agentzero_client.retrying import PASSING_STATUSES
from agentzero_client.runtime import reports
from agentzero_client.runtime.execution import Execution
from agentzero_client.runtime.handlers import Handlers
from agentzero_client.runtime.reports import Proof, Reporter

DEFAULT_LEASE_SECONDS = 30.0
SLOT_WAIT_SECONDS = 1.0
STOP_GRACE_SECONDS = 2.0
LAST_REPORTS_SECONDS = 10.0
REJECT_ATTEMPTS = 5
SHUTTING_DOWN = "shutting down"

_log = logging.getLogger("agentzero.agent")


class Station(Protocol):
    """Where the worker is attached to the hive."""

    async def announce(self) -> None:
        """Tell the hive what is free here, soon or not at all. Raises nothing."""
        ...

    async def leave(self) -> None:
        """Detach; when this returns no assignment comes any more. Raises nothing."""
        ...


class Worker:
    """Runs at most `slots` leases at once, on one event loop."""

    def __init__(
        self,
        handlers: Handlers,
        client: AsyncClient,
        reporter: Reporter,
        *,
        slots: int,
        cancel_grace_seconds: float,
    ) -> None:
        self.slots = slots
        self.lease_seconds = DEFAULT_LEASE_SECONDS
        self.controls_taken = 0
        self.stop_requested = asyncio.Event()
        self.restart_requested = False
        self.is_draining = False
        self.slot_freed = asyncio.Event()
        self.beat_now = asyncio.Event()
        self._handlers = handlers
        self._client = client
        self._reporter = reporter
        self._cancel_grace_seconds = cancel_grace_seconds
        self._executions: dict[str, Execution] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._rejections: set[asyncio.Task[Any]] = set()
        self._has_left = asyncio.Event()

    @property
    def free_slots(self) -> int:
        """How many leases more could run; none while draining."""
        return 0 if self.is_draining else max(0, self.slots - len(self._executions))

    @property
    def load(self) -> float:
        """The share of the slots that is taken."""
        return min(1.0, len(self._executions) / self.slots)

    @property
    def held(self) -> list[Proof]:
        """What a reconnect resumes."""
        return [e.proof for e in self._executions.values() if e.has_lease]

    @property
    def has_reserved(self) -> bool:
        """Slots are taken that the hive takes for free: a drain, or handlers without a lease."""
        return self.is_draining or not all(e.has_lease for e in self._executions.values())

    def assign(self, lease: Lease) -> None:
        """Run the lease, or give it back when there is no room."""
        if lease.lease_id in self._executions:
            return
        if self.free_slots:
            self._execute(lease)
        else:
            _spawn(self._squeeze_in(lease), self._rejections)

    def cancel(self, lease_id: str, reason: str) -> None:
        """The hive asks to stop (`requested`), or the lease is `lost`."""
        execution = self._executions.get(lease_id)
        if execution is None:
            return
        if reason != "lost":
            execution.cancel()
        elif not execution.is_finishing:
            # A lease that ended by our own report is not current either: its answer decides.
            execution.lose()

    def control(self, action: str, control_id: int | None) -> None:
        """Obey. Pause, resume and drain are the server's to enforce: it sends no work meanwhile."""
        _log.info("control: %s", action)
        if control_id is not None:
            if control_id <= self.controls_taken:
                return
            self.controls_taken = control_id
            self.beat_now.set()
        if action in ("stop", "restart"):
            self.restart_requested = action == "restart"
            self.stop_requested.set()

    async def drain(self, seconds: float, hurry: asyncio.Event, station: Station) -> None:
        """Let what runs finish within `seconds` or until `hurry`, release the rest, and leave.

        Assignments that were under way when we told the hive are given back: those that arrive
        before we have left by the worker, those that come too late for that by the hive itself.
        """
        self.is_draining = True
        await station.announce()
        await self._finish(seconds, hurry)
        left = list(self._executions.values())
        if left:
            _log.warning("giving %d unfinished tasks back", len(left))
            await asyncio.gather(
                *(execution.give_back(SHUTTING_DOWN, STOP_GRACE_SECONDS) for execution in left)
            )
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LAST_REPORTS_SECONDS)
        await station.leave()
        self._has_left.set()
        if self._rejections:
            await asyncio.wait(self._rejections, timeout=LAST_REPORTS_SECONDS)
        unanswered = sum(not task.done() for task in self._tasks | self._rejections)
        if unanswered:
            _log.warning("%d last reports are unanswered; their leases expire", unanswered)
        for task in self._tasks | self._rejections:
            task.cancel()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something that a drain waits for."""
        return _spawn(work, self._tasks)

    async def _finish(self, seconds: float, hurry: asyncio.Event) -> None:
        hurried = asyncio.ensure_future(hurry.wait())
        try:
            async with asyncio.timeout(seconds):
                while self._tasks and not hurry.is_set():
                    await asyncio.wait({*self._tasks, hurried}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            pass
        finally:
            hurried.cancel()

    def _period_seconds(self, lease: Lease) -> float:
        """How long the lease lasts from one sign of life to the next."""
        heartbeat = lease.task.heartbeat_seconds
        return self.lease_seconds if heartbeat is None else min(self.lease_seconds, heartbeat)

    def _execute(self, lease: Lease) -> None:
        execution = Execution(
            lease,
            self._handlers,
            self._client,
            self._reporter,
            lambda: self._period_seconds(lease),
            self._cancel_grace_seconds,
        )
        self._executions[lease.lease_id] = execution
        _log.info("task %s (%s)", lease.task.name, lease.task.task_id)
        self.spawn(self._run(execution))

    async def _run(self, execution: Execution) -> None:
        try:
            await execution.run()
        finally:
            del self._executions[execution.proof.lease_id]
            self.slot_freed.set()
            if self.is_draining:
                self.beat_now.set()

    async def _squeeze_in(self, lease: Lease) -> None:
        """Wait a moment for a slot: a task may just be ending. Then reject.

        Not at once: the hive may send the next one as soon as it hears of it.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(SLOT_WAIT_SECONDS):
                await self._room()
        if self.free_slots:
            self._execute(lease)
            return
        reason = SHUTTING_DOWN if self.is_draining else "no free slot"
        _log.info("not taking %s: %s", lease.task.task_id, reason)
        self.beat_now.set()
        proof, report = Proof(lease.lease_id, lease.fence), reports.rejection(reason)
        backoff = Backoff()
        for _ in range(REJECT_ATTEMPTS):
            try:
                await self._reporter.report(proof, report)
            except AgentZeroError as error:
                if isinstance(error, ProblemError) and error.status not in PASSING_STATUSES:
                    return
                await asyncio.sleep(backoff.next_seconds())
            else:
                return

    async def _room(self) -> None:
        """Wait until a slot is free, or we have left."""
        if self.is_draining:
            await self._has_left.wait()
            return
        while not self.free_slots:
            self.slot_freed.clear()
            await self.slot_freed.wait()


def _spawn(work: Coroutine[Any, Any, Any], group: set[asyncio.Task[Any]]) -> asyncio.Task[Any]:
    task = asyncio.create_task(work)
    group.add(task)
    task.add_done_callback(group.discard)
    return task
