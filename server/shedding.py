"""Turns requests away before anything is made of them, while the node is saturated.

A refusal has to cost a fraction of what it saves. So it is decided on the request's head, in front
of Tornado's handlers, and written in one piece: no authentication, no store, no record, no line in
the access log (`server.load` tells once a second how many there were). Whatever could need more is
let through to `RestHandler.serve`, which refuses it by the same rule: requests of pages (their
answer needs CORS), HTTP/1.0, and bodies that are not short.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Protocol

from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)

from hive.errors import HiveError
from server.answers import encode_json, security_headers
from server.load import Load, Overloaded
from server.operations import Operation
from server.problems import PROBLEM_JSON, build_problem
from server.routing import Routes

MAX_SKIPPED_BYTES = 64 * 1024
MAX_SHOWN = 512
SOCKETS = "/ws"
_DIGITS = 6


class Gate:
    """Decides on heads. Made once for an application."""

    def __init__(self, load: Load, routes: Routes, new_request_id: Callable[[], str]) -> None:
        self._load = load
        self._routes = routes
        self._new_request_id = new_request_id
        self._heads = {scheme: _head(security_headers(scheme)) for scheme in ("http", "https")}

    def refuse(self, line: RequestStartLine, headers: HTTPHeaders, scheme: str) -> bytes | None:
        """The whole answer to a request that is turned away; None lets it through."""
        if not self._load.is_saturated:
            return None
        path = line.path.partition("?")[0]
        if line.version != "HTTP/1.1" or not _is_short(headers) or _is_of_a_page(headers):
            return None
        if path == SOCKETS or path.startswith(f"{SOCKETS}/"):
            return None
        if not self._load.is_full(self._find(line.method, path)):
            return None
        return self._answer(self._load.refusal(), line, path, scheme)

    def _find(self, method: str, path: str) -> Operation | None:
        try:
            return self._routes.find(method, path)[0].operation
        except HiveError:
            return None

    def _answer(self, refusal: Overloaded, line: RequestStartLine, path: str, scheme: str) -> bytes:
        request_id = self._new_request_id()
        body = encode_json({**_describe(path[:MAX_SHOWN]), "request_id": request_id})
        head = (
            f"X-Request-Id: {request_id}\r\nRetry-After: {refusal.retry_after_seconds}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode("ascii")
        return self._heads[scheme] + head + (b"" if line.method == "HEAD" else body)


class _Serves(Protocol):
    """Makes what takes a request that is let through."""

    def __call__(self) -> HTTPMessageDelegate: ...


class Turnstile(HTTPMessageDelegate):
    """Takes one request: refuses it at once, or passes it on."""

    def __init__(self, gate: Gate, connection: HTTPConnection, serve: _Serves) -> None:
        self._gate = gate
        self._connection: Any = connection
        self._serve = serve
        self._inner: HTTPMessageDelegate | None = None
        self._refusal: bytes | None = None

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Any:
        """Decide."""
        if isinstance(start_line, RequestStartLine):
            scheme = getattr(self._connection.context, "protocol", "http")
            self._refusal = self._gate.refuse(start_line, headers, scheme)
        if self._refusal is None:
            self._inner = self._serve()
            return self._inner.headers_received(start_line, headers)
        return None

    def data_received(self, chunk: bytes) -> Any:
        """Skip the body of what was refused."""
        return None if self._inner is None else self._inner.data_received(chunk)

    def finish(self) -> None:
        """Answer; the connection stays open, for a new one would cost more than the request."""
        if self._inner is not None:
            self._inner.finish()
        elif self._refusal is not None:
            self._connection.write(self._refusal)
            self._connection.finish()

    def on_connection_close(self) -> None:
        """Pass it on."""
        if self._inner is not None:
            self._inner.on_connection_close()


@lru_cache(maxsize=1024)
def _describe(path: str) -> Mapping[str, Any]:
    """The problem; in a flood the paths are always the same ones."""
    refusal = Overloaded(retry_after_seconds=1)
    return build_problem(refusal, instance=path, request_id="").members


def _head(fields: Mapping[str, str]) -> bytes:
    status = HTTPStatus.SERVICE_UNAVAILABLE
    lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    lines += ["Vary: Origin", f"Content-Type: {PROBLEM_JSON}", ""]
    return "\r\n".join(lines).encode("ascii")


def _is_short(headers: HTTPHeaders) -> bool:
    if "Transfer-Encoding" in headers or "Expect" in headers:
        return False
    length = headers.get("Content-Length", "0")
    return (
        length.isascii()
        and length.isdecimal()
        and len(length) <= _DIGITS
        and int(length) <= MAX_SKIPPED_BYTES
    )


def _is_of_a_page(headers: HTTPHeaders) -> bool:
    return "Origin" in headers


__all__ = ["Gate", "Turnstile"]
