"""Chains of audit records for tests: made as a server makes them, and tampered with."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from hive.audit import ChainPoint, PointKind, chain, genesis, sign_point
from server.audit_records import CallIdentifiers

KEY = b"k" * 32
BOOT = "boo_01m7zzcy9we6nrxfnm00kd253v"
Records = list[dict[str, Any]]


def make_chain(count: int, boot: str = BOOT) -> Records:
    """So many records of made-up calls."""
    identifiers = CallIdentifiers("nod_1")
    entries = [
        {
            "record_id": identifiers.new(),
            "time": "2026-11-21T09:00:00.000Z",
            "channel": "rest",
            "operation": "list_tasks",
            "address": "192.0.2.7",
            "outcome": "success",
            "status": 200,
            "duration_ms": 1.5 + number,
            "request_id": f"req_{number}",
        }
        for number in range(count)
    ]
    return chain(entries, boot=boot, n=0, last_hash=genesis(boot))


def points_of(records: Records, every: int, kind: PointKind | None = None) -> list[ChainPoint]:
    """A checkpoint after each `every` records, and `kind` at the last one."""
    chosen = [record for record in records if record["n"] % every == 0]
    points = [
        sign_point(KEY, PointKind.CHECKPOINT, one["boot"], one["n"], one["hash"]) for one in chosen
    ]
    if kind is not None:
        last = records[-1]
        if points and points[-1].n == last["n"]:
            points.pop()
        points.append(sign_point(KEY, kind, last["boot"], last["n"], last["hash"]))
    return points


def flip(records: Records, index: int, chance: random.Random) -> int:
    """Change one character of one field; the number of the record that is wrong then."""
    record = records[index]
    name = chance.choice(sorted(record.keys() - {"n"}))
    text = str(record[name])
    place = chance.randrange(len(text))
    other = "0" if text[place] != "0" else "1"
    record[name] = text[:place] + other + text[place + 1 :]
    return index + 1


def delete(records: Records, index: int, chance: random.Random) -> int:
    """Take a record away."""
    del records[index]
    return index + 1


def insert(records: Records, index: int, chance: random.Random) -> int:
    """Put another record in between; those behind it move on by one."""
    records.insert(index, {**records[index], "actor": "usr_forged"})
    for record in records[index + 1 :]:
        record["n"] += 1
    return index + 1


def swap(records: Records, index: int, chance: random.Random) -> int:
    """Let two records change places, each under the number of the other."""
    other = chance.choice([place for place in range(len(records)) if place != index])
    first, second = sorted((index, other))
    one, two = records[first], records[second]
    records[first], records[second] = {**two, "n": one["n"]}, {**one, "n": two["n"]}
    return first + 1


def truncate(records: Records, index: int, chance: random.Random) -> int:
    """Cut the tail off, this record and all behind it."""
    del records[index:]
    return index + 1


Tamper = Callable[[Records, int, random.Random], int]
TAMPERS: dict[str, Tamper] = {
    "flip": flip,
    "delete": delete,
    "insert": insert,
    "swap": swap,
    "truncate": truncate,
}
