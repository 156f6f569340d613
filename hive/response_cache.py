"""Where answers are kept for a moment, so that they need not be made again.

What is kept may be gone at any time. A store that can't be reached holds nothing and takes
nothing; nobody waits for it longer than 250 ms, and no method raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """An answer as bytes, and for how many seconds it may still be given."""

    encoded: bytes
    seconds_left: float


class ResponseStore(Protocol):
    """Keeps bytes under a key for a while, bounded in size: the least recently used make room."""

    async def find(self, key: str) -> KeptResponse | None:
        """What was kept last under the key; None once its time is over."""

    async def keep(self, key: str, encoded: bytes, *, seconds: float) -> None:
        """Keep for so long from now. What would not fit is not kept."""
