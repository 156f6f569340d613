"""Sessions: why they end, and what is refused about them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from hive.errors import Forbidden, NotFound

MOST_SESSIONS: Final = 100
"""Live sessions of a user: what ends all of them is one transaction, for which others wait."""


class SessionEnd(StrEnum):
    """Why a session was revoked; events tell it as `reason`."""

    LOGGED_OUT = "logged-out"
    REVOKED = "revoked"
    PASSWORD_CHANGED = "password-changed"  # noqa: S105 - a reason, no password  # nosec B105
    USER_DISABLED = "user-disabled"
    USER_DELETED = "user-deleted"
    REFRESH_REUSED = "refresh-reused"
    TOO_MANY = "too-many"


class SessionNotFound(NotFound):
    """No live session of this identifier belongs to the user."""

    code = "session-not-found"
    title = "Session not found"
    default_detail = "Session not found"


class SessionRequired(Forbidden):
    """The credential is an API key, and the operation is for somebody who logged in."""

    code = "session-required"
    title = "Session required"
    default_detail = "This operation needs the access token of a session."
