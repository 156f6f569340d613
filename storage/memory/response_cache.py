"""Answers in the memory of one node: the port `hive.response_cache.ResponseStore`."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from hive.response_cache import KeptResponse

MAX_BYTES: Final = 32 * 1024 * 1024
ENTRY_BYTES: Final = 256
"""About what an entry costs beside its key and its bytes."""


class MemoryResponses:
    """At most `max_bytes`; the least recently used make room."""

    def __init__(
        self, max_bytes: int = MAX_BYTES, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._kept: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self.used_bytes = 0

    async def find(self, key: str) -> KeptResponse | None:
        found = self._kept.get(key)
        if found is None:
            return None
        encoded, ends_at = found
        seconds_left = ends_at - self._clock()
        if seconds_left <= 0:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return KeptResponse(encoded, seconds_left)

    async def keep(self, key: str, encoded: bytes, *, seconds: float) -> None:
        self._drop(key)
        size = _size(key, encoded)
        if seconds <= 0 or size > self._max_bytes:
            return
        self._kept[key] = (encoded, self._clock() + seconds)
        self.used_bytes += size
        while self.used_bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: str) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self.used_bytes -= _size(key, found[0])


def _size(key: str, encoded: bytes) -> int:
    return len(key) + len(encoded) + ENTRY_BYTES
