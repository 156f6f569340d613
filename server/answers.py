"""Answers as bytes: JSON as this server writes it, and the headers that every answer carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from handlers.context import Reply
from hive.artifacts import Bytes
from hive.raw_json import RawJson
from server.contract import JSON, Operation
from server.cookies import write_cookie

SECURITY_HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": ", ".join(
        f"{feature}=()"
        for feature in (
            "accelerometer",
            "camera",
            "clipboard-read",
            "display-capture",
            "geolocation",
            "gyroscope",
            "microphone",
            "midi",
            "payment",
            "usb",
        )
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# RFC 6797 forbids it on an answer without TLS, where anybody could have written it.
STRICT_TRANSPORT = ("Strict-Transport-Security", "max-age=63072000; includeSubDomains")
_LISTS = frozenset({"Link", "Vary"})
_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that is ready to be sent; `code` is that of a problem.

    With `pieces` the body is empty, and they are sent instead.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    content_type: str | None
    code: str | None = None
    pieces: Bytes | None = None


def security_headers(scheme: str) -> Mapping[str, str]:
    """What every answer carries that is made for a client who speaks `http` or `https`."""
    if scheme != "https":
        return SECURITY_HEADERS
    name, value = STRICT_TRANSPORT
    return {**SECURITY_HEADERS, name: value}


def encode_json(value: Any) -> bytes:
    """Encode; `RawJson` goes out as the bytes that came, a time as RFC 3339 in UTC with `Z`."""
    return orjson.dumps(value, default=_encode_other, option=_OPTIONS)


def format_time(time: datetime) -> str:
    """`2026-11-21T09:00:00.000Z`; a time without a zone is refused."""
    if time.tzinfo is None:
        raise TypeError("a time without a zone")
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def make_answer(operation: Operation, reply: Reply) -> Answer:
    """Encode what a handler gave, in the media type that the contract declares for the status."""
    status = operation.success.status if reply.status is None else reply.status
    declared = operation.responses.get(status)
    content_type = declared.content_type if declared else JSON
    headers = dict(reply.headers)
    if reply.cookie is not None:
        headers["Set-Cookie"] = write_cookie(reply.cookie)
    if isinstance(reply.body, Bytes):
        return Answer(status, headers, b"", content_type, pieces=reply.body)
    if reply.body is None and content_type is None:
        return Answer(status, headers, b"", None)
    body = reply.body if isinstance(reply.body, bytes) else encode_json(reply.body)
    return Answer(status, headers, body, content_type or JSON)


def join_fields(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, str]:
    """Both; a field that is a list (RFC 9110, section 5.6.1) has the members of both."""
    joined = {**first, **second}
    for name in _LISTS & first.keys() & second.keys():
        joined[name] = f"{first[name]}, {second[name]}"
    return joined


def _encode_other(value: Any) -> Any:
    if isinstance(value, RawJson):
        return orjson.Fragment(value.encoded)
    if isinstance(value, datetime):
        return format_time(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
