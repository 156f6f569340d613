"""JSON as RFC 8259 has it and nothing beside it: one value, one meaning, bounded work.

Refused: anything but UTF-8, a byte order mark, duplicate keys, NaN and Infinity, numbers that
overflow (1e999), integers outside 64 bits, more than 32 levels, more than 50,000 arrays, objects
and members (a megabyte of brackets would hold the event loop for 200 ms), lone surrogates, trailing
bytes. Accepted values mean the same to every reader, so nothing can be hidden from a check by
parsing it twice.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import chain
from math import isinf
from typing import Any

import jiter
import msgspec

from hive.errors import HiveError
from hive.raw_json import RawJson

MAX_DEPTH = 32
MAX_STRUCTURE = 50_000
MIN_INTEGER = -(2**63)
MAX_INTEGER = 2**63 - 1

_PLACE = re.compile(r"at line \d{1,9} column \d{1,9}$")
# Digits become 0 and E becomes e: two fast searches then tell whether a number can be too wide.
_DIGITS = bytes.maketrans(b"123456789E", b"000000000e")
_LONG_NUMBER = b"0" * 19
_EXPONENT = b"0e"
# Possessive: no way of matching is tried twice, however the quotes stand.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_FEW_QUOTES = 20_000


class MalformedJson(HiveError):
    """The body is not JSON that has one meaning. The reason never quotes the body."""

    code = "malformed-json"
    title = "Malformed JSON"
    default_detail = "The body is not valid JSON."


def decode_json(encoded: bytes) -> Any:
    """Decode one JSON value; raise MalformedJson on anything that is ambiguous or hostile."""
    containers, members = _structure(encoded)
    if containers + members > MAX_STRUCTURE:
        raise MalformedJson(f"The body has more than {MAX_STRUCTURE} arrays, objects and members.")
    try:
        value = jiter.from_json(
            encoded, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="none"
        )
    except ValueError as error:
        raise MalformedJson(_reason(str(error))) from None
    deep = containers > MAX_DEPTH
    digits = encoded.translate(_DIGITS)
    wide = _LONG_NUMBER in digits or _EXPONENT in digits
    if deep or wide:
        _check(value, wide=wide)
    return value


def cut_raw_members(encoded: bytes, value: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """Give the object back with the named members as the bytes that came.

    `encoded` must have passed `decode_json` as `value`.
    """
    wanted = names & value.keys()
    if not wanted:
        return value
    cut = msgspec.json.decode(encoded, type=dict[str, msgspec.Raw])
    return value | {name: RawJson(bytes(cut[name])) for name in wanted}


def cut_raw_paths(encoded: bytes, value: Any, paths: Collection[tuple[str, ...]]) -> Any:
    """Give the value back with what the paths lead to as the bytes that came.

    A step is the name of a member, or `*` for each item of an array. `encoded` must have passed
    `decode_json` as `value`, and both must be of the shape that the paths are of.
    """
    following: dict[str, list[tuple[str, ...]]] = {}
    for path in paths:
        following.setdefault(path[0], []).append(path[1:])
    if isinstance(value, list):
        items = msgspec.json.decode(encoded, type=list[msgspec.Raw])
        return [
            _cut(item, decoded, following["*"]) for item, decoded in zip(items, value, strict=True)
        ]
    wanted = following.keys() & value.keys()
    if not wanted:
        return value
    cut = msgspec.json.decode(encoded, type=dict[str, msgspec.Raw])
    return value | {name: _cut(cut[name], value[name], following[name]) for name in wanted}


def _cut(encoded: msgspec.Raw, value: Any, rest: Collection[tuple[str, ...]]) -> Any:
    return RawJson(bytes(encoded)) if () in rest else cut_raw_paths(bytes(encoded), value, rest)


def _structure(encoded: bytes) -> tuple[int, int]:
    """Count containers and members; upper bounds when counting exactly would itself take long."""
    containers, members = _count(encoded)
    if containers + members > MAX_STRUCTURE and encoded.count(b'"') <= _FEW_QUOTES:
        containers, members = _count(_STRING.sub(b"", encoded))
    return containers, members


def _count(text: bytes) -> tuple[int, int]:
    return text.count(b"[") + text.count(b"{"), text.count(b":")


def _check(value: Any, *, wide: bool) -> None:
    """Walk level by level; each level costs C-speed passes, not a Python call per value."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        kinds = set(map(type, level))
        if wide:
            _check_numbers(level, kinds)
        if not kinds & {dict, list}:
            return
        objects = [item.values() for item in level if type(item) is dict] if dict in kinds else []
        arrays = [item for item in level if type(item) is list] if list in kinds else []
        level = list(chain(chain.from_iterable(objects), chain.from_iterable(arrays)))
    raise MalformedJson(f"The body nests deeper than {MAX_DEPTH} levels.")


def _check_numbers(level: list[Any], kinds: set[type]) -> None:
    if int in kinds:
        integers = [item for item in level if type(item) is int]
        if min(integers) < MIN_INTEGER or max(integers) > MAX_INTEGER:
            raise MalformedJson("The body has an integer that does not fit into 64 bits.")
    if float in kinds and any(map(isinf, [item for item in level if type(item) is float])):
        raise MalformedJson("The body has a number that is out of range.")


def _reason(message: str) -> str:
    place = _PLACE.search(message)
    where = f" {place.group()}" if place else ""
    if message.startswith("Detected duplicate key"):
        return f"The body has the same key twice in one object{where}."
    if message.startswith("recursion limit"):
        return f"The body nests deeper than {MAX_DEPTH} levels."
    if message.startswith("number out of range"):
        return "The body has a number that is out of range."
    return f"The body is not valid JSON{where}."
