"""What a connection wants to see: patterns of event types, each with a filter, within bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hive.events import EVENT_TYPES
from server.closing import ErrorCode, FrameRefused
from server.ring import Entry

MAX_EXACT: Final = 256
MAX_WILDCARD: Final = 32
_NOUNS: Final = frozenset(event_type.partition(".")[0] for event_type in EVENT_TYPES)


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects resources that match everything that is given; None and no labels are any."""

    task_id: str | None = None
    agent_id: str | None = None
    owner: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Filter:
        """From the member `filter` of a frame that matches the contract."""
        return cls(**given)

    def selects(self, entry: Entry) -> bool:
        """Tell whether the event passes."""
        return (
            (self.task_id is None or self.task_id == entry.task_id)
            and (self.agent_id is None or self.agent_id == entry.agent_id)
            and (self.owner is None or self.owner == entry.owner)
            and (not self.labels or self.labels.items() <= entry.labels.items())
        )


class Subscriptions:
    """The patterns of one connection. A pattern that comes again replaces its filter."""

    def __init__(self) -> None:
        self._exact: dict[str, Filter] = {}
        self._wildcard: dict[str, Filter] = {}

    def add(self, patterns: Iterable[str], wanted: Filter) -> None:
        """Add all or none. Raises FrameRefused: no such event, or too many subscriptions."""
        exact, wildcard = dict(self._exact), dict(self._wildcard)
        for pattern in patterns:
            _check(pattern)
            (wildcard if pattern.endswith("*") else exact)[pattern] = wanted
        if len(exact) > MAX_EXACT or len(wildcard) > MAX_WILDCARD:
            raise FrameRefused(
                ErrorCode.TOO_MANY_SUBSCRIPTIONS,
                f"At most {MAX_EXACT} exact and {MAX_WILDCARD} wildcard subscriptions.",
            )
        self._exact, self._wildcard = exact, wildcard

    def remove(self, patterns: Iterable[str]) -> None:
        """Take patterns away; unknown ones are ignored."""
        for pattern in patterns:
            self._exact.pop(pattern, None)
            self._wildcard.pop(pattern, None)

    def select(self, entry: Entry) -> bool:
        """Tell whether one of the subscriptions wants the event."""
        exact = self._exact.get(entry.type)
        if exact is not None and exact.selects(entry):
            return True
        wildcard = self._wildcard
        if not wildcard:
            return False
        of_noun = wildcard.get(entry.family)
        if of_noun is not None and of_noun.selects(entry):
            return True
        everything = wildcard.get("*")
        return everything is not None and everything.selects(entry)


def _check(pattern: str) -> None:
    if pattern == "*" or pattern in EVENT_TYPES:
        return
    if pattern.endswith(".*") and pattern[:-2] in _NOUNS:
        return
    raise FrameRefused(ErrorCode.UNKNOWN_EVENT, f"No event has a type that matches {pattern}.")
