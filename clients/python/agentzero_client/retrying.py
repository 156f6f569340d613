"""When a request may be sent again.

- `REPEATABLE`: sending it twice is as good as once (reads, PUT, DELETE, renewals, completions).
  Tried again after
  every transient failure: no answer, 429, 502, 503, 504.
- `KEYED`: sent under an `Idempotency-Key`, so that the server does it once however often it comes
  (submitting a task, registering, making users and keys). Tried again like `REPEATABLE`, and while
  an earlier sending is still being carried out.
- `UNSENT`: sending it twice would do it twice (claiming, log lines). Tried again only when the
  server certainly did
  nothing: the connection could not be made, or 429. A 503 leaves open what happened, so it is
  raised.
- `NEVER`: whoever calls repeats by himself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum

from agentzero_client.errors import AgentZeroError, ConnectionFailedError, ProblemError

TRANSIENT_STATUSES = frozenset({429, 502, 503, 504})
PASSING_STATUSES = TRANSIENT_STATUSES | {500}
"""For whoever tries again for as long as it takes."""
IN_FLIGHT = "idempotency-in-flight"


class Repeat(Enum):
    """How often a request may reach the server."""

    REPEATABLE = "repeatable"
    KEYED = "keyed"
    UNSENT = "unsent"
    NEVER = "never"

    def allows(self, error: AgentZeroError) -> bool:
        """Tell whether to send again after this error."""
        if self is Repeat.NEVER:
            return False
        if isinstance(error, ConnectionFailedError):
            return self is not Repeat.UNSENT or not error.was_sent
        if isinstance(error, ProblemError):
            if self is Repeat.KEYED and error.code == IN_FLIGHT:
                return True
            return error.status in (TRANSIENT_STATUSES if self is not Repeat.UNSENT else {429})
        return False


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """At most `attempts` sendings. A server that asks to wait beyond `max_wait_seconds` ends it."""

    attempts: int = 4
    base_seconds: float = 0.25
    cap_seconds: float = 8.0
    max_wait_seconds: float = 60.0


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Read `Retry-After` (RFC 9110 10.2.3): seconds or a date."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
