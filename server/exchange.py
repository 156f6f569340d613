"""One HTTP request from its first byte to its last: taking it in, answering, writing it down.

`server/rest.py` says what happens in between, `server/http1.py` what came before. Limits
(docs/limits.md): a URL over 8 KiB is 414, a body over the limit 413 after it was drained. A body
over 8 MiB is refused before it is read, and the connection closed.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from functools import cached_property
from http import HTTPStatus
from typing import Any

import structlog
from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler

from hive.audit import holds_secret
from hive.errors import HiveError
from server.access_log import write_access
from server.answers import SECURITY_HEADERS, STRICT_TRANSPORT, Answer, encode_json, join_fields
from server.cors import asks_first, vary_by_origin
from server.large_bodies import seconds_for
from server.pieces import cut_off, send_pieces
from server.pipeline import Call, Pipeline
from server.problems import (
    PROBLEM_JSON,
    ContentTooLarge,
    UriTooLong,
    build_problem,
    status_of,
)
from server.routing import MovedToCanonical

MAX_URL_BYTES = 8 * 1024
MAX_DRAINED_BYTES = 8 * 1024 * 1024
_NO_LIMIT = 2**62
_MANY_DIGITS = 19
CLIENT_CHARACTERS = 200
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = structlog.stdlib.get_logger("server.rest")


class Exchange(RequestHandler):
    """A request and its answer; `route`, and what runs in between, are the subclass's."""

    pipeline: Pipeline

    def initialize(self, pipeline: Pipeline) -> None:
        """Take the pipeline."""
        self.pipeline = pipeline
        self._received: list[bytes] = []
        self._received_bytes = 0
        self._limit = self._kept = pipeline.max_body_bytes
        self._reserved = 0
        self._unkept: HiveError | None = None
        self._counted = False
        self.body = b""
        self._is_recorded = False

    def route(self) -> Any:
        """Find the operation of the request. Raises what `Routes.find` raises."""
        raise NotImplementedError

    async def serve(self) -> None:
        """Take the request its way and answer it."""
        raise NotImplementedError

    async def room_for(self, size: int) -> int:
        """How large the body may be, when it is declared to be so large."""
        raise NotImplementedError

    def prepare(self) -> Awaitable[None] | None:
        """Settle who asks, before the body arrives; refuse a body that is not worth reading."""
        self.pipeline.running += 1
        self._counted = True
        request = self.request
        _ = self.call  # It begins now.
        # This class counts the body itself, so that it can answer with a problem.
        if isinstance(request.connection, HTTP1Connection):
            request.connection.set_max_body_size(_NO_LIMIT)
        declared = _declared_length(request.headers)
        return self._prepare_large(declared) if declared > self._limit else None

    async def _prepare_large(self, declared: int) -> None:
        """Keep a large body if there is a reason to and room for it.

        What is not kept is read all the same, so that the client hears why; unless it waits for
        leave to send it, or it is too large even for that.
        """
        expects = self.request.headers.get("Expect", "").lower() == "100-continue"
        most = self.pipeline.max_body_bytes if expects else MAX_DRAINED_BYTES
        try:
            self._limit = await self.room_for(declared)
        except HiveError as error:
            self._unkept, self._limit = error, declared
            if declared > most:
                self._refuse_early(await self.pipeline.limits.charge_failure(self.call, error))
            return
        if declared > max(most, self._limit):
            self._refuse_early(self._too_large())

    def reserve(self, size: int) -> None:
        """Keep a body of this size, and give it the time that it needs. Raises Overloaded."""
        self.pipeline.large_bodies.reserve(size)
        self._reserved = self._kept = size
        if isinstance(self.request.connection, HTTP1Connection):
            self.request.connection.set_body_timeout(seconds_for(size))

    def data_received(self, chunk: bytes) -> None:
        """Keep the body up to the limit, drain it beyond, and hang up when it goes on and on."""
        self._received_bytes += len(chunk)
        if self._received_bytes <= self._kept:
            self._received.append(chunk)
        else:
            self._received.clear()
        most = max(MAX_DRAINED_BYTES, self._kept)
        if self._received_bytes > most and not self._finished:
            self._refuse_early(self._too_large())

    def check_limits(self) -> None:
        """Raise UriTooLong, ContentTooLarge."""
        if len(self.request.uri or "") > MAX_URL_BYTES:
            raise UriTooLong(f"The URL is longer than {MAX_URL_BYTES} bytes.")
        if self._received_bytes > self._limit:
            raise self._too_large()

    async def take_body(self) -> bytes:
        """The whole body, as it came; a large one when it is its turn. Raises what kept it out."""
        if self._unkept is not None:
            raise self._unkept
        await self.pipeline.turns.wait(self._received_bytes)
        self.body = b"".join(self._received)
        self._received.clear()
        return self.body

    def refuse(self, error: BaseException) -> Answer:
        """Turn any exception into an answer; log what the client must not know."""
        if isinstance(error, MovedToCanonical):
            return Answer(307, {"Location": error.location}, b"", None)
        status = status_of(error)
        if not isinstance(error, HiveError):
            log.error("request failed", exc_info=error, request_id=self.request_id)
        elif status == HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("request refused", reason=str(error), request_id=self.request_id)
        elif status > HTTPStatus.INTERNAL_SERVER_ERROR:
            log.warning("request refused", reason=str(error), request_id=self.request_id)
        problem = build_problem(error, instance=self.request.path, request_id=self.request_id)
        body, code = encode_json(problem.members), problem.members["code"]
        return Answer(status, problem.headers, body, PROBLEM_JSON, code)

    async def options(self) -> None:
        """Answer a preflight, which needs no credential; any other goes the way of requests."""
        if not asks_first(self.request):
            await self.serve()
            return
        try:
            self.check_limits()
            await self.pipeline.limits.charge_address(self.call)
            answer = self.pipeline.cors.preflight(self.request)
        except Exception as error:  # noqa: BLE001 - here exceptions become answers
            answer = self.refuse(error)
        self.send(answer)

    async def recorded(self, answer: Answer) -> Answer:
        """The answer, once its record is as durable as it has to be; else that it is not."""
        if self._is_recorded:
            return answer
        self._is_recorded = True
        try:
            await self.pipeline.audit.record(self.call, answer.status, answer.code)
        except Exception as error:  # noqa: BLE001 - here exceptions become answers
            return self.refuse(error)
        return answer

    def _refuse_early(self, error: BaseException) -> None:
        """Answer what does not come as far as `serve`; nothing was done, so nothing is awaited."""
        answer = self.refuse(error)
        if not self._is_recorded:
            self._is_recorded = True
            try:
                self.pipeline.audit.note(self.call, answer.status, answer.code)
            except Exception as full:  # noqa: BLE001 - here exceptions become answers
                answer = self.refuse(full)
        self.send(answer)

    async def send_all(self, answer: Answer) -> None:
        """Send it; what comes in pieces as fast as the client takes them, one at a time."""
        if answer.pieces is None or self.request.method == "HEAD" or self._finished:
            self.send(answer)
            return
        self._begin(answer)
        self._put_common_headers()
        try:
            await send_pieces(self, answer.pieces)
        except StreamClosedError:
            pass
        except Exception as error:  # noqa: BLE001 - the answer has begun: it can only be cut off
            log.warning("answer cut off", reason=str(error), request_id=self.request_id)
            cut_off(self)
        self.finish().add_done_callback(lambda sent: sent.cancelled() or sent.exception())

    def send(self, answer: Answer) -> None:
        """Send it, with what the parts of the pipeline want to have on every answer."""
        if self._finished:
            return
        self._begin(answer)
        if answer.body:
            # Tornado leaves it out of the answer to HEAD, which says how long it would be.
            self.write(answer.body)
        # A client that has gone is nobody's error: its exception is taken, so that nobody logs it.
        self.finish().add_done_callback(lambda sent: sent.cancelled() or sent.exception())

    def _begin(self, answer: Answer) -> None:
        """Status and headers."""
        self.set_status(answer.status)
        for name, value in join_fields(self.call.headers, answer.headers).items():
            self.set_header(name, value)
        if self.pipeline.draining or not self._has_arrived():
            # Tornado closes a connection on which it would have to skip a body; a client that kept
            # its connection would go on asking a node that wants to end.
            self.set_header("Connection", "close")
        if answer.content_type is not None:
            self.set_header("Content-Type", answer.content_type)
        if answer.pieces is not None:
            self.set_header("Content-Length", str(answer.pieces.size))

    def _too_large(self) -> ContentTooLarge:
        return ContentTooLarge(f"The body is larger than {self._limit} bytes.")

    @cached_property
    def request_id(self) -> str:
        """The client's `X-Request-Id` when it is sane, else a new identifier."""
        return read_request_id(self.request.headers) or self.pipeline.new_request_id()

    @cached_property
    def address(self) -> str:
        """The client's address."""
        return self.pipeline.addresses.resolve(
            self.request.remote_ip or "", self.request.headers.get_list("X-Forwarded-For")
        )

    @cached_property
    def call(self) -> Call:
        """This call, as the audit log will have it."""
        return Call(
            call_id=self.pipeline.new_call_id(),
            request_id=self.request_id,
            channel="rest",
            address=self.address,
            client=self.request.headers.get("User-Agent", "")[:CLIENT_CHARACTERS],
            method=self.request.method or "",
            path=self.request.path,
        )

    def set_default_headers(self) -> None:
        """Put the headers on that every answer has; Tornado calls it for each error again."""
        self.clear_header("Server")
        self.clear_header("Content-Type")
        for name, value in SECURITY_HEADERS.items():
            self.set_header(name, value)

    def finish(self, chunk: str | bytes | dict[Any, Any] | None = None) -> Any:
        """Put on what depends on the request, whoever made the answer, then finish it."""
        self._put_common_headers()
        return super().finish(chunk)

    def _put_common_headers(self) -> None:
        self.set_header("X-Request-Id", self.request_id)
        parts = self.pipeline
        if parts.origins.scheme(self.request) == "https":
            self.set_header(*STRICT_TRANSPORT)
        for name, value in parts.cors.headers(self.request).items():
            self.set_header(name, value)
        self.set_header("Vary", vary_by_origin(self._headers.get("Vary")))

    def compute_etag(self) -> str | None:
        """None: `server/conditional.py` makes it."""
        return None

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer what Tornado itself refuses: methods that it does not know, and our faults."""
        error: BaseException = kwargs.get("exc_info", (None, HTTPError(status_code)))[1]
        if isinstance(error, HTTPError) and status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            try:
                self.route()
            except HiveError as refusal:
                error = refusal
        self._refuse_early(error)

    def log_exception(self, *_: Any) -> None:
        """`refuse` logs."""

    def on_finish(self) -> None:
        """Count the request out and write its line in the access log."""
        self._count_out()
        self.pipeline.load.leave(self.call)
        self.pipeline.versions.note(self.call)
        write_access(self.call, self.get_status())

    def on_connection_close(self) -> None:
        """A request whose client has gone runs to its end: what it does is not left half done."""
        never_came = not self._has_arrived()
        super().on_connection_close()
        if never_came:
            self._count_out()

    def _has_arrived(self) -> bool:
        """Whether the request was read to its end; Tornado has no public way to ask."""
        return self.request._body_future.done()  # noqa: SLF001

    def _count_out(self) -> None:
        if self._counted:
            self._counted = False
            self.pipeline.running -= 1
        self.pipeline.large_bodies.give_back(self._reserved)
        self._reserved = 0


def read_request_id(headers: HTTPHeaders) -> str | None:
    """The client's `X-Request-Id` when it is sane: short, plain and no secret."""
    given = headers.get("X-Request-Id", "")
    return given if _REQUEST_ID.fullmatch(given) and not holds_secret(given) else None


def _declared_length(headers: HTTPHeaders) -> int:
    """Content-Length; 0 when it is none, which Tornado then refuses itself."""
    declared = headers.get("Content-Length", "0")
    if not (declared.isascii() and declared.isdecimal()):
        return 0
    return int(declared) if len(declared) < _MANY_DIGITS else _NO_LIMIT
