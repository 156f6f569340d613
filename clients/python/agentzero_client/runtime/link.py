"""The agent's WebSocket: after `hello` assignments come and reports go, answered by `result`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from agentzero_client.close_codes import ABNORMAL
from agentzero_client.decoding import decode_model
from agentzero_client.errors import (
    ConnectionFailedError,
    UnexpectedAnswerError,
    problem_error,
)
from agentzero_client.frame_socket import FrameSocket, HandshakeFailedError, SocketClosedError
from agentzero_client.json_codec import encode
from agentzero_client.models import Lease
from agentzero_client.runtime.reports import Proof, Report
from agentzero_client.runtime.worker import Worker

READY_SECONDS = 10.0
ANSWER_SECONDS = 15.0
LARGEST_FRAME = 1 << 20
IN_FLIGHT = 200

_log = logging.getLogger("agentzero.agent")


class FrameTooLargeError(Exception):
    """The report does not fit into a frame of the link."""


class Link:
    """One open link. `run` feeds the worker until the socket is closed."""

    def __init__(self, socket: FrameSocket, worker: Worker) -> None:
        self._socket = socket
        self._worker = worker
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._in_flight = asyncio.Semaphore(IN_FLIGHT)
        self._number = 0
        self._heartbeat_seconds = 15.0
        self._told_reserved = False
        self.reconnect_after_seconds = 0.0

    async def greet(self, *, capabilities: list[str], version: str) -> None:
        """Say `hello` with the leases that are still worked on, and wait for `ready`.

        Raise SocketClosedError, or HandshakeFailedError when there is no answer within 10 s.
        """
        held = [{"lease_id": p.lease_id, "fence": p.fence} for p in self._worker.held]
        await self._socket.send(
            {
                "type": "hello",
                "capabilities": capabilities,
                "slots": self._worker.slots,
                "version": version,
                "resume_leases": held[:64],
            }
        )
        try:
            async with asyncio.timeout(READY_SECONDS):
                while (frame := await self._socket.receive())["type"] != "ready":
                    await self._take(frame)
        except TimeoutError as error:
            raise HandshakeFailedError("no answer to hello") from error
        except SocketClosedError as closed:
            if closed.code == ABNORMAL:
                raise HandshakeFailedError("cut off before ready") from closed
            raise
        self._heartbeat_seconds = float(frame.get("heartbeat_seconds") or 15.0)
        self._worker.lease_seconds = float(frame.get("lease_seconds") or 30.0)
        for lease_id in frame.get("lost", ()):
            self._worker.cancel(lease_id, "lost")

    async def run(self) -> None:
        """Receive until the socket is closed; raise SocketClosedError."""
        beating = asyncio.create_task(self._beat(), name="agentzero heartbeat")
        try:
            while True:
                await self._take(await self._socket.receive())
        finally:
            beating.cancel()
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(ConnectionFailedError("the link broke"))

    async def report(self, proof: Proof, report: Report) -> Any:
        """Send a report and wait at most 15 s for its answer. See Reporter.

        Raise FrameTooLargeError before anything is sent.
        """
        self._number += 1
        return await self._ask(report.frame(proof, f"r{self._number}"))

    async def heartbeat(self) -> None:
        """Say now how many slots are free and which controls were taken; wait for the answer."""
        self._number += 1
        await self._ask({"id": f"h{self._number}", **self._state()})

    async def close(self) -> None:
        """Leave."""
        await self._socket.close()

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "type": "heartbeat",
            "load": self._worker.load,
        }
        # The hive counts what it assigned itself; our count may be older than an answer under way.
        if self._worker.has_reserved or self._told_reserved:
            state["free_slots"] = self._worker.free_slots
            self._told_reserved = self._worker.has_reserved
        if self._worker.controls_taken:
            state["controls_taken"] = self._worker.controls_taken
        return state

    async def _ask(self, frame: Mapping[str, Any]) -> Any:
        text = encode(frame)
        if len(text) > LARGEST_FRAME:
            raise FrameTooLargeError
        frame_id = frame["id"]
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(ANSWER_SECONDS), self._in_flight:
                self._answers[frame_id] = answer
                await self._socket.send_text(text.decode())
                result = await answer
        except TimeoutError as error:
            raise ConnectionFailedError(f"no answer to a {frame['type']} in time") from error
        except SocketClosedError as error:
            raise ConnectionFailedError("the link broke") from error
        finally:
            self._answers.pop(frame_id, None)
            if answer.done() and not answer.cancelled():
                answer.exception()  # Looked at, also when we were cancelled first.
        return _body_of(result)

    async def _beat(self) -> None:
        with suppress(SocketClosedError):
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._heartbeat_seconds):
                        await self._worker.beat_now.wait()
                self._worker.beat_now.clear()
                await self._socket.send(self._state())

    async def _take(self, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        if kind == "result":
            answer = self._answers.get(str(frame.get("id")))
            if answer is not None and not answer.done():
                answer.set_result(frame)
        elif kind == "assign":
            self._assign(frame)
        elif kind == "cancel":
            self._worker.cancel(str(frame.get("lease_id")), str(frame.get("reason", "requested")))
        elif kind == "control":
            control_id = frame.get("control_id")
            known = control_id if isinstance(control_id, int) else None
            self._worker.control(str(frame.get("action")), known)
        elif kind == "ping":
            await self._socket.send({**frame, "type": "pong"})
        elif kind == "notice" and frame.get("kind") == "draining":
            self.reconnect_after_seconds = float(frame.get("after_ms") or 0) / 1000
        elif kind == "error":
            self._complain(frame)

    def _assign(self, frame: dict[str, Any]) -> None:
        try:
            lease = decode_model(Lease, frame.get("lease"))
        except UnexpectedAnswerError:
            _log.exception("an assignment that this version does not understand")
            return
        self._worker.assign(lease)

    def _complain(self, frame: dict[str, Any]) -> None:
        answer = self._answers.get(str(frame.get("id")))
        if answer is None or answer.done():
            _log.warning("the server reports %s: %s", frame.get("code"), frame.get("detail"))
            return
        # The report was not carried out; what can pass is tried again.
        status = 503 if frame.get("retryable") else 400
        answer.set_result({"status": status, "problem": frame})


def _body_of(result: Mapping[str, Any]) -> Any:
    status = result.get("status")
    if isinstance(status, int) and status < 400:  # noqa: PLR2004  # HTTP's boundary.
        return result.get("body")
    problem = result.get("problem")
    raise problem_error(
        status if isinstance(status, int) else 500,
        problem if isinstance(problem, Mapping) else {},
    )
