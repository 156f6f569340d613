"""What the contract says of its deprecated operations, and whether it says enough.

An operation that is `deprecated: true` names the day of that (`x-deprecated-at`), the day after
which it may be missing from the next major version (`x-sunset`) and the operation that takes its
place (`x-successor`). docs/versioning.md has the policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from server.operations import Operation

SHORTEST_NOTICE = timedelta(days=180)
MEMBERS = ("x-deprecated-at", "x-sunset", "x-successor")


@dataclass(frozen=True, slots=True)
class Deprecation:
    """Since when, until when, and what instead. Both days begin at midnight UTC."""

    deprecated_at: datetime
    sunset: datetime
    successor: str


def find_deprecation(operation: Operation) -> Deprecation | None:
    """What is announced of the operation; None when it is not deprecated. Raise ValueError."""
    if not operation.deprecated:
        return None
    missing = [name for name in MEMBERS if name not in operation.extensions]
    if missing:
        raise ValueError(f"deprecated without {', '.join(missing)}")
    since, until, successor = (operation.extensions[name] for name in MEMBERS)
    return Deprecation(_read_day(since), _read_day(until), successor)


def deprecation_problems(
    operation: Operation, operations: Mapping[str, Operation]
) -> Iterator[str]:
    """Why the announcement of an operation can't be made."""
    said = operation.operation_id
    try:
        found = find_deprecation(operation)
    except ValueError as error:
        yield f"{said}: {error}"
        return
    if found is None:
        yield from (
            f"{said}: {name} and not deprecated" for name in MEMBERS if name in operation.extensions
        )
        return
    if found.sunset < found.deprecated_at + SHORTEST_NOTICE:
        yield f"{said}: x-sunset is less than {SHORTEST_NOTICE.days} days after x-deprecated-at"
    successor = operations.get(found.successor)
    if successor is None:
        yield f"{said}: x-successor {found.successor} is no operation"
    elif successor.deprecated:
        yield f"{said}: x-successor {found.successor} is deprecated itself"
    elif not _path_names(successor) <= _path_names(operation):
        yield f"{said}: the path of x-successor {found.successor} can't be filled from its own"


def _read_day(text: str) -> datetime:
    try:
        return datetime.combine(date.fromisoformat(str(text)), time(tzinfo=UTC))
    except ValueError:
        raise ValueError(f"{text} is no day as in 2026-11-21") from None


def _path_names(operation: Operation) -> set[str]:
    return {one.name for one in operation.parameters if one.location == "path"}
