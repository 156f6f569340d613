"""Events of the log, the patterns and filters that select them, and the gap between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from agentzero_client.decoding import decode_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One entry of the log, a CloudEvent 1.0.

    `seq` is its place: dense and strictly increasing over the whole log. `data` is a summary of
    the resource after the change; `id` is unique.
    """

    type: str
    data: Mapping[str, Any]
    seq: int
    id: str
    subject: str
    time: datetime
    source: str = ""
    actor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap(Event):
    """Events from `first` to `last` (both inclusive, None: unknown) can't be had any more.

    Its `type` is `gap` and its `seq` the place where the watch goes on (0: with what happens next).
    Read the snapshot (`snapshot` is its path) before relying on the events that follow. `reason` is
    `trimmed`, `reset`, or `cannot-resume` for a cursor that is not of this log.
    """

    first: int | None = None
    last: int | None = None
    reason: str = ""
    snapshot: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which resources' events: every member that is given must match."""

    task_id: str | None = None
    agent_id: str | None = None
    owner: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def frame(self) -> dict[str, Any]:
        """The filter as a `subscribe` frame carries it."""
        members = {"task_id": self.task_id, "agent_id": self.agent_id, "owner": self.owner}
        frame: dict[str, Any] = {k: v for k, v in members.items() if v is not None}
        if self.labels:
            frame["labels"] = dict(self.labels)
        return frame

    def selects(self, event: Event) -> bool:
        """Judge an event here, for the history that the server does not filter so."""
        data = event.data
        if self.task_id is not None and self.task_id not in (event.subject, data.get("task_id")):
            return False
        if self.agent_id is not None and self.agent_id not in (
            event.subject,
            data.get("agent_id"),
        ):
            return False
        if self.owner is not None and data.get("owner") != self.owner:
            return False
        labels = data.get("labels")
        has = labels if isinstance(labels, Mapping) else {}
        return all(has.get(key) == value for key, value in self.labels.items())


def matches(patterns: Sequence[str], event_type: str) -> bool:
    """Tell whether `*`, `task.*` or an exact type selects the event."""
    return any(
        pattern in ("*", event_type)
        or (pattern.endswith(".*") and event_type.startswith(pattern[:-1]))
        for pattern in patterns
    )


def decode_event(envelope: Mapping[str, Any]) -> Event:
    """Make an event of an envelope; raise UnexpectedAnswerError when it is none."""
    return decode_model(Event, {**envelope, "seq": whole(envelope.get("seq")) or 0})


def decode_gap(frame: Mapping[str, Any]) -> Gap:
    """Make the gap of a `gap` frame: what is behind the cursor `from`, up to `to`, is gone."""
    after, last = whole(frame.get("from")), whole(frame.get("to"))
    snapshot = frame.get("snapshot")
    return Gap(
        type="gap",
        data=dict(frame),
        seq=last or 0,
        id=f"gap:{after}-{last}",
        subject="",
        time=datetime.now(UTC),
        first=None if after is None else after + 1,
        last=last,
        reason=str(frame.get("reason", "")),
        snapshot=snapshot if isinstance(snapshot, str) else None,
    )


def whole(value: Any) -> int | None:
    """Read a decimal `seq`, which travels as a string."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return None
