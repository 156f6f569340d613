"""Answers to what never became a request: bytes that no handler sees.

They look like every other refusal (problem, security headers, request identifier), are recorded as
calls that are no operation, and end the connection.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import NamedTuple

import structlog
from tornado.httputil import HTTPHeaders, format_timestamp

from hive.errors import HiveError
from server.access_log import write_access
from server.answers import encode_json, security_headers
from server.exchange import CLIENT_CHARACTERS, read_request_id
from server.pipeline import Call, Pipeline
from server.problems import PROBLEM_JSON, build_problem, status_of
from server.request_heads import Head

log = structlog.stdlib.get_logger(__name__)


class Peer(NamedTuple):
    """Who is at the other end of a connection, as the socket says."""

    address: str
    protocol: str


class Refusals:
    """Makes and records them."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def answer(self, error: HiveError, peer: Peer, head: Head | None, began: float) -> bytes:
        """The whole answer. `head` is None when it could not be read; `began` is monotonic."""
        call = self._describe(peer, head, began)
        error = self._record(call, error)
        problem = build_problem(error, instance=call.path, request_id=call.request_id)
        write_access(call, problem.status)
        body = encode_json(problem.members)
        fields = {
            **security_headers(self._scheme(peer, head)),
            **problem.headers,
            "Connection": "close",
            "Content-Type": PROBLEM_JSON,
            "Content-Length": str(len(body)),
            "Date": format_timestamp(time.time()),
            "Vary": "Origin",
            "X-Request-Id": call.request_id,
        }
        lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        encoded = "\r\n".join([*lines, "", ""]).encode("latin-1")
        return encoded if call.method == "HEAD" else encoded + body

    def _describe(self, peer: Peer, head: Head | None, began: float) -> Call:
        line, headers = head or (None, HTTPHeaders())
        parts = self._pipeline
        return Call(
            call_id=parts.new_call_id(),
            request_id=read_request_id(headers) or parts.new_request_id(),
            channel="rest",
            address=parts.addresses.resolve(peer.address, headers.get_list("X-Forwarded-For")),
            client=headers.get("User-Agent", "")[:CLIENT_CHARACTERS],
            method=line.method if line else "",
            path=line.path.partition("?")[0] if line else "",
            began=began,
        )

    def _record(self, call: Call, error: HiveError) -> HiveError:
        """What is answered in the end: the error, or that no record can be kept."""
        try:
            self._pipeline.audit.note(call, status_of(error), error.code)
        except HiveError as full:
            log.warning("request refused", reason=str(full), request_id=call.request_id)
            return full
        return error

    def _scheme(self, peer: Peer, head: Head | None) -> str:
        proto = head.headers.get_list("X-Forwarded-Proto") if head else []
        return self._pipeline.addresses.scheme(peer.address, peer.protocol, proto)
