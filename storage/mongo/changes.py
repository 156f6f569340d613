"""Turns a decision's change into one update: the fields, the next version and the event, at once.

Three stages: set the fields; make the event from the document as it is then; both in one atomic
update pipeline of one document. Every value that came from outside stands under `$literal`: a
pipeline would take a text that starts with `$` for a field.

`event` is replaced whole, under a key named by the version: with the same key, MongoDB's change
stream would name the changed leaves only, and three similar events in a row would arrive as
fragments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from types import MappingProxyType
from typing import Any

from hive.changes import ABSENT, NOW, Actor, After, Append, Change, Deadline, Plus, Without
from hive.events import check_type
from hive.raw_json import RawJson

_MARKS = (After, Plus, Append, Without)
# Most values are of these types: nothing is to be looked for in them.
_AS_THEY_ARE = frozenset({str, int, float, bool, datetime})


def update_pipeline(
    change: Change,
    actor: Actor,
    *,
    identifier: str,
    summary: Sequence[str],
    capped: Mapping[str, int] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """The update pipeline of a visible change. `identifier` names `_id` in the event's data.

    Of the lists in `capped` the event has so many items at most.
    """
    assigned = {name: expression(value) for name, value in change.fields.items()}
    assigned["version"] = expression(Plus("version"))
    assigned["updated_at"] = expression(NOW)
    event: dict[str, Any] = {
        "id": {"$concat": ["$_id", ":", {"$toString": "$version"}]},
        "type": check_type(change.event),
        "subject": "$_id",
        "time": "$$NOW",
        "version": "$version",
        "actor": {"$literal": actor.actor_id},
        "data": _data(identifier, tuple(summary), tuple(capped.items())),
    }
    if actor.request_id is not None:
        event["request_id"] = {"$literal": actor.request_id}
    if actor.call_id is not None:
        event["call_id"] = {"$literal": actor.call_id}
    keyed = {"k": {"$concat": ["v", {"$toString": "$version"}]}, "v": event}
    return [{"$set": assigned}, {"$set": {"event": {"$arrayToObject": [[keyed]]}}}]


@dataclass(frozen=True, slots=True)
class Expression:
    """A value that storage has worked out itself, as an aggregation expression."""

    value: Any


@cache
def _data(
    identifier: str, summary: tuple[str, ...], capped: tuple[tuple[str, int], ...]
) -> Mapping[str, Any]:
    """What the event tells of the resource."""
    shown: dict[str, Any] = {name: f"${name}" for name in summary}
    shown |= {name: {"$slice": [f"${name}", most]} for name, most in capped if name in shown}
    return {identifier: "$_id", **shown}


def in_time(deadline: Deadline) -> dict[str, Any]:
    """A query for what is within the deadline, or has none."""
    last = {"$ifNull": [f"${deadline.name}", datetime.max.replace(tzinfo=UTC)]}
    return {"$expr": {"$lte": [expression(After(deadline.seconds)), last]}}


def expression(value: Any) -> Any:  # noqa: C901, PLR0911 - one arm a mark
    """The aggregation expression of a mark or of a plain value."""
    if type(value) in _AS_THEY_ARE:
        return {"$literal": value}
    match value:
        case After(seconds, None):
            return {"$add": ["$$NOW", round(seconds * 1000)]} if seconds else "$$NOW"
        case After(seconds, at_most):
            # `$min` passes over what is not there.
            fewer = {"$multiply": [f"${at_most}", 1000]}
            return {"$add": ["$$NOW", {"$min": [round(seconds * 1000), fewer]}]}
        case Expression(made):
            return made
        case Plus(name, amount):
            return {"$add": [{"$ifNull": [f"${name}", 0]}, amount]}
        case Append(name, item, keep):
            grown = {"$concatArrays": [{"$ifNull": [f"${name}", []]}, [expression(item)]]}
            return {"$slice": [grown, -keep]}
        case Without(name, item):
            kept = {"$ne": ["$$this", expression(item)]}
            return {"$filter": {"input": {"$ifNull": [f"${name}", []]}, "cond": kept}}
        case _ if value is ABSENT:
            return "$$REMOVE"
        case Mapping() if _holds_marks(value):
            # An operator, not an object literal: a literal would be merged into what is there.
            return {"$mergeObjects": [{key: expression(item) for key, item in value.items()}]}
        case list() if _holds_marks(value):
            return [expression(item) for item in value]
        case _:
            return {"$literal": plain(value)}


def plain(value: Any) -> Any:  # noqa: PLR0911 - one arm a type
    """The value as BSON takes it: enums by value, dataclasses as documents without None."""
    if type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, RawJson):
        return value.encoded
    if is_dataclass(value) and not isinstance(value, type):
        named = {item.name: getattr(value, item.name) for item in fields(value)}
        return {key: plain(item) for key, item in named.items() if item is not None}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _holds_marks(value: Any) -> bool:
    if isinstance(value, _MARKS):
        return True
    if isinstance(value, Mapping):
        return any(_holds_marks(item) for item in value.values())
    return isinstance(value, list | tuple) and any(_holds_marks(item) for item in value)
