"""What a decision gives back: the fields that change, and the event that this change is.

A change is carried out by storage as one atomic update of one document, which sets the fields, adds
one to `version` and makes the event from the document as it is after the change. Values that only
the database knows at that instant are named by the marks below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class After:
    """The database's time at the update, plus so many seconds.

    `at_most` names a field before the update that may hold fewer seconds; those count then.
    """

    seconds: float = 0.0
    at_most: str | None = None


NOW = After()


@dataclass(frozen=True, slots=True)
class Plus:
    """The field's value before the update (0 when absent), plus `amount`."""

    name: str
    amount: int = 1


@dataclass(frozen=True, slots=True)
class Append:
    """The list in the field before the update with `value` behind it, the last `keep` of it."""

    name: str
    value: Any
    keep: int


@dataclass(frozen=True, slots=True)
class Without:
    """The list in the field before the update without `value`."""

    name: str
    value: Any


class _Absent:
    """The field is taken away."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()


@dataclass(frozen=True, slots=True)
class Change:
    """One visible change: `event` is its type, `fields` what is set (a mark or a plain value).

    Nested mappings replace the field as a whole. Past the deadline another change is made instead.
    """

    event: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    deadline: Deadline | None = None


@dataclass(frozen=True, slots=True)
class Deadline:
    """The time in the field `name`, less so many seconds, by the database's clock at the update.

    Without the field there is no deadline. `otherwise` has none itself.
    """

    name: str
    seconds: float
    otherwise: Change


@dataclass(frozen=True, slots=True)
class Actor:
    """Who causes a change: a principal or a duty (`system:reaper`), and under which request.

    `call_id` is the identifier of the call's audit record, which is written after the change.
    """

    actor_id: str
    request_id: str | None = None
    call_id: str | None = None
