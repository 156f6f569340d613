"""What a WebSocket close code asks of the client. The table is `x-close-codes` of asyncapi.yaml."""

from __future__ import annotations

from enum import Enum
from typing import Final


class Reaction(Enum):
    """Stay away, get a fresh token and come back, or back off and come back."""

    STOP = "stop"
    REFRESH = "refresh"
    RESUME = "resume"


REFUSED: Final = 1008
CANNOT_RESUME: Final = 4009
"""The cursor is not of this log: come back without it."""
ABNORMAL: Final = 1006
"""RFC 6455 7.1.5: no close frame came."""

_REACTIONS: Final = {
    1002: Reaction.STOP,  # We broke RFC 6455.
    1007: Reaction.STOP,  # A frame was not UTF-8.
    REFUSED: Reaction.STOP,
    1009: Reaction.STOP,  # Frame too large.
    4010: Reaction.STOP,  # The session was taken over.
    4100: Reaction.REFRESH,  # Token expired.
    4101: Reaction.STOP,  # Token revoked.
    4400: Reaction.STOP,  # Bad frame.
    4403: Reaction.STOP,  # Forbidden.
    4406: Reaction.STOP,  # Unknown subprotocol.
    4409: Reaction.STOP,  # Second `connect`.
}


def reaction(code: int) -> Reaction:
    """Look the code up; any other one is a reason to back off and resume."""
    return _REACTIONS.get(code, Reaction.RESUME)
