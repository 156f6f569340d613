"""Tells the callers of deprecated operations so, on every answer, and keeps a note of who they are.

`Deprecation` (RFC 9745), `Sunset` (RFC 8594) and `Link: <...>; rel="successor-version"` (RFC 5829)
come from the contract. An operation goes on to answer after its sunset, until a major version
leaves it out: nothing is switched off by the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from email.utils import format_datetime
from urllib.parse import quote

import structlog

from hive.audit import mask_secrets
from server.deprecations import find_deprecation
from server.operations import Operation
from server.pipeline import Call

MOST_NOTED = 10_000
_HOUR_SECONDS = 3600

log = structlog.stdlib.get_logger("server.versions")


@dataclass(frozen=True, slots=True)
class _Announcement:
    fields: Mapping[str, str]
    successor_path: str
    successor: str
    sunset: str


class Versions:
    """The deprecated operations among those given. `clock` gives seconds of the Unix epoch."""

    def __init__(
        self, operations: Iterable[Operation], clock: Callable[[], float] = time.time
    ) -> None:
        known = {one.operation_id: one for one in operations}
        self._announcements = {
            one.operation_id: _announce(one, known) for one in known.values() if one.deprecated
        }
        self._clock = clock
        self._hour = 0
        self._noted: set[tuple[str, str | None]] = set()

    def announce(self, call: Call, path: Mapping[str, str]) -> None:
        """Put the header fields on the answer of the call, whatever it will be.

        `path` has the decoded parameters of its path.
        """
        announcement = self._find(call)
        if announcement is not None:
            target = announcement.successor_path.format_map(
                {name: quote(value, safe="") for name, value in path.items()}
            )
            call.headers |= announcement.fields
            # What stands in the place of an identifier can be anything.
            call.headers["Link"] = f'<{mask_secrets(target)}>; rel="successor-version"'

    def note(self, call: Call) -> None:
        """Log the use of a deprecated operation: once per principal, operation and hour.

        Of more than 10,000 pairs in an hour the rest is not told.
        """
        announcement = self._find(call)
        if announcement is None:
            return
        hour = int(self._clock()) // _HOUR_SECONDS
        if hour != self._hour:
            self._hour = hour
            self._noted.clear()
        operation_id = call.operation.operation_id if call.operation else ""
        principal = call.principal.principal_id if call.principal else None
        if (operation_id, principal) in self._noted or len(self._noted) >= MOST_NOTED:
            return
        self._noted.add((operation_id, principal))
        log.warning(
            "deprecated operation used",
            operation=operation_id,
            principal=principal,
            successor=announcement.successor,
            sunset=announcement.sunset,
            client=mask_secrets(call.client),
            request_id=call.request_id,
        )

    def _find(self, call: Call) -> _Announcement | None:
        if not self._announcements or call.operation is None:
            return None
        return self._announcements.get(call.operation.operation_id)


def _announce(operation: Operation, known: Mapping[str, Operation]) -> _Announcement:
    found = find_deprecation(operation)
    if found is None:
        raise AssertionError("only deprecated operations are announced")
    return _Announcement(
        fields={
            "Deprecation": f"@{int(found.deprecated_at.timestamp())}",
            "Sunset": format_datetime(found.sunset, usegmt=True),
        },
        successor_path=known[found.successor].path,
        successor=found.successor,
        sunset=found.sunset.date().isoformat(),
    )
