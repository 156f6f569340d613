"""How an agent is attached to the hive: by its WebSocket, or by REST where sockets are blocked.

Sockets count as blocked when two handshakes in a row fail while REST answers.
Every two minutes the socket is tried again. The delays stay well below a lease period, so that
leases survive a restart of the server.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

from agentzero_client.address import segment
from agentzero_client.backoff import Backoff
from agentzero_client.client import AsyncClient
from agentzero_client.close_codes import Reaction, reaction
from agentzero_client.errors import AgentZeroError, ProblemError
from agentzero_client.frame_socket import FrameSocket, HandshakeFailedError, SocketClosedError
from agentzero_client.retrying import Repeat
from agentzero_client.runtime.failures import AgentStoppedError
from agentzero_client.runtime.link import FrameTooLargeError, Link
from agentzero_client.runtime.polling import Polling
from agentzero_client.runtime.reports import VERBS, Proof, Report
from agentzero_client.runtime.worker import Worker

HANDSHAKES_BEFORE_REST = 2
SOCKET_AGAIN_SECONDS = 120.0
BACKOFF_CAP_SECONDS = 5.0
STEADY_SECONDS = 5.0
REPORT_SECONDS = 15.0
ANNOUNCE_SECONDS = 3.0
LEAVE_SECONDS = 3.0
UNKNOWN_MEMBER = frozenset({400, 422})

_log = logging.getLogger("agentzero.agent")


class Switchboard:
    """Sends a report over the link while there is one, else over REST. The worker's Reporter."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._knows_next = True
        self.link: Link | None = None
        self.polling: Polling | None = None

    async def report(self, proof: Proof, report: Report) -> Any:
        """See Reporter. What is too large for a frame goes over REST."""
        if self.link is not None:
            with suppress(FrameTooLargeError):
                return await self.link.report(proof, report)
        polling = self.polling
        if report.kind != "complete" or polling is None or not polling.takes_next:
            return await self._post(proof, report)
        if self._knows_next:
            try:
                answer = await self._post(proof, report, claim_next=True)
            except ProblemError as error:
                if error.status not in UNKNOWN_MEMBER:
                    raise
            else:
                polling.take_next(answer)
                return answer
        answer = await self._post(proof, report)
        # It took the same without the new member: a server of an earlier version.
        self._knows_next = False
        return answer

    async def _post(self, proof: Proof, report: Report, **members: Any) -> Any:
        answer = await self._client.http.request(
            "POST",
            f"/api/v1/leases/{segment(proof.lease_id)}/{VERBS[report.kind]}",
            body={**report.body(proof), **members},
            repeat=Repeat.NEVER,
            timeout_seconds=REPORT_SECONDS,
        )
        return answer.body


class Attachment:
    """Keeps the worker attached. Its Station."""

    def __init__(
        self,
        client: AsyncClient,
        agent_id: str,
        worker: Worker,
        switchboard: Switchboard,
        *,
        capabilities: list[str],
        version: str,
    ) -> None:
        self._client = client
        self._agent_id = agent_id
        self._worker = worker
        self._switchboard = switchboard
        self._capabilities = capabilities
        self._version = version
        self._polling = Polling(client, agent_id, worker)
        self._backoff = Backoff(cap_seconds=BACKOFF_CAP_SECONDS)
        self._running: asyncio.Task[None] | None = None
        self._leaving = False

    def start(self) -> asyncio.Task[None]:
        """Attach, and attach again. The task ends by AgentStoppedError or by `leave`."""
        self._running = asyncio.create_task(self._run(), name="agentzero attachment")
        return self._running

    async def leave(self) -> None:
        """Detach for good; when this returns no assignment comes any more. Idempotent."""
        self._leaving = True
        if self._running is None or self._running.done():
            return
        if self._switchboard.link is not None:
            # Closed from beside the reader, which takes what is sent until the hive answers.
            await self._switchboard.link.close()
            await asyncio.wait({self._running}, timeout=LEAVE_SECONDS)
        self._running.cancel()
        await asyncio.wait({self._running})

    async def _run(self) -> None:
        failed = 0
        loop = asyncio.get_running_loop()
        while True:
            started, at_least = loop.time(), 0.0
            try:
                at_least = await self._over_socket()
                failed = 0
            except HandshakeFailedError as error:
                _log.debug("no link: %s", error)
                # A server that is away fails handshakes, too: only one that answers REST counts.
                failed = failed + 1 if await self._client.http.answers() else 0
                if failed >= HANDSHAKES_BEFORE_REST and await self._over_rest():
                    failed = HANDSHAKES_BEFORE_REST - 1
                    continue
            except AgentZeroError as error:
                if isinstance(error, AgentStoppedError):
                    raise
                _log.debug("can't attach: %s", error)
            if self._leaving:
                return
            if loop.time() - started > STEADY_SECONDS:
                self._backoff.reset()
            await asyncio.sleep(self._backoff.next_seconds(at_least))

    async def announce(self) -> None:
        """Tell the hive at once what changed here; within 3 s or not at all."""
        if self._running is None or self._running.done():
            return
        with suppress(AgentZeroError, TimeoutError):
            async with asyncio.timeout(ANNOUNCE_SECONDS):
                if self._switchboard.link is not None:
                    await self._switchboard.link.heartbeat()
                else:
                    await self._polling.heartbeat()

    async def _over_socket(self) -> float:
        """Work over a link until it breaks; give the seconds that the server asks to stay away."""
        http = self._client.http
        path = f"/ws/agents/{segment(self._agent_id)}"
        socket = await FrameSocket.open(
            http.base_url, path, token=await http.token(), trust_env=http.trust_env, tls=http.tls
        )
        link = Link(socket, self._worker)
        try:
            await link.greet(capabilities=self._capabilities, version=self._version)
            _log.info("attached to %s by WebSocket", http.base_url)
            self._switchboard.link = link
            await link.run()
        except SocketClosedError as closed:
            _log.info("link %s", closed)
            if reaction(closed.code) is Reaction.STOP:
                raise AgentStoppedError(f"The hive turned the agent away: {closed}.") from closed
        finally:
            self._switchboard.link = None
            await link.close()
        return link.reconnect_after_seconds

    async def _over_rest(self) -> bool:
        """Work over REST for two minutes; False when REST does not work either."""
        try:
            await self._polling.heartbeat()
            _log.info("WebSockets are blocked: attached to %s by REST", self._client.http.base_url)
            self._switchboard.polling = self._polling
            await self._polling.run(SOCKET_AGAIN_SECONDS)
        except ProblemError as error:
            if error.status in (401, 403, 404):
                raise AgentStoppedError(
                    f"The hive turned the agent away: {error.detail}"
                ) from error
            return False
        except AgentZeroError as error:
            _log.debug("no REST: %s", error)
            return False
        finally:
            self._switchboard.polling = None
        return True
