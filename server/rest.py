"""The way of a REST request. `RestHandler.serve` shows its order; nothing else decides.

Limits (docs/limits.md): a URL over 8 KiB is 414, more than 100 header fields 431, a body over the
limit 413 after it was drained. A body over 8 MiB is refused before it is read, and the connection
closed. Tornado itself ends a connection without a problem document only when the message is no HTTP
(400) or its headers exceed 16 KiB.
"""

from __future__ import annotations

import re
import time
from functools import cached_property
from http import HTTPStatus
from typing import Any

import structlog
from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders
from tornado.web import HTTPError, RequestHandler, stream_request_body

from handlers.context import Context, Reply
from hive.audit import holds_secret
from hive.errors import HiveError, InvalidToken, Unauthenticated
from hive.permissions import Principal
from server.answers import SECURITY_HEADERS, Answer, encode_json, make_answer
from server.binding import BoundOperation
from server.contract import JSON, ContractMismatch, Operation
from server.cookies import read_cookie
from server.logs import request_log
from server.origins import OriginNotAllowed
from server.parameters import parse_query
from server.pipeline import Call, Pipeline
from server.problems import (
    PROBLEM_JSON,
    ContentTooLarge,
    HeadersTooLarge,
    UnsupportedMediaType,
    UriTooLong,
    build_problem,
    status_of,
)
from server.routing import MovedToCanonical

MAX_URL_BYTES = 8 * 1024
MAX_HEADER_FIELDS = 100
MAX_DRAINED_BYTES = 8 * 1024 * 1024
_NO_LIMIT = 2**62
_MANY_DIGITS = 19
_CLIENT_CHARACTERS = 200
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]{1,8192}=*)")
_UTF8 = frozenset({"", "utf-8", "utf8", '"utf-8"'})

log = structlog.stdlib.get_logger("server.rest")
access_log = structlog.stdlib.get_logger("server.access")


@stream_request_body
class RestHandler(RequestHandler):
    """Serves every operation, and answers whatever is none."""

    pipeline: Pipeline

    def initialize(self, pipeline: Pipeline) -> None:
        """Take the pipeline."""
        self.pipeline = pipeline
        self._received: list[bytes] = []
        self._received_bytes = 0
        self._counted = False
        self._body = b""
        self._code: str | None = None
        self._is_recorded = False

    async def serve(self) -> None:
        """Limit, route, authenticate, permit, read, run, record, answer: the way of every request.

        The body has arrived before. A call whose record can't be kept is not run when it could
        change something.
        """
        parts = self.pipeline
        with request_log(self.request_id):
            try:
                self._check_limits()
                bound, path = self._route()
                operation = bound.operation
                principal = await self._authenticate(operation)
                principal = parts.authorization.permit(operation, principal, self.address)
                body = self._take_body()
                self.call.signed = await parts.signatures.check(
                    operation, principal, self.request, body
                )
                arguments = self._read_arguments(operation, path, body)
                await parts.audit.admit(self.call)
                result = await bound.call(self._context(principal), arguments)
                reply = result if isinstance(result, Reply) else Reply(result)
                self.call.learn(reply.principal, reply.headers)
                answer = make_answer(operation, reply)
                self._judge(answer)
            except Exception as error:  # noqa: BLE001 - here exceptions become answers
                answer = self._refuse(error)
            self._send(await self._recorded(answer))

    get = put = post = delete = patch = head = options = serve

    def prepare(self) -> None:
        """Settle who asks, before the body arrives; refuse a body that is not worth reading."""
        self.pipeline.running += 1
        self._counted = True
        request = self.request
        _ = self.call  # It begins now.
        # This class counts the body itself, so that it can answer with a problem.
        if isinstance(request.connection, HTTP1Connection):
            request.connection.set_max_body_size(_NO_LIMIT)
        expects = request.headers.get("Expect", "").lower() == "100-continue"
        most = self.pipeline.max_body_bytes if expects else MAX_DRAINED_BYTES
        if _declared_length(request.headers) > most:
            self._refuse_early(self._too_large())

    def data_received(self, chunk: bytes) -> None:
        """Keep the body up to the limit, drain it beyond, and hang up when it goes on and on."""
        self._received_bytes += len(chunk)
        if self._received_bytes <= self.pipeline.max_body_bytes:
            self._received.append(chunk)
        else:
            self._received.clear()
        if self._received_bytes > MAX_DRAINED_BYTES and not self._finished:
            self._refuse_early(self._too_large())

    def _check_limits(self) -> None:
        if len(self.request.uri or "") > MAX_URL_BYTES:
            raise UriTooLong(f"The URL is longer than {MAX_URL_BYTES} bytes.")
        if sum(1 for _ in self.request.headers.get_all()) > MAX_HEADER_FIELDS:
            raise HeadersTooLarge(f"The request has more than {MAX_HEADER_FIELDS} header fields.")
        if self._received_bytes > self.pipeline.max_body_bytes:
            raise self._too_large()

    def _route(self) -> tuple[BoundOperation, dict[str, str]]:
        request = self.request
        bound, path = self.pipeline.routes.find(request.method or "", request.path, request.query)
        self.call.operation = bound.operation
        return bound, path

    async def _authenticate(self, operation: Operation) -> Principal | None:
        if operation.public:
            return None
        self.call.principal = await self.pipeline.authenticator.authenticate(
            read_bearer(self.request.headers), self.address
        )
        return self.call.principal

    def _take_body(self) -> bytes:
        self._body = b"".join(self._received)
        self._received.clear()
        return self._body

    def _context(self, principal: Principal | None) -> Context:
        return Context(
            principal,
            self.request_id,
            self.address,
            self.pipeline.services,
            self.call.call_id,
            signed=self.call.signed,
        )

    def _read_arguments(
        self, operation: Operation, path: dict[str, str], body: bytes
    ) -> dict[str, Any]:
        request = self.request
        if body and operation.body is not None:
            _check_content_type(request.headers)
        try:
            query = parse_query(request.query)
        except ValueError as error:
            raise ContractMismatch(str(error)) from None
        headers = {
            one.name.lower(): request.headers.get_list(one.name)
            for one in operation.parameters
            if one.location == "header" and one.name in request.headers
        }
        cookies = self._read_cookies(operation)
        arguments = operation.read_parameters(path, query, headers, cookies)
        if body:
            arguments["body"] = operation.read_body(body)
        elif operation.body is not None:
            if operation.body.required:
                raise ContractMismatch("This operation needs a body.")
            arguments["body"] = None
        self.call.resource = next(iter(path.values()), None)
        return arguments

    def _read_cookies(self, operation: Operation) -> dict[str, list[str]]:
        """The cookies that the operation declares. Raise OriginNotAllowed when none may count."""
        lines = self.request.headers.get_list("Cookie")
        declared = [one.name for one in operation.parameters if one.location == "cookie"]
        found = {name: values for name in declared if (values := read_cookie(lines, name))}
        if found and not self.pipeline.origins.admit_cookie(self.request):
            raise OriginNotAllowed
        return found

    def _judge(self, answer: Answer) -> None:
        if self.pipeline.referee is not None:
            self.pipeline.referee.check_exchange(self, self._body, answer)

    def _refuse(self, error: BaseException) -> Answer:
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
        self._code = problem.members["code"]
        return Answer(status, problem.headers, encode_json(problem.members), PROBLEM_JSON)

    async def _recorded(self, answer: Answer) -> Answer:
        """The answer, once its record is as durable as it has to be; else that it is not."""
        if self._is_recorded:
            return answer
        self._is_recorded = True
        try:
            await self.pipeline.audit.record(self.call, answer.status, self._code)
        except Exception as error:  # noqa: BLE001 - here exceptions become answers
            return self._refuse(error)
        return answer

    def _refuse_early(self, error: BaseException) -> None:
        """Answer what does not come as far as `serve`; nothing was done, so nothing is awaited."""
        answer = self._refuse(error)
        if not self._is_recorded:
            self._is_recorded = True
            try:
                self.pipeline.audit.note(self.call, answer.status, self._code)
            except Exception as full:  # noqa: BLE001 - here exceptions become answers
                answer = self._refuse(full)
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        if self._finished:
            return
        self.set_status(answer.status)
        for name, value in answer.headers.items():
            self.set_header(name, value)
        if self.pipeline.draining or not self._has_arrived():
            # Tornado closes a connection on which it would have to skip a body; a client that kept
            # its connection would go on asking a node that wants to end.
            self.set_header("Connection", "close")
        if answer.content_type is not None:
            self.set_header("Content-Type", answer.content_type)
        if answer.body and self.request.method != "HEAD":
            self.write(answer.body)
        # A client that has gone is nobody's error: its exception is taken, so that nobody logs it.
        self.finish().add_done_callback(lambda sent: sent.cancelled() or sent.exception())

    def _too_large(self) -> ContentTooLarge:
        return ContentTooLarge(f"The body is larger than {self.pipeline.max_body_bytes} bytes.")

    @cached_property
    def request_id(self) -> str:
        """The client's `X-Request-Id` when it is sane, else a new identifier."""
        given = self.request.headers.get("X-Request-Id", "")
        is_sane = _REQUEST_ID.fullmatch(given) and not holds_secret(given)
        return given if is_sane else self.pipeline.new_request_id()

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
            client=self.request.headers.get("User-Agent", "")[:_CLIENT_CHARACTERS],
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
        """Name the request in the answer, then finish it."""
        self.set_header("X-Request-Id", self.request_id)
        return super().finish(chunk)

    def compute_etag(self) -> str | None:
        """No hash of the body: a version that the handler knows is the ETag."""
        return None

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer what Tornado itself refuses: methods that it does not know, and our faults."""
        error: BaseException = kwargs.get("exc_info", (None, HTTPError(status_code)))[1]
        if isinstance(error, HTTPError) and status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            try:
                self._route()
            except HiveError as refusal:
                error = refusal
        self._refuse_early(error)

    def log_exception(self, *_: Any) -> None:
        """`_refuse` logs."""

    def on_finish(self) -> None:
        """Count the request out and write its line in the access log."""
        self._count_out()
        access_log.info(
            "request",
            method=(self.request.method or "")[:32],
            # What stands in the places of parameters can be anything; identifiers are in the audit.
            path=self.call.operation.path if self.call.operation else self.request.path[:256],
            status=self.get_status(),
            operation=self.call.operation.operation_id if self.call.operation else None,
            principal=self.call.principal.principal_id if self.call.principal else None,
            address=self.address,
            duration_ms=round(1000 * (time.time() - self.request._start_time), 3),  # noqa: SLF001
            request_id=self.request_id,
        )

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


def read_bearer(headers: HTTPHeaders) -> str:
    """The credential in `Authorization` (RFC 6750). Raise Unauthenticated, InvalidToken."""
    given = headers.get_list("Authorization")
    if not given:
        raise Unauthenticated
    found = _BEARER.fullmatch(given[0])
    if len(given) > 1 or found is None:
        raise InvalidToken
    return found[1]


def _declared_length(headers: HTTPHeaders) -> int:
    """Content-Length; 0 when it is none, which Tornado then refuses itself."""
    declared = headers.get("Content-Length", "0")
    if not (declared.isascii() and declared.isdecimal()):
        return 0
    return int(declared) if len(declared) < _MANY_DIGITS else _NO_LIMIT


def _check_content_type(headers: HTTPHeaders) -> None:
    if headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType
    media_type, *parameters = headers.get("Content-Type", "").split(";")
    charsets = [
        p.partition("=")[2].strip().lower()
        for p in parameters
        if p.strip().lower().startswith("charset")
    ]
    if media_type.strip().lower() != JSON or not _UTF8.issuperset(charsets):
        raise UnsupportedMediaType


__all__ = ["RestHandler", "read_bearer"]
