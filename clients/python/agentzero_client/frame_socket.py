"""A WebSocket that carries JSON frames. Knows nothing of what they mean."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol

from agentzero_client.address import USER_AGENT, socket_url
from agentzero_client.close_codes import ABNORMAL
from agentzero_client.errors import AgentZeroError
from agentzero_client.json_codec import NotJsonError, decode, encode

SUBPROTOCOL = Subprotocol("agentzero.v1")
OPEN_SECONDS = 10.0
CLOSE_SECONDS = 2.0
PING_SECONDS = 20.0
LARGEST_FRAME = 16 << 20


class HandshakeFailedError(AgentZeroError):
    """No WebSocket came about: the server is away, or something between refuses to pass it on."""


class SocketClosedError(AgentZeroError):
    """The WebSocket is closed; `code` is 1006 when no close frame came."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"closed with {code}" + (f": {reason}" if reason else ""))
        self.code = code
        self.reason = reason


class FrameSocket:
    """One open connection. One reader at a time; any number of writers."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    @classmethod
    async def open(
        cls,
        base_url: str,
        path: str,
        *,
        token: str | None,
        query: dict[str, str] | None = None,
        trust_env: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> FrameSocket:
        """Connect within 10 s; raise HandshakeFailedError."""
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        try:
            connection = await connect(
                socket_url(base_url, path, query),
                additional_headers=headers,
                subprotocols=[SUBPROTOCOL],
                compression=None,
                user_agent_header=USER_AGENT,
                proxy=True if trust_env else None,
                ssl=tls if base_url.startswith("https") else None,
                open_timeout=OPEN_SECONDS,
                close_timeout=CLOSE_SECONDS,
                ping_interval=PING_SECONDS,
                ping_timeout=PING_SECONDS,
                max_size=LARGEST_FRAME,
            )
        except (OSError, TimeoutError, EOFError, WebSocketException) as error:
            raise HandshakeFailedError(str(error) or type(error).__name__) from error
        return cls(connection)

    async def send(self, frame: Mapping[str, Any]) -> None:
        """Send one frame; raise SocketClosedError, or NotJsonError before anything is sent."""
        await self.send_text(encode(frame).decode())

    async def send_text(self, text: str) -> None:
        """Send a frame that is encoded already; raise SocketClosedError."""
        try:
            await self._connection.send(text)
        except ConnectionClosed as closed:
            raise _closed(closed) from closed

    async def receive(self) -> dict[str, Any]:
        """Wait for the next frame that is a JSON object; raise SocketClosedError."""
        while True:
            try:
                text = await self._connection.recv()
            except ConnectionClosed as closed:
                raise _closed(closed) from closed
            try:
                frame = decode(text)
            except NotJsonError:
                continue
            if isinstance(frame, dict) and isinstance(frame.get("type"), str):
                return frame

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close within 2 s. Idempotent."""
        await self._connection.close(code, reason)


def _closed(closed: ConnectionClosed) -> SocketClosedError:
    if closed.rcvd is None:
        return SocketClosedError(ABNORMAL)
    return SocketClosedError(closed.rcvd.code, closed.rcvd.reason)
