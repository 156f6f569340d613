"""How many connections there are, in all and from each address; the bounds of both."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog

MAX_CONNECTIONS: Final = 16_384
MAX_PER_ADDRESS: Final = 4_096
FILES_KEPT: Final = 256
"""Files that are not for clients: stores, logs, what listens."""

_WARN_SECONDS: Final = 10.0
log = structlog.get_logger(__name__)


class ConnectionCounts:
    """Counts connections in and out. `exempt` tells addresses that have no bound of their own."""

    def __init__(
        self,
        most: int = MAX_CONNECTIONS,
        most_per_address: int = MAX_PER_ADDRESS,
        exempt: Callable[[str], bool] | None = None,
    ) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._exempt = exempt or (lambda _: False)
        self._open: Counter[str] = Counter()
        self._total = 0
        self._refused = 0
        self._warned_at = -_WARN_SECONDS

    @property
    def total(self) -> int:
        """How many are open."""
        return self._total

    def enter(self, address: str) -> bool:
        """Count one in, and tell so; False when there is no room for it."""
        full = self._total >= self._most
        if full or (self._open[address] >= self._most_per_address and not self._exempt(address)):
            self._warn(address, full=full)
            return False
        self._total += 1
        self._open[address] += 1
        return True

    def leave(self, address: str) -> None:
        """Count one out that was counted in."""
        self._total -= 1
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]

    def _warn(self, address: str, *, full: bool) -> None:
        if not self._open[address]:
            del self._open[address]
        self._refused += 1
        now = time.monotonic()
        if now - self._warned_at >= _WARN_SECONDS:
            bound = "all" if full else "address"
            log.warning("connections.refused", bound=bound, address=address, refused=self._refused)
            self._warned_at, self._refused = now, 0


def room_for_connections(wanted: int) -> int:
    """As many as wanted, or as the open files of the process allow; raises the soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + FILES_KEPT
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        log.debug("files.limit_raised", files=soft)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    return max(soft - FILES_KEPT, soft // 2)
