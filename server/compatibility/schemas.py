"""Compares two schemas in one direction.

Sent: the new one must take whatever the old one took. Given: the new one must give nothing that the
old one did not announce, except members of new names, which clients ignore, longer texts and
arrays, and further values of an enumeration that the old one calls open (`x-open-enum: true`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from server.compatibility.breaks import Break
from server.compatibility.releases import Release

_TYPES = frozenset({"null", "boolean", "object", "array", "string", "integer", "fraction"})
_RANGES = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
_LENGTHS = ("minLength", "minItems", "minProperties"), ("maxLength", "maxItems", "maxProperties")
_NO_BOUND = float("-inf"), float("inf")
_CONDITIONS = ("pattern", "format", "multipleOf", "not", "x-key-pattern", "uniqueItems")


class Direction(StrEnum):
    """Who says what the schema describes: `sent` by clients, or `given` to them."""

    SENT = "sent"
    GIVEN = "given"


class Comparison:
    """Compares schemas of two releases; a pair that was compared is not compared again."""

    def __init__(self, old: Release, new: Release) -> None:
        self._old = old
        self._new = new
        self._seen: set[tuple[int, int, Direction]] = set()

    def compare(self, old: Any, new: Any, place: str, direction: Direction) -> Iterator[Break]:
        """Every break between the two, at places that begin with `place`."""
        before, after = self._old.schema(old), self._new.schema(new)
        key = id(before), id(after), direction
        if key in self._seen:
            return
        self._seen.add(key)
        if direction is Direction.SENT:
            yield from _narrowed(before, after, place)
        else:
            yield from _widened(before, after, place)
        yield from self._compare_members(before, after, place, direction)
        yield from self._compare_alternatives(before, after, place, direction)

    def _compare_members(
        self, old: Mapping[str, Any], new: Mapping[str, Any], place: str, direction: Direction
    ) -> Iterator[Break]:
        before, after = old.get("properties", {}), new.get("properties", {})
        for name, schema in before.items():
            at = f"{place}/{name}"
            if name in after:
                yield from self.compare(schema, after[name], at, direction)
            else:
                yield Break("property-removed", at, direction)
        others_before = old.get("additionalProperties", True)
        others_after = new.get("additionalProperties", True)
        if direction is Direction.SENT and others_before is not False:
            if others_after is False:
                yield Break("object-closed", place)
            for name in after.keys() - before.keys():
                yield from self.compare(others_before, after[name], f"{place}/{name}", direction)
        if isinstance(others_before, dict) and others_after is not False:
            yield from self.compare(others_before, others_after, f"{place}/*", direction)
        if "items" in old or "items" in new:
            yield from self.compare(old.get("items"), new.get("items"), f"{place}/0", direction)

    def _compare_alternatives(
        self, old: Mapping[str, Any], new: Mapping[str, Any], place: str, direction: Direction
    ) -> Iterator[Break]:
        before, after = _alternatives(old), _alternatives(new)
        if direction is Direction.SENT and after:
            for number, one in enumerate(before or [_alone(old)], 1):
                if not any(self._fits(one, other, direction) for other in after):
                    yield Break("alternative-removed", place, f"number {number}")
        elif direction is Direction.GIVEN and before:
            for number, other in enumerate(after or [_alone(new)], 1):
                if not any(self._fits(one, other, direction) for one in before):
                    yield Break("alternative-added", place, f"number {number}")

    def _fits(self, old: Any, new: Any, direction: Direction) -> bool:
        """Whether there is no break; what was seen before is as it was."""
        trial = Comparison(self._old, self._new)
        trial._seen = set(self._seen)
        return next(trial.compare(old, new, "", direction), None) is None


def _narrowed(old: Mapping[str, Any], new: Mapping[str, Any], place: str) -> Iterator[Break]:
    """What the new schema does not take any more, without members and alternatives."""
    if lost := _types(old) - _types(new):
        yield Break("type-narrowed", place, ", ".join(sorted(lost)))
    allowed, allows = _values(old), _values(new)
    if allows is not None and (allowed is None or allowed - allows):
        yield Break("value-removed", place, ", ".join(sorted((allowed or set()) - allows)))
    for detail in _tightened(old, new, *_RANGES):
        yield Break("range-narrowed", place, detail)
    for detail in _tightened(old, new, *_LENGTHS):
        yield Break("length-narrowed", place, detail)
    for keyword in _CONDITIONS:
        if new.get(keyword, False) is not False and new[keyword] != old.get(keyword):
            yield Break("restriction-changed", place, keyword)
    for name in sorted(_required(new) - _required(old)):
        yield Break("property-required", f"{place}/{name}")
    if "default" in old and old["default"] != new.get("default"):
        yield Break("default-changed", place, f"{old['default']} -> {new.get('default')}")


def _widened(old: Mapping[str, Any], new: Mapping[str, Any], place: str) -> Iterator[Break]:
    """What the new schema gives besides, without members and alternatives."""
    if more := _types(new) - _types(old):
        yield Break("type-widened", place, ", ".join(sorted(more)))
    announced, gives = _values(old), _values(new)
    if announced is not None and not old.get("x-open-enum", False):
        added = {"any"} if gives is None else gives - announced
        if added:
            yield Break("value-added", place, ", ".join(sorted(added)))
    # What is tighter from new to old was widened from old to new.
    for detail in _tightened(new, old, *_RANGES):
        yield Break("range-widened", place, detail)
    if "format" in old and new.get("format") != old["format"]:
        yield Break("format-changed", place, f"{old['format']} -> {new.get('format')}")
    for name in sorted(_required(old) - _required(new)):
        if name in new.get("properties", {}):
            yield Break("property-optional", f"{place}/{name}")


def _tightened(
    loose: Mapping[str, Any],
    tight: Mapping[str, Any],
    lower: tuple[str, ...],
    upper: tuple[str, ...],
) -> Iterator[str]:
    """The bounds that the second has and that are not within the first's."""
    for keyword in lower:
        least = 0 if keyword.startswith("min") and keyword != "minimum" else _NO_BOUND[0]
        if tight.get(keyword, least) > loose.get(keyword, least):
            yield f"{keyword} {tight[keyword]}"
    for keyword in upper:
        if tight.get(keyword, _NO_BOUND[1]) < loose.get(keyword, _NO_BOUND[1]):
            yield f"{keyword} {tight[keyword]}"


def _types(schema: Mapping[str, Any]) -> frozenset[str]:
    declared = schema.get("type")
    if declared is None:
        return _TYPES
    names = {declared} if isinstance(declared, str) else set(declared)
    if "number" in names:
        names = names - {"number"} | {"integer", "fraction"}
    return frozenset(names | {"null"} if schema.get("nullable") else names)


def _values(schema: Mapping[str, Any]) -> set[str] | None:
    if "const" in schema:
        return {json.dumps(schema["const"], sort_keys=True)}
    if "enum" in schema:
        return {json.dumps(value, sort_keys=True) for value in schema["enum"]}
    return None


def _required(schema: Mapping[str, Any]) -> set[str]:
    return set(schema.get("required", ()))


def _alternatives(schema: Mapping[str, Any]) -> list[Any]:
    return [*schema.get("oneOf", ()), *schema.get("anyOf", ())]


def _alone(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in ("oneOf", "anyOf")}
