"""The newest events of a node, each encoded and framed once for all receivers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hive.events import Event, envelope, is_private, source_of
from server.answers import encode_json
from server.frames import text_frame

MAX_EVENT_BYTES: Final = 192 * 1024
"""A larger event goes out without its data: no connection could buffer it."""


class Entry:
    """An event as connections see it: its place, what filters ask, who may see it, the frame."""

    __slots__ = (
        "agent_id",
        "family",
        "frame",
        "is_private",
        "labels",
        "owner",
        "seq",
        "task_id",
        "type",
    )

    def __init__(self, event: Event) -> None:
        data = event.data
        self.seq = event.seq
        self.type = event.type
        self.family = event.type.partition(".")[0] + ".*"
        self.task_id: str | None = data.get("task_id")
        self.agent_id: str | None = data.get("agent_id")
        self.is_private = is_private(event.type)
        # What a summary says of an owner is for filters; it never opens a private event.
        self.owner: str | None = event.owner if self.is_private else data.get("owner")
        self.labels: Mapping[str, str] = data.get("labels") or {}
        self.frame = _frame(event)


class Ring:
    """Entries `first` to `tail` without a hole, at most `capacity` of them."""

    def __init__(self, capacity: int, tail: int) -> None:
        self._slots: list[Entry | None] = [None] * capacity
        self.tail = tail
        self.first = tail + 1

    def append(self, entry: Entry) -> None:
        """Add the entry behind the tail; the oldest makes room."""
        if entry.seq != self.tail + 1:
            raise ValueError(f"expected seq {self.tail + 1}, got {entry.seq}")
        self._slots[entry.seq % len(self._slots)] = entry
        self.tail = entry.seq
        self.first = max(self.first, self.tail - len(self._slots) + 1)

    def reset(self, tail: int) -> None:
        """Forget everything; the next entry is the one behind `tail`."""
        self._slots = [None] * len(self._slots)
        self.tail = tail
        self.first = tail + 1

    def read(self, after: int, limit: int) -> list[Entry] | None:
        """Up to `limit` entries behind `after`; None when older ones are asked for."""
        if after + 1 < self.first:
            return None
        size = len(self._slots)
        end = min(self.tail, after + limit)
        return [entry for seq in range(after + 1, end + 1) if (entry := self._slots[seq % size])]


def _frame(event: Event) -> bytes:
    body: dict[str, Any] = envelope(event)
    encoded = encode_json(body)
    if len(encoded) > MAX_EVENT_BYTES:
        encoded = encode_json(body | {"data": {"omitted": source_of(event.subject)}})
    return text_frame(encoded)
