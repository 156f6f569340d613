"""How long to wait before trying again: exponential, capped, fully jittered."""

from __future__ import annotations

import random


class Backoff:
    """Delays in seconds, uniform between 0 and `base * 2**n`, never more than `cap`.

    Full jitter spreads a crowd that lost its server at the same instant.
    """

    def __init__(self, base_seconds: float = 0.5, cap_seconds: float = 15.0) -> None:
        self._base = base_seconds
        self._cap = cap_seconds
        self._tries = 0

    def reset(self) -> None:
        """Start small again: something worked."""
        self._tries = 0

    def next_seconds(self, at_least: float = 0.0) -> float:
        """Give the next delay; `at_least` is what the server asked for and is kept to."""
        ceiling = min(self._cap, self._base * 2 ** min(self._tries, 20))
        self._tries += 1
        return at_least + random.uniform(0.0, ceiling)  # noqa: S311  # No secret depends on it.  # nosec B311
