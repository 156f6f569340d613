"""What an audit record says of a call: no body, no parameter, no query, no credential."""

from __future__ import annotations

import hashlib
import re
from asyncio import Future
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from typeid import TypeID

from hive.audit import AuditOutcome, clean, format_ms, time_ms_of
from hive.audit_ports import Acted
from hive.permissions import Principal
from server.closing import CloseCode
from server.contract import Operation
from server.pipeline import Call

TAG_DIGITS = 6
MAX_PATH = 128
CLOSE_CODES = 1000
_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"
_IDENTIFIER = re.compile(r"[a-z]{1,12}_[0-7][0-9a-hjkmnp-tv-z]{25}|[0-9a-f]{16}")


@dataclass(slots=True)
class Entry:
    """A call that has ended; `ended` is on the monotonic clock. `done` is whom the record wakes."""

    call: Call
    status: int
    code: str | None
    ended: float
    done: Future[None] | None = None


class CallIdentifiers:
    """Identifiers of calls: TypeIDs whose last six digits tell the node that made them."""

    def __init__(self, node_id: str) -> None:
        number = int.from_bytes(hashlib.sha256(node_id.encode()).digest()[:4])
        self._tag = "".join(_BASE32[number >> (5 * place) & 31] for place in range(TAG_DIGITS))

    def new(self) -> str:
        """A new identifier; it carries the time."""
        return str(TypeID("aud"))[:-TAG_DIGITS] + self._tag

    def are_ours(self, call_id: str) -> bool:
        """Whether this node made it, in this start or an earlier one."""
        return call_id.endswith(self._tag)


class AuditRecords:
    """Makes the fields of records. `operations` tell the words that a path may show."""

    def __init__(self, operations: Iterable[Operation] = ()) -> None:
        self._words = {word for one in operations for word in one.path.split("/")}

    def describe(self, entry: Entry) -> dict[str, Any]:
        """The fields of the record of a call, without its place in a chain."""
        call = entry.call
        duration = round(max(0.0, entry.ended - call.began) * 1000, 3)
        described: dict[str, Any] = {
            "record_id": call.call_id,
            "time": format_ms(time_ms_of(call.call_id)),
            "channel": call.channel,
            "authentication": "none",
            "address": clean(call.address, 64),
            "outcome": _outcome(entry.status).value,
            "status": entry.status,
            # A whole number is written without a fraction (RFC 8785).
            "duration_ms": int(duration) if duration.is_integer() else duration,
            "request_id": call.request_id,
        }
        if call.operation is not None:
            described["operation"] = call.operation.operation_id
        elif call.action is not None:
            described["operation"] = call.action
        else:
            described["method"] = clean(call.method, 32)
            described["path"] = self.shown_path(call.path)
        if call.client:
            described["client"] = clean(call.client)
        if call.resource is not None and _IDENTIFIER.fullmatch(call.resource):
            described["resource"] = call.resource
        if entry.code is not None:
            described["code"] = entry.code
        if call.principal is not None:
            _describe(call.principal, described)
        return described

    def shown_path(self, path: str) -> str:
        """The path with `*` for what is no word of the contract and no identifier.

        People paste secrets into addresses, too.
        """
        parts = path[: 2 * MAX_PATH].split("/")
        shown = (part if self._is_known(part) else "*" for part in parts)
        return "/".join(shown)[:MAX_PATH]

    def _is_known(self, part: str) -> bool:
        return part in self._words or _IDENTIFIER.fullmatch(part) is not None


def describe_bare(entry: Entry) -> dict[str, Any]:
    """The fields that every record has, of a call of which nothing else can be told."""
    call = entry.call
    return {
        "record_id": call.call_id,
        "time": format_ms(time_ms_of(call.call_id)),
        "channel": call.channel,
        "outcome": _outcome(entry.status).value,
        "status": entry.status,
        "request_id": call.request_id,
    }


def describe_recovered(acted: Acted) -> dict[str, Any]:
    """The fields of the record of a call that only an event tells of."""
    if acted.call_id is None:
        raise AssertionError("no call caused this event")
    described = {
        "record_id": acted.call_id,
        "time": format_ms(time_ms_of(acted.call_id)),
        "actor": acted.actor,
        "resource": acted.subject,
        "outcome": AuditOutcome.RECOVERED.value,
        "event": acted.event,
        "request_id": acted.request_id,
    }
    return {name: value for name, value in described.items() if value is not None}


def _describe(principal: Principal, described: dict[str, Any]) -> None:
    described["actor"] = principal.principal_id
    described["username"] = clean(principal.name)
    described["role"] = principal.role.value
    if principal.session_id is not None:
        described["authentication"] = "session"
        described["session_id"] = principal.session_id
    elif principal.key_id is not None:
        described["authentication"] = "api_key"
        described["key_id"] = principal.key_id


def _outcome(status: int) -> AuditOutcome:
    """Of an HTTP status, or of a WebSocket's close code."""
    if status < HTTPStatus.BAD_REQUEST:
        return AuditOutcome.SUCCESS
    if HTTPStatus.INTERNAL_SERVER_ERROR <= status < CLOSE_CODES or status == CloseCode.INTERNAL:
        return AuditOutcome.FAILED
    return AuditOutcome.REFUSED
