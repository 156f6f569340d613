"""The bytes of a WebSocket over a stream of Tornado, with a bounded write buffer."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import structlog
from tornado.concurrent import Future
from tornado.iostream import StreamBufferFullError, StreamClosedError

from server.closing import shorten_reason
from server.websocket_protocol import StrictProtocol

CLOSE_FRAME_BYTES: Final = 256

log = structlog.get_logger(__name__)


class SocketTransport:
    """The port `server.peer.Transport` over a stream of Tornado, with a bounded write buffer."""

    def __init__(self, protocol: StrictProtocol, buffered_bytes: int) -> None:
        self._protocol = protocol
        self._limit = buffered_bytes
        self._waiting: deque[tuple[Future[None], int]] = deque()
        self._buffered = 0
        self._flushed = 0
        protocol.stream.max_write_buffer_size = buffered_bytes
        protocol.stream.set_nodelay(True)

    @property
    def buffered(self) -> int:
        """Bytes of frames that the system has not taken wholly."""
        self._settle()
        return self._buffered

    @property
    def flushed(self) -> int:
        """Bytes of frames that had to wait and were taken since."""
        self._settle()
        return self._flushed

    def write(self, frame: bytes) -> None:
        """Write one frame; above the bound the socket is dropped: no close frame would fit."""
        stream = self._protocol.stream
        if self._protocol.is_closing():
            return
        # An assignment may be larger than the bound; alone it may wait.
        alone = 0 if self.buffered else len(frame) + CLOSE_FRAME_BYTES
        stream.max_write_buffer_size = max(self._limit, alone)
        try:
            written = stream.write(frame)
        except StreamClosedError:
            return
        except StreamBufferFullError:
            log.warning("socket.overflow", buffered=self._buffered, frame=len(frame))
            stream.close()
            return
        if not written.done():
            self._waiting.append((written, len(frame)))
            self._buffered += len(frame)

    async def drained(self) -> None:
        """Wait for the last frame that was written so far."""
        self._settle()
        if self._waiting:
            await asyncio.wait({self._waiting[-1][0]})

    def close(self, code: int, reason: str) -> None:
        """Send the close frame; Tornado drops the socket 5 s later if the peer does not answer."""
        try:
            self._protocol.close(code, shorten_reason(reason))
        except StreamBufferFullError:
            self._protocol.stream.close()

    def _settle(self) -> None:
        while self._waiting and self._waiting[0][0].done():
            size = self._waiting.popleft()[1]
            self._buffered -= size
            self._flushed += size
