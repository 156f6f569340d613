"""Where the events of a watch come from: `/ws`, or the history over REST where that is blocked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from agentzero_client.backoff import Backoff
from agentzero_client.close_codes import CANNOT_RESUME, REFUSED, Reaction, reaction
from agentzero_client.errors import AgentZeroError, ProblemError, WatchClosedError
from agentzero_client.event_history import EventHistory
from agentzero_client.events import Event, EventFilter, decode_event, decode_gap, whole
from agentzero_client.frame_socket import FrameSocket, HandshakeFailedError, SocketClosedError
from agentzero_client.http import Http
from agentzero_client.retrying import PASSING_STATUSES

HANDSHAKES_BEFORE_REST = 2
SOCKET_AGAIN_SECONDS = 60.0
STEADY_SECONDS = 5.0
SUBSCRIPTION = "watch"

_log = logging.getLogger("agentzero.watch")


class EventFeed:
    """Hands every event and gap to `take`, in order, perhaps more than once."""

    def __init__(
        self,
        http: Http,
        patterns: tuple[str, ...],
        cursor: int | None,
        chosen: EventFilter,
        take: Callable[[Event], Awaitable[None]],
    ) -> None:
        self.live = asyncio.Event()
        self._http = http
        self._patterns = patterns
        self._filter = chosen
        self._take = take
        self._cursor = cursor
        self._history = EventHistory(http, patterns, chosen)
        self._backoff = Backoff()
        self._wait_seconds = 0.0
        self._token: str | None = None
        self._may_renew = True
        self._failed_handshakes = 0

    async def run(self) -> None:
        """Connect, and connect again. Ends only by WatchClosedError or ProblemError."""
        while True:
            started = asyncio.get_running_loop().time()
            self._wait_seconds = 0.0
            try:
                await self._over_socket()
            except HandshakeFailedError as error:
                _log.debug("no WebSocket: %s", error)
                # A server that is away fails handshakes, too: only one that answers REST counts.
                answers = await self._http.answers()
                self._failed_handshakes = self._failed_handshakes + 1 if answers else 0
                if self._failed_handshakes >= HANDSHAKES_BEFORE_REST and await self._over_rest():
                    continue
            except SocketClosedError as closed:
                _log.debug("%s", closed)
                await self._react(closed)
            except AgentZeroError as error:
                if isinstance(error, (WatchClosedError, ProblemError)) and not _passes(error):
                    raise
                _log.debug("can't connect: %s", error)
            if asyncio.get_running_loop().time() - started > STEADY_SECONDS:
                self._backoff.reset()
            await asyncio.sleep(self._backoff.next_seconds(at_least=self._wait_seconds))

    async def _over_socket(self) -> None:
        self._token = await self._http.token()
        socket = await FrameSocket.open(
            self._http.base_url,
            "/ws",
            token=self._token,
            query=None if self._cursor is None else {"cursor": str(self._cursor)},
            trust_env=self._http.trust_env,
            tls=self._http.tls,
        )
        try:
            self._failed_handshakes = 0
            subscribe: dict[str, Any] = {
                "type": "subscribe",
                "id": SUBSCRIPTION,
                "events": list(self._patterns),
            }
            if chosen := self._filter.frame():
                subscribe["filter"] = chosen
            await socket.send(subscribe)
            while True:
                await self._receive(socket, await socket.receive())
        finally:
            await socket.close()

    async def _receive(self, socket: FrameSocket, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        if "." in kind:
            event = decode_event(frame)
            self._cursor = max(event.seq, self._cursor or 0)
            await self._take(event)
        elif kind == "subscribed":
            self._advance(frame)
            self._may_renew = True
            self.live.set()
        elif kind == "bookmark":
            self._advance(frame)
        elif kind == "gap":
            gap = decode_gap(frame)
            self._cursor = gap.seq
            await self._take(gap)
        elif kind == "ping":
            await socket.send({**frame, "type": "pong"})
        elif kind == "notice" and frame.get("kind") == "draining":
            self._wait_seconds = (whole(frame.get("after_ms")) or 0) / 1000
        elif kind == "error":
            self._complain(frame)

    def _advance(self, frame: dict[str, Any]) -> None:
        cursor = whole(frame.get("cursor"))
        if cursor is not None:
            self._cursor = max(cursor, self._cursor or 0)

    def _complain(self, frame: dict[str, Any]) -> None:
        refusal = f"{frame.get('code')}: {frame.get('detail')}"
        self._wait_seconds = (whole(frame.get("retry_after_ms")) or 0) / 1000
        if frame.get("id") != SUBSCRIPTION:
            _log.warning("the server reports %s", refusal)
        elif frame.get("retryable"):
            raise SocketClosedError(1000, refusal)
        else:
            raise WatchClosedError(1000, f"the subscription was refused: {refusal}")

    async def _react(self, closed: SocketClosedError) -> None:
        renewable = closed.code == REFUSED or reaction(closed.code) is Reaction.REFRESH
        if renewable and self._may_renew:
            # Once: a token that is refused right after it was issued will be refused for ever.
            self._may_renew = False
            if await self._http.renew_token(self._token):
                return
        if renewable or reaction(closed.code) is Reaction.STOP:
            raise WatchClosedError(closed.code, closed.reason)
        if closed.code == CANNOT_RESUME and self._cursor is not None:
            await self._take(decode_gap({"from": self._cursor, "reason": "cannot-resume"}))
            self._cursor = None

    async def _over_rest(self) -> bool:
        """Read the history for a minute; False when REST does not work either."""
        try:
            if self._cursor is None:
                self._cursor = await self._history.newest()
            _log.info("WebSockets are blocked: reading the history over REST")
            self.live.set()
            loop = asyncio.get_running_loop()
            end = loop.time() + SOCKET_AGAIN_SECONDS
            async for event in self._history.follow(self._cursor, lambda: loop.time() < end):
                self._cursor = event.seq
                await self._take(event)
        except AgentZeroError as error:
            if isinstance(error, ProblemError) and not _passes(error):
                raise
            _log.debug("no REST: %s", error)
            return False
        self._failed_handshakes = HANDSHAKES_BEFORE_REST - 1
        return True


def _passes(error: AgentZeroError) -> bool:
    """Tell whether trying again later can help."""
    return isinstance(error, ProblemError) and error.status in PASSING_STATUSES
