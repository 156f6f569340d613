"""What can go wrong, as seen by a caller.

AgentZeroError
  ProblemError            the server answered with an RFC 9457 problem
    BadRequestError 400, AuthenticationError 401, PermissionDeniedError 403, NotFoundError 404,
    ConflictError 409 (LeaseLostError: code `lease-lost`, SecretLostError: `secret-not-replayed`),
    GoneError 410, PreconditionFailedError 412, RateLimitedError 429, UnavailableError 503
  ConnectionFailedError   no answer came
  UnexpectedAnswerError   an answer came that the contract does not know
  WatchClosedError        the server ended a WebSocket for good
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class AgentZeroError(Exception):
    """Every error that this package raises on purpose."""


class ProblemError(AgentZeroError):
    """The server refused: `status` (HTTP), `code` (stable, kebab-case), `detail` (for people).

    `errors` names each place of a request that does not match the contract: mappings with
    `detail` and `pointer` or `parameter`. `retry_after_seconds` is None when the server named none.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        request_id: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds
        places = "; ".join(_place(error) for error in self.errors)
        super().__init__(f"{status} {code}: {detail}" + (f" ({places})" if places else ""))


class BadRequestError(ProblemError):
    """400: the request does not match the contract."""


class AuthenticationError(ProblemError):
    """401: no credential, an expired one or a bad one."""


class PermissionDeniedError(ProblemError):
    """403: the credential is good and may not do this."""


class NotFoundError(ProblemError):
    """404: what is named does not exist, or not for this principal."""


class ConflictError(ProblemError):
    """409: the state of the resource forbids it."""


class LeaseLostError(ConflictError):
    """409 `lease-lost`: the lease is not current any more; nothing was changed. Stop working."""


class SecretLostError(ConflictError):
    """409 `secret-not-replayed`: the answer with the secret was lost, and is not given again.

    What was asked for was made: replace its secret, or remove it and ask again.
    """


class GoneError(ProblemError):
    """410: the event log no longer holds what was asked for."""


class PreconditionFailedError(ProblemError):
    """412: the resource has another version than `if_match` names; nothing was changed."""


class RateLimitedError(ProblemError):
    """429: too many requests; nothing was done."""


class UnavailableError(ProblemError):
    """503: a store that the operation needs does not answer, or the server is draining."""


class ConnectionFailedError(AgentZeroError):
    """No answer came. `was_sent` False means that the server certainly saw nothing."""

    def __init__(self, message: str, *, was_sent: bool = True) -> None:
        super().__init__(message)
        self.was_sent = was_sent


class UnexpectedAnswerError(AgentZeroError):
    """An answer came that does not match the contract (a proxy's page, for example)."""


class WatchClosedError(AgentZeroError):
    """The server closed a WebSocket with a code after which a client is to stay away."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed with {code}" + (f": {reason}" if reason else ""))
        self.code = code
        self.reason = reason


_BY_STATUS: dict[int, type[ProblemError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    412: PreconditionFailedError,
    429: RateLimitedError,
    503: UnavailableError,
}
_BY_CODE: dict[str, type[ProblemError]] = {
    "lease-lost": LeaseLostError,
    "secret-not-replayed": SecretLostError,
}


def problem_error(
    status: int,
    problem: Mapping[str, Any],
    *,
    retry_after_seconds: float | None = None,
) -> ProblemError:
    """Make the error of a problem document; a member that is missing is made up for."""
    code = problem.get("code")
    code = code if isinstance(code, str) else "unknown"
    detail = problem.get("detail") or problem.get("title") or "The server gave no reason."
    errors = problem.get("errors")
    request_id = problem.get("request_id")
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status, ProblemError)
    return kind(
        status,
        code,
        str(detail),
        errors=[e for e in errors if isinstance(e, Mapping)] if isinstance(errors, list) else (),
        request_id=request_id if isinstance(request_id, str) else None,
        retry_after_seconds=retry_after_seconds,
    )


def _place(error: Mapping[str, Any]) -> str:
    where = error.get("pointer") or error.get("parameter")
    detail = error.get("detail", "")
    return f"{where}: {detail}" if where else str(detail)
