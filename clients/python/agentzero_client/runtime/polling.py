"""The agent's work over REST alone: long-polled claims and heartbeats.

While slots are full nothing is claimed: a completion brings the next lease into its slot by itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from agentzero_client.backoff import Backoff
from agentzero_client.client import AsyncClient
from agentzero_client.decoding import decode_model
from agentzero_client.errors import AgentZeroError, ProblemError, UnexpectedAnswerError
from agentzero_client.models import HeartbeatReply, Lease
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
        self._is_claiming = False

    @property
    def takes_next(self) -> bool:
        """A completion may bring the next lease: work is wanted, and over REST."""
        worker = self._worker
        return self._is_claiming and not (worker.is_draining or worker.stop_requested.is_set())

    def take_next(self, answer: Any) -> None:
        """Work on the lease that the answer to a completion brought, if it did.

        Its slot is that of the completed one, and free in a moment.
        """
        lease = answer.get("next") if isinstance(answer, Mapping) else None
        if lease is None:
            return
        try:
            self._worker.assign(decode_model(Lease, lease))
        except UnexpectedAnswerError:
            _log.exception("a lease that this version does not understand")

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
        self._is_claiming = True
        try:
            await self._claim(end)
        finally:
            self._is_claiming = False

    async def _claim(self, end: float) -> None:
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
