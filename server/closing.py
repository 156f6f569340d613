"""Why a connection ends, and what is refused without ending it: two closed vocabularies.

`x-close-codes` and `ErrorCode` of `asyncapi.yaml` say the same; a test holds them together. 10xx
are those of RFC 6455, 40xx ask the client to come back, 41xx are about its credential, 44xx mean
that coming back as it is won't help.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class CloseCode(IntEnum):
    """What ends a connection."""

    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    NOT_UTF8 = 1007
    CREDENTIALS_REFUSED = 1008
    TOO_LARGE = 1009
    RESTARTING = 1012
    INTERNAL = 4000
    NO_HEARTBEAT = 4007
    STUCK = 4008
    CANNOT_RESUME = 4009
    TAKEN_OVER = 4010
    TOKEN_EXPIRED = 4100
    REVOKED = 4101
    BAD_FRAME = 4400
    FORBIDDEN = 4403
    UNKNOWN_SUBPROTOCOL = 4406
    SECOND_CONNECT = 4409
    RATE_LIMITED = 4429


class ErrorCode(StrEnum):
    """What is refused while the connection goes on."""

    UNKNOWN_TYPE = "unknown-type"
    CONTRACT_MISMATCH = "contract-mismatch"
    UNKNOWN_EVENT = "unknown-event"
    TOO_MANY_SUBSCRIPTIONS = "too-many-subscriptions"
    CANNOT_RESUME = "cannot-resume"
    HELLO_FIRST = "hello-first"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"


class Disconnect(Exception):
    """Ends the connection. `reason` is public; a frame has room for 123 bytes of it."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"{code}: {reason}")


class FrameRefused(Exception):
    """Answers a frame with `error`; the connection goes on. `detail` is public."""

    def __init__(
        self,
        code: ErrorCode,
        detail: str,
        *,
        retry_after_ms: int | None = None,
    ) -> None:
        self.code = code
        self.detail = detail
        self.retry_after_ms = retry_after_ms
        super().__init__(f"{code}: {detail}")


def shorten_reason(reason: str) -> str:
    """As much of it as a close frame has room for (RFC 6455, section 5.5: 125 bytes in all)."""
    return reason.encode()[:123].decode(errors="ignore")
