"""HTTP/1 as Tornado has it, and strict: whatever it cuts off without a word is answered here.

The way of a connection:
1. It is counted in (`server/connection_counts.py`), or closed when there is no room.
2. Its first head arrives within `HEADER_SECONDS` of the connection; a later one within so long of
   its first byte, and that within `KEEP_ALIVE_SECONDS` of the last answer.
3. The head is read (`server/request_heads.py`), then the body within `BODY_SECONDS`.
4. What breaks a rule is answered with a problem (`server/refusals.py`), and the connection ends:
   behind bytes that were misunderstood no next request can be found (RFC 9112, section 6.3).
5. The answer is taken by the client within `ANSWER_SECONDS`, or the connection is cut.

A connection that ends while the client still sends is closed in two steps (RFC 9112, section 9.6):
first our half, then, after what comes was thrown away for a moment, the whole. Otherwise the system
would answer the late bytes with a reset, and the reset can overtake the answer.
"""

from __future__ import annotations

import asyncio
import re
import select
import socket
import time
from asyncio import Future
from contextlib import suppress
from typing import Any, Final

from tornado.http1connection import (
    HTTP1Connection,
    HTTP1ConnectionParameters,
    HTTP1ServerConnection,
    _ExceptionLoggingContext,
)
from tornado.httpserver import HTTPServer, _HTTPRequestContext
from tornado.httputil import (
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
)
from tornado.iostream import IOStream, SSLIOStream, StreamClosedError, UnsatisfiableReadError
from tornado.log import app_log

from hive.errors import HiveError
from server.connection_counts import ConnectionCounts
from server.problems import ContentTooLarge, MalformedRequest, RequestTimeout
from server.refusals import Peer, Refusals
from server.request_heads import MAX_HEADER_BYTES, Head, find_start_line, read_head

KEEP_ALIVE_SECONDS: Final = 75.0
"""Longer than the 60 s for which proxies keep their connections to us."""
HEAR_POLL_SECONDS: Final = 0.02
ANSWER_SECONDS: Final = 60.0
LINGER_SECONDS: Final = 1.0
LINGER_BYTES: Final = 8 * 1024 * 1024
MAX_CHUNK_LINE: Final = 64

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# Up to the empty line, or one byte more than there may be; the first byte was read before.
_HEAD = rb"(?s)\A.{0,%d}?\r?\n\r?\n|\A.{%d}" % (MAX_HEADER_BYTES - 1, MAX_HEADER_BYTES)
_CHUNK_LINE = rb"(?s)\A[^\n]{0,%d}\n|\A.{%d}" % (MAX_CHUNK_LINE - 1, MAX_CHUNK_LINE)
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}\r\n")
# Every chunk costs as much as so many bytes; after so much work others get their turn.
_CHUNK_COST = 1024
_TURN = 256 * 1024


class StrictConnection(HTTP1Connection):
    """One request of a connection, and its answer."""

    def __init__(
        self,
        stream: IOStream,
        params: HTTP1ConnectionParameters,
        context: Any,
        refusals: Refusals | None,
        head_due: float | None,
    ) -> None:
        """`head_due`, on the loop's clock, is set for the first request of a connection."""
        super().__init__(stream, False, params, context)  # noqa: FBT003 - Tornado's own
        self._refusals = refusals
        self._peer = Peer(context.remote_ip, context.protocol)
        self._head_due = head_due
        self._head: Head | None = None
        self._began = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._skipped = self._work = 0

    async def _read_message_inner(self, delegate: HTTPMessageDelegate, num_1xx: int = 0) -> bool:
        """Serve one request; whether another may follow on the connection."""
        del num_1xx
        open_delegate: HTTPMessageDelegate | None = None
        try:
            line, headers = self._read_head(await self._receive_head())
            self._request_start_line, self._request_headers = line, headers
            self._disconnect_on_finish = not self._can_keep_alive(line, headers)
            open_delegate = delegate
            await self._announce(delegate, line, headers)
            if self._is_detached():
                open_delegate = None
                return False
            await self._receive_body(delegate, headers)
            self._read_finished = True
            if not self._write_finished:
                with _ExceptionLoggingContext(app_log):
                    delegate.finish()
                open_delegate = None
            await self._await_answer()
        except HTTPInputError:
            await self._refuse(MalformedRequest())
            return False
        except HiveError as error:
            await self._refuse(error)
            return False
        finally:
            if open_delegate is not None:
                with _ExceptionLoggingContext(app_log):
                    open_delegate.on_connection_close()
            self._clear_callbacks()
        if self._is_detached():
            return False
        if self._disconnect_on_finish:
            self.close()
            return False
        return True

    def _read_head(self, encoded: bytes) -> Head:
        try:
            self._head = read_head(encoded)
        except HiveError:
            line = find_start_line(encoded)
            self._head = Head(line, HTTPHeaders()) if line else None
            raise
        return self._head

    async def _receive_head(self) -> bytes:
        """The bytes of the head. Raises RequestTimeout; StreamClosedError when none begins."""
        due = self._head_due
        first = await self._receive_first(due or self._loop.time() + KEEP_ALIVE_SECONDS)
        self._began = time.monotonic()
        if due is None:
            due = self._loop.time() + (self.params.header_timeout or KEEP_ALIVE_SECONDS)
        rest: bytes = await self._in_time(self.stream.read_until_regex(_HEAD), due)
        return first + rest

    async def _receive_first(self, due: float) -> bytes:
        """The first byte; who says nothing is told nothing."""
        reading = self.stream.read_bytes(1, partial=True)
        if isinstance(reading, Future) and reading.done():
            first: bytes = reading.result()
            return first
        closing = self._loop.call_at(due, self._close_unless, reading)
        try:
            return await reading
        finally:
            closing.cancel()

    def _close_unless(self, reading: Any) -> None:
        # A byte that came in the last moment begins a request, and that is answered.
        if not reading.done():
            self.stream.close()

    async def _in_time(self, reading: Any, due: float) -> Any:
        if isinstance(reading, Future) and reading.done():
            return reading.result()
        try:
            async with asyncio.timeout_at(due):
                return await reading
        except TimeoutError:
            raise RequestTimeout from None

    async def _announce(
        self, delegate: HTTPMessageDelegate, line: RequestStartLine, headers: HTTPHeaders
    ) -> None:
        with _ExceptionLoggingContext(app_log):
            taken = delegate.headers_received(line, headers)
            if taken is not None:
                await taken
        if self._is_detached() or self._write_finished or line.version == "HTTP/1.0":
            return
        if headers.get("Expect", "").lower() == "100-continue":
            await self.stream.write(_CONTINUE)

    async def _receive_body(self, delegate: HTTPMessageDelegate, headers: HTTPHeaders) -> None:
        """Raises RequestTimeout, MalformedRequest, ContentTooLarge."""
        length = headers.get("Content-Length")
        if length is not None and int(length) > self._max_body_size:
            raise ContentTooLarge(f"The body is larger than {self._max_body_size} bytes.")
        reading = self._read_body(0, headers, delegate)
        if reading is not None:
            seconds = self._body_timeout or KEEP_ALIVE_SECONDS
            await self._in_time(reading, self._loop.time() + seconds)

    async def _deliver_body(self, delegate: HTTPMessageDelegate, data: bytes) -> None:
        """Hand it on; what comes behind the answer is skipped, up to a bound."""
        if self._write_finished:
            self._skipped += len(data)
            if self._skipped > LINGER_BYTES:
                self.close()
            return
        await super()._deliver_body(delegate, data)

    async def _read_chunked_body(self, delegate: HTTPMessageDelegate) -> None:
        """Read chunks without extensions and trailers; small ones are handed on together."""
        gathered = bytearray()
        total = 0
        while size := await self._receive_chunk_size():
            total += size
            if total > self._max_body_size:
                raise ContentTooLarge(f"The body is larger than {self._max_body_size} bytes.")
            while size:
                some = await self.stream.read_bytes(min(size, self.params.chunk_size), partial=True)
                size -= len(some)
                gathered += some
                if len(gathered) >= self.params.chunk_size:
                    await self._deliver_body(delegate, bytes(gathered))
                    gathered.clear()
                await self._let_others(len(some))
            if await self.stream.read_bytes(2) != b"\r\n":
                raise MalformedRequest("A chunk is longer than it says.")
            await self._let_others(_CHUNK_COST)
        if await self.stream.read_bytes(2) != b"\r\n":
            raise MalformedRequest("Nothing may follow the last chunk.")
        if gathered:
            await self._deliver_body(delegate, bytes(gathered))

    async def _let_others(self, cost: int) -> None:
        # What has arrived is read without a pause, however fast it comes.
        self._work += cost
        if self._work >= _TURN:
            self._work = 0
            await asyncio.sleep(0)

    async def _receive_chunk_size(self) -> int:
        line = await self.stream.read_until_regex(_CHUNK_LINE)
        if not _CHUNK_SIZE.fullmatch(line):
            raise MalformedRequest("The size of a chunk is a hexadecimal number and nothing else.")
        return int(line, 16)

    def _is_detached(self) -> bool:
        """Whether a WebSocket took the stream; Tornado's annotation does not know."""
        stream: IOStream | None = self.stream
        return stream is None

    async def _await_answer(self) -> None:
        if self._finish_future.done() or self._is_detached() or self.stream.closed():
            return
        self.stream.set_close_callback(self._on_connection_close)
        await self._finish_future

    async def _refuse(self, error: HiveError) -> None:
        """Answer unless something was answered already; then end the connection."""
        if self._response_start_line is None and not self._write_finished and self._refusals:
            answer = self._refusals.answer(error, self._peer, self._head, self._began)
            with suppress(StreamClosedError):
                async with asyncio.timeout(LINGER_SECONDS):
                    await self.stream.write(answer)
        await self._linger()
        self.close()

    async def _linger(self) -> None:
        """Shut our half, and throw away what still comes, for a moment."""
        _shut(self.stream)
        left = LINGER_BYTES
        with suppress(TimeoutError, StreamClosedError):
            async with asyncio.timeout(LINGER_SECONDS):
                while left > 0:
                    left -= len(await self.stream.read_bytes(self.params.chunk_size, partial=True))

    def finish(self) -> None:
        """End the answer; a client that does not take it is cut off."""
        super().finish()
        if not self._finish_future.done() and self._pending_write is not None:
            cut = self._loop.call_later(ANSWER_SECONDS, self.close)
            self._finish_future.add_done_callback(lambda _: cut.cancel())

    def _finish_request(self, future: Future[None] | None) -> None:
        """Close; but while the body still comes, shut our half only, and let it come a moment."""
        if self._read_finished or not self._disconnect_on_finish or self.stream.closed():
            super()._finish_request(future)
            return
        self._clear_callbacks()
        _shut(self.stream)
        self._loop.call_later(LINGER_SECONDS, self.close)
        if not self._finish_future.done():
            self._finish_future.set_result(None)


def _shut(stream: IOStream) -> None:
    # TLS has no half that could be shut.
    if not isinstance(stream, SSLIOStream) and not stream.closed() and not stream.writing():
        with suppress(OSError):
            stream.socket.shutdown(socket.SHUT_WR)


class StrictServerConnection(HTTP1ServerConnection):
    """A connection: one request after the other."""

    def __init__(
        self,
        stream: IOStream,
        params: HTTP1ConnectionParameters,
        context: Any,
        refusals: Refusals | None,
    ) -> None:
        super().__init__(stream, params, context)
        self._refusals = refusals

    async def _server_request_loop(self, delegate: HTTPServerConnectionDelegate) -> None:
        seconds = self.params.header_timeout or KEEP_ALIVE_SECONDS
        head_due: float | None = asyncio.get_running_loop().time() + seconds
        try:
            while True:
                connection = StrictConnection(
                    self.stream, self.params, self.context, self._refusals, head_due
                )
                head_due = None
                request = delegate.start_request(self, connection)
                if not await connection.read_response(request):
                    return
                await asyncio.sleep(0)
        except (StreamClosedError, UnsatisfiableReadError, asyncio.CancelledError):
            return
        except Exception:  # noqa: BLE001 - here exceptions end a connection
            app_log.exception("Uncaught exception")
            self.stream.close()
        finally:
            delegate.on_close(self)


class StrictServer(HTTPServer):
    """Takes connections as long as there is room for them."""

    # Tornado's signature, with what this server needs besides.
    def initialize(  # type: ignore[override]
        self,
        request_callback: Any,
        *,
        refusals: Refusals | None,
        counts: ConnectionCounts,
        **options: Any,
    ) -> None:
        """Take the parts; `options` are Tornado's."""
        super().initialize(request_callback, **options)
        self._refusals = refusals
        self.counts = counts

    def stop(self) -> None:
        """Take the connections that wait, then listen no longer: closing would reset them."""
        if not self._stopped:
            for waiting in self._sockets.values():
                self._take_all(waiting)
        super().stop()

    async def hear_out(self, seconds: float) -> None:
        """Wait until no connection is open, but so long at most.

        What a proxy sends to one that it believes open would be reset, and not be sent elsewhere.
        """
        due = time.monotonic() + seconds
        while self._connections and time.monotonic() < due:  # noqa: ASYNC110 - a set
            await asyncio.sleep(HEAR_POLL_SECONDS)

    def has_unread(self) -> bool:
        """Whether something has come that nobody has read yet."""
        waiting = select.poll()
        for stream in (one.stream for one in self._connections if not one.stream.closed()):
            waiting.register(stream.fileno(), select.POLLIN)
        return any(events & select.POLLIN for _, events in waiting.poll(0))

    def _take_all(self, listening: socket.socket) -> None:
        # It ends with BlockingIOError.
        with suppress(OSError):
            while True:
                self._handle_connection(*listening.accept())

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Serve one connection, or close it."""
        context = _HTTPRequestContext(stream, address, self.protocol, self.trusted_downstream)
        if not self.counts.enter(context.remote_ip):
            stream.close()
            return
        self._count_out_with(stream, context.remote_ip)
        connection = StrictServerConnection(stream, self.conn_params, context, self._refusals)
        self._connections.add(connection)
        connection.start_serving(self)

    def _count_out_with(self, stream: IOStream, address: str) -> None:
        # A WebSocket outlives the connection object that served its handshake: the stream's end
        # counts, and this is what a stream calls once, whoever closes it.
        close_fd = stream.close_fd

        def close() -> None:
            del stream.close_fd
            self.counts.leave(address)
            close_fd()

        stream.close_fd = close  # type: ignore[method-assign]
