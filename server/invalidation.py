"""Which kept answers are still true on this node: what its hub has heard, what itself has changed.

Each answer carries the `Stamp` that was read before it was begun. A later request takes it only if

1. its node had heard, then, of every event that ends it and that this node has heard of by now;
2. this node itself has made no change since that could end it: its own changes count at commit.
   An answer of another node is taken again once their events are here.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hive.events import EVENT_TYPES, Event, matches

RESET: Final = "log.reset"
"""Events before it may be missing."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a node knew: the log's tail, and how many changes it had made itself."""

    node: str
    tail: int
    commits: int


@dataclass(frozen=True, slots=True)
class Moment:
    """A stamp, and what an answer needs in order to be true at this moment."""

    stamp: Stamp
    newest: int
    """The newest event that ends it."""
    is_settled: bool
    """Whether the events of all changes of this node are here."""

    def admits(self, kept: Stamp) -> bool:
        """Tell whether an answer that was begun under the stamp is true now."""
        if kept.tail < self.newest:
            return False
        if kept.node == self.stamp.node:
            return kept.commits == self.stamp.commits
        return self.is_settled


class Invalidation:
    """Follows the log and the commits for the patterns of events that answers depend on.

    `tail` is the newest `seq` that this node's hub has spread. An event of an own change that does
    not come within `pending_seconds` is no longer waited for: no answer lives so long.
    """

    def __init__(
        self,
        patterns: Iterable[str],
        tail: Callable[[], int],
        *,
        pending_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patterns = tuple(sorted(set(patterns)))
        self._by_type = {one: self._matching(one) for one in EVENT_TYPES}
        self._tail = tail
        self._pending_seconds = pending_seconds
        self._clock = clock
        self._node = uuid.uuid4().hex
        self._seen = -1
        self._floor = 0
        self._newest = dict.fromkeys(self._patterns, 0)
        self._commits = dict.fromkeys(self._patterns, 0)
        self._pending: dict[str, dict[str, float]] = {one: {} for one in self._patterns}

    def heard(self, events: Sequence[Event]) -> None:
        """Take events of the hub, before anything is answered that comes after them."""
        for event in events:
            for pattern in self._by_type.get(event.type, self._patterns):
                self._newest[pattern] = event.seq
                self._pending[pattern].pop(event.id, None)
        if events[0].seq == self._seen + 1:
            self._seen = events[-1].seq

    def committed(self, resource: Any, event_type: str) -> None:
        """Take a change that this node has made, before its client has the answer."""
        noun = event_type.partition(".")[0]
        event_id = f"{getattr(resource, f'{noun}_id')}:{resource.version}"
        ends_at = self._clock() + self._pending_seconds
        for pattern in self._by_type[event_type]:
            self._commits[pattern] += 1
            self._pending[pattern][event_id] = ends_at

    def look(self, patterns: Sequence[str]) -> Moment:
        """The moment, for answers that end with these events."""
        tail = self._tail()
        if tail != self._seen:
            # The hub has just begun, or it has lost events that nobody heard.
            self._seen = self._floor = tail
        commits = sum(self._commits[one] for one in patterns)
        newest = max((self._newest[one] for one in patterns), default=0)
        is_settled = not any(self._waits(one) for one in patterns)
        return Moment(
            Stamp(self._node, tail, commits),
            newest=max(newest, self._floor) if patterns else 0,
            is_settled=is_settled,
        )

    def _waits(self, pattern: str) -> bool:
        pending = self._pending[pattern]
        now = self._clock()
        # In the order of their ends, so that only those that are over are looked at.
        while pending and next(iter(pending.values())) <= now:
            del pending[next(iter(pending))]
        return bool(pending)

    def _matching(self, event_type: str) -> tuple[str, ...]:
        if event_type == RESET:
            return self._patterns
        return tuple(one for one in self._patterns if matches(one, event_type))
