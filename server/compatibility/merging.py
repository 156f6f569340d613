"""Merges `allOf` into one schema, so that splitting a schema up is no change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_LOWER = frozenset({"minimum", "minLength", "minItems", "minProperties", "exclusiveMinimum"})
_UPPER = frozenset({"maximum", "maxLength", "maxItems", "maxProperties", "exclusiveMaximum"})


def merge(schema: Mapping[str, Any], follow: Callable[[Any], Any]) -> dict[str, Any]:
    """The schema without `allOf` at its top."""
    merged = {key: value for key, value in schema.items() if key != "allOf"}
    for branch in schema.get("allOf", ()):
        merged = _join(merged, merge(follow(branch), follow))
    return merged


def _join(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, Any]:
    joined = {**one, **two}
    for keyword in one.keys() & two.keys():
        first, second = one[keyword], two[keyword]
        if first == second:
            joined[keyword] = first
        elif keyword == "properties":
            joined[keyword] = _join_properties(first, second)
        elif keyword == "required":
            joined[keyword] = [*first, *(name for name in second if name not in first)]
        elif keyword == "enum":
            joined[keyword] = [value for value in first if value in second]
        elif keyword in _LOWER:
            joined[keyword] = max(first, second)
        elif keyword in _UPPER:
            joined[keyword] = min(first, second)
        elif keyword == "type":
            joined[keyword] = "integer" if {first, second} == {"integer", "number"} else second
        elif keyword in ("pattern", "format", "not"):
            # Both hold: opaque, but equal to itself.
            joined[keyword] = ["all of", first, second]
    return joined


def _join_properties(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **one,
        **{
            name: {"allOf": [one[name], schema]} if name in one else schema
            for name, schema in two.items()
        },
    }
