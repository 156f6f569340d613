"""What the clocks say of a peer: whether it is there, reads, and still has a credential."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Final, Protocol

from server.closing import CloseCode, Disconnect
from server.frames import control_frame

EXPIRY_NOTICE_SECONDS: Final = 60.0
TICK_SECONDS: Final = 0.5
"""How often the clocks are looked at."""


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """Bounds of a connection; `x-limits` and `x-heartbeat` of the contract."""

    frame_bytes: int = 64 * 1024
    frames_per_second: float = 50.0
    frames_burst: int = 100
    buffered_bytes: int = 256 * 1024
    heartbeat_seconds: float = 25.0
    heartbeat_jitter: float = 0.2
    answer_seconds: float = 10.0
    connect_seconds: float = 5.0
    hello_seconds: float = 10.0
    stuck_seconds: float = 60.0


LINK_LIMITS: Final = PeerLimits(
    frame_bytes=1024 * 1024,
    frames_per_second=1000.0,
    frames_burst=2000,
    buffered_bytes=2 * 1024 * 1024,
)
"""Those of the agents' links."""


class Outgoing(Protocol):
    """How much a peer has taken of what was written."""

    @property
    def buffered(self) -> int:
        """Bytes that were written and that the system has not taken yet."""

    @property
    def flushed(self) -> int:
        """Bytes that the system took so far, in whole frames, of those that had to wait."""


class Liveness:
    """The clocks of one peer. `now` is the loop's time; the end of a credential is the wall's."""

    def __init__(self, limits: PeerLimits, now: float) -> None:
        self._limits = limits
        self._opened_at = self.heard_at = now
        self._ping_at = self._next_ping(now)
        self._pinged_at: float | None = None
        self._flushed, self._flushed_at = 0, now
        self._expires_at: float | None = None
        self._expiry_notice_at: float | None = None

    def heard(self, now: float) -> None:
        """Note a sign of life: a frame of any kind."""
        self.heard_at = now

    def expire_at(self, expires_at: float | None) -> None:
        """Note when the credential ends, in seconds of the Unix epoch."""
        self._expires_at = expires_at
        if expires_at is not None:
            notice_at = expires_at - EXPIRY_NOTICE_SECONDS
            # A token that is short-lived from the start is no news.
            self._expiry_notice_at = notice_at if notice_at > time.time() + 1 else None

    def look_before_admission(self, now: float) -> None:
        """Raise Disconnect when the credential will not come in time.

        `connect_seconds` is when the socket is gone, so the last look before that decides.
        """
        if now - self._opened_at > self._limits.connect_seconds - TICK_SECONDS:
            raise Disconnect(CloseCode.CREDENTIALS_REFUSED, "no credential came in time")

    def look(self, now: float, outgoing: Outgoing) -> list[bytes]:
        """The frames that are due. Raises Disconnect when the peer can't stay."""
        due = self._look_at_expiry()
        self._look_at_progress(now, outgoing)
        if self._pinged_at is not None:
            if self.heard_at >= self._pinged_at:
                self._pinged_at = None
            elif now - self._pinged_at > self._limits.answer_seconds:
                raise Disconnect(CloseCode.NO_HEARTBEAT, "no answer to ping")
        elif now >= self._ping_at:
            self._pinged_at, self._ping_at = now, self._next_ping(now)
            due.append(control_frame("ping", t=int(time.time() * 1000)))
        return due

    def _look_at_expiry(self) -> list[bytes]:
        if self._expires_at is None:
            return []
        now = time.time()
        if now >= self._expires_at:
            raise Disconnect(CloseCode.TOKEN_EXPIRED, "the token expired")
        if self._expiry_notice_at is None or now < self._expiry_notice_at:
            return []
        self._expiry_notice_at = None
        after_ms = int((self._expires_at - now) * 1000)
        return [control_frame("notice", kind="token_expiring", after_ms=after_ms)]

    def _look_at_progress(self, now: float, outgoing: Outgoing) -> None:
        flushed = outgoing.flushed
        if not outgoing.buffered or flushed != self._flushed:
            self._flushed, self._flushed_at = flushed, now
        elif now - self._flushed_at > self._limits.stuck_seconds:
            raise Disconnect(CloseCode.STUCK, "nothing was read for too long")

    def _next_ping(self, now: float) -> float:
        jitter = self._limits.heartbeat_jitter
        spread = random.uniform(1 - jitter, 1 + jitter)  # noqa: S311 - only spreads load  # nosec B311
        return now + self._limits.heartbeat_seconds * spread
