"""Conditions that the hive refuses with.

They know no transport: one table in `server/problems.py` gives them a status.

A condition has two messages. `detail` is for the client and says what to do; `context` is for
the log of the operator and never leaves the server. `str(error)` is the internal one.
"""

from __future__ import annotations

from typing import Any, ClassVar


class HiveError(Exception):
    """A refusal with a stable `code` (kebab-case) and a public `detail`."""

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    default_detail: ClassVar[str] = "The request could not be carried out."

    def __init__(self, detail: str | None = None, **context: Any) -> None:
        self.detail = detail or self.default_detail
        self.context = context
        super().__init__(
            f"{self.code}: {self.detail} {context}" if context else f"{self.code}: {self.detail}"
        )


class Invalid(HiveError):
    """The request is understood but asks for something that can't be (422)."""

    code = "invalid"
    title = "Invalid request"

    def __init__(
        self, detail: str | None = None, *, pointer: str | None = None, **context: Any
    ) -> None:
        super().__init__(detail, **context)
        self.pointer = pointer


class Unauthenticated(HiveError):
    """Nobody, or nobody that we can prove (401)."""

    code = "unauthenticated"
    title = "Authentication required"
    default_detail = "Not authenticated"


class Forbidden(HiveError):
    """Known, but not allowed (403)."""

    code = "forbidden"
    title = "Forbidden"
    default_detail = "Your role does not allow this operation."


class OriginNotAllowed(Forbidden):
    """A page asks for what only pages of this server and of the allowed origins may do."""

    code = "origin-not-allowed"
    title = "Origin not allowed"
    default_detail = (
        "Cookies count only in requests of pages of this server and of the allowed origins."
    )


class NotFound(HiveError):
    """What is named does not exist, or not for this principal (404)."""

    code = "not-found"
    title = "Not found"
    default_detail = "Not found"


class Conflict(HiveError):
    """The state of the resource forbids it (409)."""

    code = "conflict"
    title = "Conflict"


class TooManyRequests(HiveError):
    """Asked too often; the same request may succeed later (429)."""

    code = "too-many-requests"
    title = "Too many requests"
    default_detail = "Too many requests. Try again later."

    def __init__(
        self, detail: str | None = None, *, retry_after_seconds: int, **context: Any
    ) -> None:
        super().__init__(detail, **context)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(HiveError):
    """A store that is needed does not answer; nothing is known to have changed (503)."""

    code = "unavailable"
    title = "Service unavailable"
    default_detail = "A store that this operation needs does not answer. Try again."

    def __init__(
        self, detail: str | None = None, *, retry_after_seconds: int = 2, **context: Any
    ) -> None:
        super().__init__(detail, **context)
        self.retry_after_seconds = retry_after_seconds


class InvalidCredentials(Unauthenticated):
    """A login with a wrong name, a wrong password or a disabled user: one answer for all."""

    code = "invalid-credentials"
    title = "Invalid credentials"
    default_detail = "Invalid credentials"


class TokenExpired(Unauthenticated):
    """An access token past its `exp`."""

    code = "token-expired"
    title = "Token expired"
    default_detail = "Token expired"


class InvalidToken(Unauthenticated):
    """A token or API key that we did not issue, or have revoked."""

    code = "invalid-token"
    title = "Invalid token"
    default_detail = "Invalid token"


class AgentNotFound(NotFound):
    """No agent of this identifier is registered."""

    code = "agent-not-found"
    title = "Agent not found"
    default_detail = "Agent not found"


class TaskNotFound(NotFound):
    """No task of this identifier exists."""

    code = "task-not-found"
    title = "Task not found"
    default_detail = "Task not found"


class DependencyNotFound(NotFound):
    """A dependency named in a submission does not exist."""

    code = "dependency-not-found"
    title = "Dependency not found"


class LeaseNotFound(NotFound):
    """No lease of this identifier was ever granted."""

    code = "lease-not-found"
    title = "Lease not found"
    default_detail = "Lease not found"


class NameTaken(Conflict):
    """Names of agents are unique."""

    code = "name-taken"
    title = "Name taken"


class IllegalTransition(Conflict):
    """The state machine has no such move; the detail says what was expected and what is."""

    code = "illegal-transition"
    title = "Not possible in this state"


class LeaseLost(Conflict):
    """The lease expired, was revoked, or carries an older fence. Nothing was changed."""

    code = "lease-lost"
    title = "Lease lost"
    default_detail = (
        "This lease is no longer current. Stop working on the task; nothing was changed."
    )


class WriteConflict(Conflict):
    """Others changed the resource again and again while we tried. Nothing was changed."""

    code = "write-conflict"
    title = "Too much contention"
    default_detail = "The resource was changed by others at the same time. Try again."


class LogTrimmed(HiveError):
    """Retention took the events that were asked for away (410)."""

    code = "log-trimmed"
    title = "Log trimmed"


class PreconditionFailed(HiveError):
    """The resource is not at a version that `If-Match` names (412). Nothing was changed."""

    code = "precondition-failed"
    title = "Precondition failed"


class PreconditionRequired(HiveError):
    """The operation is done only to a version that the caller has seen (428)."""

    code = "precondition-required"
    title = "Precondition required"
    default_detail = "Send the ETag of what you have read in If-Match."


class SlotTaken(Conflict):
    """The agent's slot is in use; the claimer looks for another."""

    code = "slot-taken"
    title = "Slot taken"


class Malformed(HiveError):
    """The request does not match the contract in a way that a schema can't express (400)."""

    code = "contract-mismatch"
    title = "Request does not match the contract"


class UnknownField(Malformed):
    """A name in `fields` that the items of the list do not have."""

    code = "unknown-field"
    title = "Unknown field"


class MalformedCursor(Malformed):
    """A cursor that this list did not give, or not with these filters."""

    code = "malformed-cursor"
    title = "Malformed cursor"
    default_detail = (
        "The cursor is not one that this list gave with these filters and this order."
        " Follow the Link header as it is."
    )


class ScheduleNotFound(NotFound):
    """No schedule of this identifier exists."""

    code = "schedule-not-found"
    title = "Schedule not found"
    default_detail = "Schedule not found"


class TooManySchedules(Conflict):
    """The owner has as many schedules as one may have."""

    code = "too-many-schedules"
    title = "Too many schedules"
