"""Heads of HTTP/1 requests, read strictly (RFC 9112): one head, one meaning, or it is refused.

Tornado refuses most of what is ambiguous. What it accepts and others read differently is refused
here: lines that end with a bare LF, Content-Length twice (even the same), Transfer-Encoding in
HTTP/1.0, versions that don't exist, a target that is neither a path nor a whole URL.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from tornado.httputil import (
    HTTPHeaders,
    HTTPInputError,
    RequestStartLine,
    parse_request_start_line,
)

from server.problems import HeadersTooLarge, MalformedRequest, UriTooLong

MAX_HEADER_BYTES = 16 * 1024
MAX_HEADER_FIELDS = 100
_VERSIONS = frozenset({"HTTP/1.0", "HTTP/1.1"})
_LENGTH = re.compile(r"[0-9]{1,4000}")
_AUTHORITY = r"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2}){1,255}+|\[[0-9A-Fa-f:.]{2,45}\]"
_WHOLE_URL = re.compile(rf"[Hh][Tt][Tt][Pp][Ss]?://((?:{_AUTHORITY})(?::[0-9]{{0,5}})?)([/?].*)?")


class Head(NamedTuple):
    """A request without its body."""

    start_line: RequestStartLine
    headers: HTTPHeaders


def read_head(encoded: bytes) -> Head:
    """Read what ends with an empty line.

    One empty line may stand before it (RFC 9112, section 2.2). A whole URL as the target becomes
    its path, and its authority takes the place of Host (section 3.2.2). Raises MalformedRequest,
    HeadersTooLarge, UriTooLong.
    """
    encoded = encoded.removeprefix(b"\r\n")
    ends = encoded.count(b"\r\n")
    if len(encoded) > MAX_HEADER_BYTES:
        if b"\n" not in encoded:
            raise UriTooLong(f"The request line is longer than {MAX_HEADER_BYTES} bytes.")
        raise HeadersTooLarge(f"The headers are longer than {MAX_HEADER_BYTES} bytes.")
    if encoded.count(b"\n") != ends or encoded.count(b"\r") != ends:
        raise MalformedRequest("Lines end with CR LF.")
    # The first line and the empty one are no fields.
    if ends - 2 > MAX_HEADER_FIELDS:
        raise HeadersTooLarge(f"The request has more than {MAX_HEADER_FIELDS} header fields.")
    first, _, fields = encoded.decode("latin-1").partition("\r\n")
    try:
        start_line = parse_request_start_line(first)
        headers = HTTPHeaders.parse(fields)
    except HTTPInputError as error:
        raise MalformedRequest(_reason(error)) from None
    if start_line.version not in _VERSIONS:
        raise MalformedRequest("This server speaks HTTP/1.1 and HTTP/1.0.")
    _check_framing(start_line, headers)
    _check_host(start_line, headers)
    return Head(_with_path(start_line, headers), headers)


def find_start_line(encoded: bytes) -> RequestStartLine | None:
    """The first line of a head that was refused, when it at least is one: who asked for what."""
    first, end, _ = encoded.removeprefix(b"\r\n").partition(b"\r\n")
    try:
        return parse_request_start_line(first.decode("latin-1")) if end else None
    except HTTPInputError:
        return None


def _check_framing(start_line: RequestStartLine, headers: HTTPHeaders) -> None:
    """Where the body ends has to be the same for every reader (RFC 9112, section 6)."""
    lengths = headers.get_list("Content-Length")
    codings = headers.get_list("Transfer-Encoding")
    if len(lengths) > 1:
        raise MalformedRequest("The request has more than one Content-Length.")
    if lengths and not _LENGTH.fullmatch(lengths[0]):
        raise MalformedRequest("Content-Length is no number of bytes.")
    if not codings:
        return
    if lengths:
        raise MalformedRequest("The request has both Content-Length and Transfer-Encoding.")
    if start_line.version == "HTTP/1.0":
        raise MalformedRequest("HTTP/1.0 has no Transfer-Encoding.")
    if [coding.lower() for coding in codings] != ["chunked"]:
        raise MalformedRequest("The only Transfer-Encoding that this server reads is `chunked`.")


def _check_host(start_line: RequestStartLine, headers: HTTPHeaders) -> None:
    hosts = headers.get_list("Host")
    if len(hosts) > 1:
        raise MalformedRequest("The request has more than one Host.")
    if not hosts and start_line.version == "HTTP/1.1":
        raise MalformedRequest("The request has no Host.")


def _with_path(start_line: RequestStartLine, headers: HTTPHeaders) -> RequestStartLine:
    target = start_line.path
    if target.startswith("/") or (target == "*" and start_line.method == "OPTIONS"):
        return start_line
    whole = _WHOLE_URL.fullmatch(target)
    if whole is None:
        raise MalformedRequest("The target of the request is neither a path nor an http URL.")
    authority, path = whole.groups(default="/")
    headers["Host"] = authority
    return start_line._replace(path=path if path.startswith("/") else f"/{path}")


def _reason(error: HTTPInputError) -> str:
    """What Tornado found, without a word of what the client sent."""
    said = str(error).lower()
    if "request line" in said or "http version" in said:
        return "The request line is not `method target HTTP/1.1`."
    return "A header field is not `name: value` of legal characters on one line."
