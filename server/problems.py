"""RFC 9457 problems: the one place where a condition becomes a status.

A problem says what the client may know. What is internal goes to the log under the request's
identifier.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hive.audit import mask_secrets
from hive.batches import BatchRefused
from hive.errors import (
    Conflict,
    Forbidden,
    HiveError,
    Invalid,
    LogTrimmed,
    Malformed,
    NotFound,
    PreconditionFailed,
    PreconditionRequired,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)
from hive.idempotency import IdempotencyInFlight, SecretNotReplayed
from hive.rate_limits import RateLimited
from hive.signing import SignatureRequired
from hive.submission import DuplicateTask
from server.contract import ContractMismatch
from server.documents import MAX_ERRORS, shorten
from server.json_body import MalformedJson

PROBLEM_JSON = "application/problem+json"
_MAX_INSTANCE = 512


class UnsupportedMediaType(HiveError):
    """The body is of a media type, charset or coding that the operation does not take (415)."""

    code = "unsupported-media-type"
    title = "Unsupported media type"
    default_detail = "Send application/json in UTF-8, without Content-Encoding."


class ContentTooLarge(HiveError):
    """The body is longer than the limit (413)."""

    code = "content-too-large"
    title = "Content too large"


class UriTooLong(HiveError):
    """The request target is longer than the limit (414)."""

    code = "uri-too-long"
    title = "URI too long"


class HeadersTooLarge(HiveError):
    """There are more header fields, or bytes of them, than the limit (431)."""

    code = "headers-too-large"
    title = "Request header fields too large"


class MalformedRequest(HiveError):
    """The message is not HTTP/1 that has one meaning (400). The reason never quotes it."""

    code = "malformed-request"
    title = "Malformed request"
    default_detail = "The message is not valid HTTP."


class RequestTimeout(HiveError):
    """The request did not arrive in time (408)."""

    code = "request-timeout"
    title = "Request timeout"
    default_detail = "The request did not arrive in time."


class MethodNotAllowed(HiveError):
    """The path exists, the method does not (405); `allow` names those that do."""

    code = "method-not-allowed"
    title = "Method not allowed"

    def __init__(self, allow: Iterable[str]) -> None:
        self.allow = ", ".join(sorted(allow))
        super().__init__(f"This resource allows {self.allow or 'no method'}.")


class ContractViolation(HiveError):
    """The server's own answer does not match the contract (500); only the referee finds it."""

    code = "contract-violation"
    title = "Contract violation"
    default_detail = (
        "The server's answer does not match its contract; "
        "the log has the cause under this request id."
    )


class InternalError(HiveError):
    """An unexpected exception (500)."""

    code = "internal"
    title = "Internal server error"
    default_detail = "The server failed; the log has the cause under this request id."


# The first entry that a condition is an instance of, from the most special to the most general.
_STATUSES: tuple[tuple[type[HiveError], int], ...] = (
    (ContractMismatch, 400),
    (MalformedJson, 400),
    (UnsupportedMediaType, 415),
    (ContentTooLarge, 413),
    (UriTooLong, 414),
    (HeadersTooLarge, 431),
    (MalformedRequest, 400),
    (RequestTimeout, 408),
    (MethodNotAllowed, 405),
    (Malformed, 400),
    (Invalid, 422),
    (Unauthenticated, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (Conflict, 409),
    (LogTrimmed, 410),
    (PreconditionFailed, 412),
    (PreconditionRequired, 428),
    (TooManyRequests, 429),
    (Unavailable, 503),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem that is ready to be written: status, headers, members."""

    status: int
    members: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def status_of(condition: BaseException) -> int:
    """The HTTP status of a condition; 500 for whatever is not in the table."""
    return status_of_kind(type(condition))


def status_of_kind(kind: type[BaseException]) -> int:
    """The HTTP status of every condition of this kind."""
    return next((status for entry, status in _STATUSES if issubclass(kind, entry)), 500)


def build_problem(condition: BaseException, *, instance: str, request_id: str) -> Problem:
    """Describe any exception as a problem. Nothing of an unexpected one is told."""
    status = status_of(condition)
    if not isinstance(condition, HiveError):
        condition = InternalError()
    members: dict[str, Any] = {
        "type": "about:blank",
        "title": condition.title,
        "status": status,
        "detail": condition.detail,
        "instance": mask_secrets(shorten(instance, _MAX_INSTANCE)),
        "code": condition.code,
        "request_id": request_id,
    }
    if errors := _errors_of(condition):
        members["errors"] = errors
    if isinstance(condition, DuplicateTask):
        members["task_id"] = condition.task_id
    if isinstance(condition, RateLimited):
        members["violated"] = list(condition.violated)
    return Problem(status, members, _headers_of(condition))


def _errors_of(condition: HiveError) -> list[dict[str, str]]:
    if isinstance(condition, ContractMismatch):
        return [dict(error) for error in condition.errors]
    if isinstance(condition, BatchRefused):
        return [
            {"pointer": flaw.pointer, "detail": flaw.detail}
            for flaw in condition.flaws[:MAX_ERRORS]
        ]
    pointer = getattr(condition, "pointer", None)
    return [{"pointer": pointer, "detail": condition.detail}] if pointer is not None else []


def _headers_of(condition: HiveError) -> dict[str, str]:
    if isinstance(condition, SignatureRequired):
        return {"WWW-Authenticate": "Bearer", "Accept-Signature": _accepted(condition)}
    if isinstance(condition, Unauthenticated):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(condition, SecretNotReplayed):
        location = {} if condition.location is None else {"Location": condition.location}
        return {**location, "Idempotency-Replayed": "true"}
    if isinstance(condition, TooManyRequests | Unavailable | IdempotencyInFlight):
        return {"Retry-After": str(condition.retry_after_seconds)}
    if isinstance(condition, MethodNotAllowed):
        return {"Allow": condition.allow}
    return {}


def _accepted(condition: SignatureRequired) -> str:
    """What a signature is to cover (RFC 9421, section 5.1)."""
    covered = " ".join(f'"{name}"' for name in condition.components)
    return f"sig=({covered});created"
