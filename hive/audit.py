"""The audit log: records, the chain that they form, its signed points, and what breaks it.

A record is a flat mapping of texts and numbers. Each start of a node (`boot`) has a chain of its
own: `n` counts from 1 without a gap, `prev_hash` is the `hash` of the record before, and `hash` is
the SHA-256 of the canonical JSON (RFC 8785) of all other fields. Points of the chain are signed
with a key that the database does not have: a checkpoint says that the chain reached this record, an
end that the chain ends here, a start that retention took everything up to here away.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

from hive.errors import NotFound

Record = Mapping[str, Any]

PREFIX = "aud_"
MAX_TIME_MS = 2**48 - 1
_TIME_DIGITS = 10
_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"
_TO_DIGITS = str.maketrans(_BASE32, "0123456789abcdefghijklmnopqrstuv")
_CANONICAL = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=repr
)
# C0, DEL, C1, line separators, controls of text direction, lone surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SECRET = re.compile(r"\baz[a-z]_[0-9A-Za-z]{16,}|\beyJ[\w-]{8,}\.[\w-]*(?:\.[\w-]*)?|whsec_\S+")


class AuditRecordNotFound(NotFound):
    """No record of this identifier exists, or retention took it away."""

    code = "audit-record-not-found"
    title = "Audit record not found"
    default_detail = "Audit record not found"


class AuditOutcome(StrEnum):
    """How a call ended. RECOVERED: a kill cut its record off; an event says that it acted."""

    SUCCESS = "success"
    REFUSED = "refused"
    FAILED = "failed"
    RECOVERED = "recovered"


class PointKind(StrEnum):
    """What a signed point says of its chain."""

    CHECKPOINT = "checkpoint"
    END = "end"
    START = "start"


@dataclass(frozen=True, slots=True)
class ChainPoint:
    """A point of a chain, signed. `signature` covers its kind, too."""

    boot: str
    n: int
    hash: str
    signed_at: datetime
    signature: str


@dataclass(frozen=True, slots=True)
class Break:
    """The first place where a chain is not what it was: `n` is the number of the record."""

    boot: str
    n: int
    problem: str

    def __str__(self) -> str:
        return f"boot {self.boot}, record {self.n}: {self.problem}"


# The same few texts come again and again.
@lru_cache(maxsize=1024)
def clean(text: str, limit: int = 200) -> str:
    """The text without control characters and secrets of our formats, shortened."""
    return mask_secrets(_UNSAFE.sub("", text))[:limit]


def mask_secrets(text: str) -> str:
    """The text without what has the form of one of our credentials."""
    return _SECRET.sub("[secret]", text)


def holds_secret(text: str) -> bool:
    """Whether something in the text has the form of a credential."""
    return _SECRET.search(text) is not None


def format_ms(time_ms: int) -> str:
    """Milliseconds of the epoch as RFC 3339 in UTC."""
    seconds, ms = divmod(time_ms, 1000)
    return f"{_format_seconds(seconds)}.{ms:03d}Z"


@lru_cache(maxsize=64)
def _format_seconds(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def time_ms_of(record_id: str) -> int:
    """The time that an identifier carries (UUIDv7), in milliseconds of the epoch; 0 for none."""
    try:
        return int(record_id.rpartition("_")[2][:_TIME_DIGITS].translate(_TO_DIGITS), 32)
    except ValueError:
        return 0


def first_id_at(time_ms: int) -> str:
    """The bound below which all identifiers are of calls before that time."""
    value = min(max(time_ms, 0), MAX_TIME_MS)
    digits = []
    for _ in range(_TIME_DIGITS):
        value, digit = divmod(value, 32)
        digits.append(_BASE32[digit])
    return PREFIX + "".join(reversed(digits))


def genesis(boot: str) -> str:
    """What stands as `prev_hash` in the first record of a chain."""
    return hashlib.sha256(f"agentzero/audit/{boot}".encode()).hexdigest()


def canonical(record: Record) -> bytes:
    """The canonical JSON of a record (RFC 8785): the form that is hashed, and exported."""
    return _CANONICAL.encode(record).encode("utf-8", "replace")


def hash_of(record: Record) -> str:
    """SHA-256 in hex over the canonical JSON of all fields but `hash`."""
    hashed = {name: value for name, value in record.items() if name != "hash"}
    return hashlib.sha256(canonical(hashed)).hexdigest()


def chain(
    entries: Iterable[dict[str, Any]], *, boot: str, n: int, last_hash: str
) -> list[dict[str, Any]]:
    """The entries as records behind record `n` of the chain, in order; the entries are used up."""
    records = []
    for record in entries:
        n += 1
        record["boot"], record["n"], record["prev_hash"] = boot, n, last_hash
        record.pop("hash", None)
        record["hash"] = last_hash = hashlib.sha256(canonical(record)).hexdigest()
        records.append(record)
    return records


def sign_point(key: bytes, kind: PointKind, boot: str, n: int, record_hash: str) -> ChainPoint:
    """Sign a point of a chain, now."""
    now = datetime.now(UTC)
    at = now.replace(microsecond=now.microsecond // 1000 * 1000)
    signature = _signature(key, kind, boot, n, record_hash, at)
    return ChainPoint(boot, n, record_hash, at, signature)


def kind_of(key: bytes, point: ChainPoint) -> PointKind | None:
    """What the point says; None when it was not signed with this key."""
    for kind in PointKind:
        expected = _signature(key, kind, point.boot, point.n, point.hash, point.signed_at)
        if hmac.compare_digest(expected.encode(), point.signature.encode()):
            return kind
    return None


class ChainCheck:
    """Walks along one chain; the first thing that is wrong is given as a Break.

    `take` each record in order, `confirm` each checkpoint once its record was taken or passed, then
    `finish`. Nothing is kept of what was walked past.
    """

    def __init__(self, key: bytes, boot: str, start: ChainPoint | None = None) -> None:
        self.boot = boot
        self.n = start.n if start else 0
        self.hash = start.hash if start else genesis(boot)
        self._key = key
        self._start = start
        self._confirmed = self.n
        self._ended_at: int | None = None
        self._is_first = True

    def begin(self) -> Break | None:
        """Judge the starting point."""
        start = self._start
        if start is None or kind_of(self._key, start) is PointKind.START:
            return None
        return self._broken(start.n, "the starting point was not signed by this server")

    def take(self, record: Record) -> Break | None:
        """Judge the next record."""
        n = record.get("n")
        if not isinstance(n, int):
            return self._broken(self.n + 1, "its number is no number")
        if self._is_first and self._start is not None and n <= self._start.n:
            # Retention was interrupted: what is left of the old must still lead to the start.
            self.n, self.hash = n - 1, str(record.get("prev_hash"))
        self._is_first = False
        if n != self.n + 1:
            return self._broken(self.n + 1, f"missing; the next one is {n}")
        problem = self._problem(record, n)
        if problem is not None:
            return self._broken(n, problem)
        self.n, self.hash = n, str(record["hash"])
        return None

    def _problem(self, record: Record, n: int) -> str | None:
        if self._ended_at is not None:
            return f"inserted: the chain was ended at record {self._ended_at}"
        if record.get("hash") != hash_of(record):
            return "its content does not match its hash"
        if record.get("prev_hash") != self.hash:
            return "it does not follow the record before it"
        if self._start is not None and n == self._start.n and record["hash"] != self._start.hash:
            return "it is not the record that retention stopped at"
        return None

    def confirm(self, point: ChainPoint) -> Break | None:
        """Judge a checkpoint; its number is this far or before."""
        kind = kind_of(self._key, point)
        if kind not in (PointKind.CHECKPOINT, PointKind.END) or point.boot != self.boot:
            return self._broken(point.n, "its checkpoint was not signed by this server")
        if self._start is not None and point.n < self._start.n:
            return None
        if point.n != self.n or point.hash != self.hash:
            # Whoever made the hashes anew began somewhere behind the last point that is right.
            return self._broken(
                self._confirmed + 1,
                f"records {self._confirmed + 1} to {point.n} are not those of the checkpoint",
            )
        self._confirmed = point.n
        if kind is PointKind.END:
            self._ended_at = point.n
        return None

    def finish(self, last_point: int = 0) -> Break | None:
        """Judge the end: the chain must reach its last signed point."""
        reached = max(last_point, self._start.n if self._start else 0)
        if self.n < reached:
            return self._broken(self.n + 1, f"missing: the chain was signed up to {reached}")
        return None

    def _broken(self, n: int, problem: str) -> Break:
        return Break(self.boot, n, problem)


def verify(
    key: bytes,
    boot: str,
    records: Iterable[Record],
    points: Iterable[ChainPoint],
    start: ChainPoint | None = None,
) -> Break | None:
    """The first break of one chain; `records` and `points` are in the order of their numbers."""
    check = ChainCheck(key, boot, start)
    if (broken := check.begin()) is not None:
        return broken
    following = iter(points)
    point = next(following, None)
    for record in records:
        if (broken := check.take(record)) is not None:
            return broken
        while point is not None and point.n <= check.n:
            if (broken := check.confirm(point)) is not None:
                return broken
            point = next(following, None)
    while point is not None and point.n <= check.n:
        if (broken := check.confirm(point)) is not None:
            return broken
        point = next(following, None)
    return check.finish(point.n if point else 0)


def _signature(
    key: bytes, kind: PointKind, boot: str, n: int, record_hash: str, at: datetime
) -> str:
    signed = {
        "boot": boot,
        "hash": record_hash,
        "kind": kind.value,
        "n": n,
        "signed_at": format_ms(round(at.timestamp() * 1000)),
    }
    return hmac.digest(key, _CANONICAL.encode(signed).encode(), "sha256").hex()


__all__ = [
    "AuditOutcome",
    "AuditRecordNotFound",
    "Break",
    "ChainCheck",
    "ChainPoint",
    "PointKind",
    "Record",
    "canonical",
    "chain",
    "clean",
    "first_id_at",
    "format_ms",
    "genesis",
    "hash_of",
    "holds_secret",
    "kind_of",
    "mask_secrets",
    "sign_point",
    "time_ms_of",
    "verify",
]
