"""The most frequent strings of a stream: exact, in bounded memory, if need be in several passes.

    ranking = Ranking(size=10, capacity=1_000_000)
    while True:
        for words in the_stream():
            ranking.add(words)
        if ranking.finish_pass():
            break
    ranking.top()

When more than `capacity` different strings turn up, the pass keeps only those whose hash lies in
the lower half of the window, and a further pass over the same stream counts the rest.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable

_HASHES = 1 << 32


class Ranking:
    """Counts strings; ties are ordered alphabetically (by code point)."""

    def __init__(self, *, size: int, capacity: int) -> None:
        self._size = size
        self._capacity = capacity
        self._counts: Counter[str] = Counter()
        self._best: list[tuple[int, str]] = []
        self._low = 0
        self._high = _HASHES
        self._finished = False

    def add(self, values: Iterable[str]) -> None:
        """Count the values that belong to the present pass."""
        if self._finished:
            return
        if self._high - self._low < _HASHES:
            values = [value for value in values if self._in_window(value)]
        self._counts.update(values)
        while len(self._counts) > self._capacity and self._high - self._low > 1:
            self._high = (self._low + self._high) // 2
            kept = {value: n for value, n in self._counts.items() if self._in_window(value)}
            self._counts = Counter(kept)

    def finish_pass(self) -> bool:
        """Close a pass over the whole stream; False when the stream must be read once more."""
        if self._finished:
            return True
        counted = [(-count, value) for value, count in self._counts.items()]
        self._best = heapq.nsmallest(self._size, [*self._best, *counted])
        self._counts.clear()
        width = self._high - self._low
        self._low, self._high = self._high, min(_HASHES, self._high + width)
        self._finished = self._low == _HASHES
        return self._finished

    def top(self) -> list[tuple[str, int]]:
        """List the most frequent strings with their counts, most frequent first."""
        return [(value, -count) for count, value in self._best]

    def _in_window(self, value: str) -> bool:
        return self._low <= hash(value) % _HASHES < self._high
