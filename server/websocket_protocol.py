"""RFC 6455 as Tornado has it, and strict: whatever is illegal is answered with a close code.

Tornado drops the connection without one for most violations, echoes illegal close codes, and closes
before a client can read why. Here the close frame is sent, then our half of the connection is shut,
and what still comes is thrown away for a moment.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Any, Final, Protocol

from tornado.concurrent import Future
from tornado.iostream import SSLIOStream, StreamBufferFullError, StreamClosedError
from tornado.util import _websocket_mask
from tornado.websocket import WebSocketProtocol13

from server.allowance import Allowance
from server.closing import CloseCode, Disconnect, shorten_reason

LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 16 * 1024 * 1024
WIRE_FRAMES_PER_SECOND: Final = 2_000.0
WIRE_FRAMES_BURST: Final = 4_000
"""Frames of any kind, fragments and pings included; what they carry has bounds of its own."""

_TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x1, 0x2, 0x8, 0x9, 0xA
_OPCODES = frozenset({0x0, _TEXT, _BINARY, _CLOSE, _PING, _PONG})
_MAX_CONTROL = 125
_RECEIVED_CODES = (
    frozenset(range(1000, 1004)) | frozenset(range(1007, 1015)) | frozenset(range(3000, 5000))
)


class TextHandler(Protocol):
    """What the protocol calls with the UTF-8 bytes of a text message."""

    async def on_text(self, encoded: bytes) -> None:
        """Take one message."""


class StrictProtocol(WebSocketProtocol13):
    """The server's end of one WebSocket."""

    def __init__(self, handler: Any, params: Any) -> None:
        super().__init__(handler, mask_outgoing=False, params=params)
        self._texts: TextHandler = handler
        self._fragments: bytearray | None = None
        self._fragments_opcode = 0
        self._clock = asyncio.get_running_loop().time
        self._allowance = Allowance(WIRE_FRAMES_PER_SECOND, WIRE_FRAMES_BURST, self._clock())

    async def _receive_frame(self) -> None:
        try:
            await self._receive_legal_frame()
        except Disconnect as violation:
            await self.violate(violation.code, violation.reason)

    async def violate(self, code: CloseCode, reason: str) -> None:
        """Close with the code and make sure that it can be read."""
        try:
            self.close(code, shorten_reason(reason))
        except StreamBufferFullError:
            self.stream.close()
        stream = self.stream
        if not isinstance(stream, SSLIOStream) and not stream.closed() and not stream.writing():
            with suppress(OSError):
                stream.socket.shutdown(socket.SHUT_WR)
        with suppress(TimeoutError, StreamClosedError):
            async with asyncio.timeout(LINGER_SECONDS):
                dropped = 0
                while dropped < LINGER_BYTES:
                    dropped += len(await stream.read_bytes(65_536, partial=True))
        self._abort()

    async def _receive_legal_frame(self) -> None:
        first, second = await self._read_bytes(2)
        if not self._allowance.take(self._clock()):
            raise Disconnect(CloseCode.CREDENTIALS_REFUSED, "far too many frames")
        opcode, is_final = first & self.OPCODE_MASK, bool(first & self.FIN)
        size = second & 0x7F
        _check_header(first, second, self.RSV_MASK, self._fragments is not None)
        if size == 126:  # noqa: PLR2004 - RFC 6455, section 5.2
            (size,) = struct.unpack("!H", await self._read_bytes(2))
        elif size == 127:  # noqa: PLR2004
            (size,) = struct.unpack("!Q", await self._read_bytes(8))
        if opcode < _CLOSE and size + len(self._fragments or b"") > self.params.max_message_size:
            raise Disconnect(CloseCode.TOO_LARGE, f"over {self.params.max_message_size} bytes")
        mask = await self._read_bytes(4)
        data = _websocket_mask(mask, await self._read_bytes(size))
        if opcode < _CLOSE:
            whole = self._assemble(opcode, data, is_final=is_final)
            if whole is None:
                return
            opcode, data = whole
        handled = self._handle_message(opcode, data)
        if handled is not None:
            await handled

    def _assemble(self, opcode: int, data: bytes, *, is_final: bool) -> tuple[int, bytes] | None:
        if opcode:
            if is_final:
                return opcode, data
            self._fragments, self._fragments_opcode = bytearray(data), opcode
            return None
        fragments = self._fragments
        if fragments is None:
            raise AssertionError("a continuation was let through")
        fragments += data
        if not is_final:
            return None
        self._fragments = None
        return self._fragments_opcode, bytes(fragments)

    def _handle_message(self, opcode: int, data: bytes) -> Future[None] | None:
        if self.client_terminated:
            return None
        if opcode == _CLOSE:
            _check_close(data)
        elif opcode == _TEXT:
            _check_utf8(data)
            # The bytes go on as they are: JSON is decoded from bytes.
            return self._run_callback(self._texts.on_text, data)
        return super()._handle_message(opcode, data)


def _check_header(first: int, second: int, reserved: int, is_fragmented: bool) -> None:  # noqa: FBT001
    opcode, is_final = first & 0x0F, bool(first & 0x80)
    problem = None
    if first & reserved:
        problem = "reserved bits are set"
    elif opcode not in _OPCODES:
        problem = "unknown opcode"
    elif not second & 0x80:
        problem = "a frame is not masked"
    elif opcode >= _CLOSE and (not is_final or second & 0x7F > _MAX_CONTROL):
        problem = "a control frame is fragmented or too long"
    elif opcode == 0 and not is_fragmented:
        problem = "a continuation of nothing"
    elif opcode in {_TEXT, _BINARY} and is_fragmented:
        problem = "a message inside of another"
    if problem is not None:
        raise Disconnect(CloseCode.PROTOCOL_ERROR, problem)


def _check_close(data: bytes) -> None:
    if not data:
        return
    if len(data) == 1 or struct.unpack(">H", data[:2])[0] not in _RECEIVED_CODES:
        raise Disconnect(CloseCode.PROTOCOL_ERROR, "illegal close code")
    _check_utf8(data[2:])


def _check_utf8(data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError:
        raise Disconnect(CloseCode.NOT_UTF8, "not UTF-8") from None
