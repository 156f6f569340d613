"""The agent's work over REST alone: long-polled claims and heartbeats."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from agentzero_client.backoff import Backoff
from agentzero_client.client import AsyncClient
from agentzero_client.errors import AgentZeroError, ProblemError
from agentzero_client.models import HeartbeatReply
from agentzero_client.retrying import PASSING_STATUSES
from agentzero_client.runtime.worker import Worker

WAIT_SECONDS = 5.0
AGAIN_CAP_SECONDS = 5.0

_log = logging.getLogger("agentzero.agent")


class Polling:
    """Claims leases for the worker. Raises ProblemError when the server refuses the agent."""

    def __init__(self, client: AsyncClient, agent_id: str, worker: Worker) -> None:
        self._client = client
        self._agent_id = agent_id
        self._worker = worker
        self._heartbeat_seconds = 15.0

    async def run(self, seconds: float) -> None:
        """Work so for a while; ends between two claims. Goes on beating while the worker drains."""
        beating = asyncio.create_task(self._beat(), name="agentzero heartbeat")
        # A drain waits for the claim that is under way: what it brings has to be given back.
        claiming = self._worker.spawn(self._claim_until(time.monotonic() + seconds))
        try:
            done, _ = await asyncio.wait({beating, claiming}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if self._worker.is_draining:
                await beating
        finally:
            beating.cancel()
            if not self._worker.is_draining:
                claiming.cancel()

    async def heartbeat(self) -> HeartbeatReply:
        """Say what is free and which controls were taken; obey what comes back."""
        reply = await self._client.agents.heartbeat(
            self._agent_id,
            free_slots=self._worker.free_slots,
            load=self._worker.load,
            controls_taken=self._worker.controls_taken or None,
        )
        self._heartbeat_seconds = reply.heartbeat_seconds
        self._worker.lease_seconds = reply.lease_seconds
        for control in sorted(reply.controls, key=lambda control: control.control_id):
            self._worker.control(control.action, control.control_id)
        return reply

    async def _beat(self) -> None:
        while True:
            try:
                await self.heartbeat()
            except AgentZeroError as error:
                _raise_for_good(error)
                _log.debug("no heartbeat: %s", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._heartbeat_seconds):
                    await self._worker.beat_now.wait()
            self._worker.beat_now.clear()

    async def _claim_until(self, end: float) -> None:
        backoff = Backoff(cap_seconds=AGAIN_CAP_SECONDS)
        worker = self._worker
        while not worker.is_draining and time.monotonic() < end:
            if not worker.free_slots:
                worker.slot_freed.clear()
                await _either(worker.slot_freed, worker.stop_requested)
                if worker.stop_requested.is_set():
                    return
                continue
            try:
                leases = await self._client.agents.claim(
                    self._agent_id, max_leases=worker.free_slots, wait_seconds=WAIT_SECONDS
                )
            except AgentZeroError as error:
                _raise_for_good(error)
                _log.debug("no claim: %s", error)
                await asyncio.sleep(backoff.next_seconds())
                continue
            backoff.reset()
            for lease in leases:
                worker.assign(lease)


async def _either(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _raise_for_good(error: AgentZeroError) -> None:
    if isinstance(error, ProblemError) and error.status in (401, 403, 404):
        raise error
    if isinstance(error, ProblemError) and error.status not in PASSING_STATUSES:
        _log.warning("the server refuses: %s", error)
