"""Parameters come in a URL, a header or a cookie as text, read strictly by its declared type."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from server.documents import Schema
from server.json_body import MAX_INTEGER, MIN_INTEGER

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,18})(?:\.[0-9]{1,32})?(?:[eE][-+]?[0-9]{1,3})?")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_BOOLEANS = {"true": True, "false": False}
# Styles of OpenAPI 3.0 that the contract uses, with the separator of an array that is not exploded.
_STYLES = {("query", "form"), ("path", "simple"), ("header", "simple"), ("cookie", "form")}


class NotOfType(ValueError):
    """The text is not written as the declared type is; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One declared parameter. `argument` is the name of the handler's keyword.

    One `for_pipeline` (`x-pipeline` in the contract) is checked like any other, and used by a part
    of the pipeline instead of the handler.
    """

    name: str
    location: str
    argument: str
    required: bool
    default: Any
    is_array: bool
    exploded: bool
    convert: Callable[[str], Any]
    schema: Schema
    for_pipeline: bool = False

    def read(self, texts: Sequence[str]) -> Any:
        """Give the typed value of the texts that came; raise NotOfType."""
        if not self.is_array:
            if len(texts) > 1:
                raise NotOfType("Given more than once.")
            return self.convert(texts[0])
        if not self.exploded:
            if len(texts) > 1:
                raise NotOfType("Given more than once.")
            texts = texts[0].split(",") if texts[0] else []
        return [self.convert(text) for text in texts]


def build_parameter(
    declared: Mapping[str, Any],
    schema: Mapping[str, Any],
    items: Mapping[str, Any],
    compiled: Schema,
) -> Parameter:
    """Make a Parameter of its declaration; `schema` and `items` are resolved.

    Raise ValueError for what is not supported.
    """
    location, name = declared["in"], declared["name"]
    style = declared.get("style", "form" if location in ("query", "cookie") else "simple")
    if (location, style) not in _STYLES:
        raise ValueError(f"style {style} in {location} is not supported")
    is_array = schema.get("type") == "array"
    kind = (items if is_array else schema).get("type")
    if kind not in _CONVERTERS:
        raise ValueError(f"type {kind} is not supported in a parameter")
    if location == "path" and not declared.get("required"):
        raise ValueError("a path parameter is always required")
    return Parameter(
        name=name,
        location=location,
        argument=argument_name(name),
        required=bool(declared.get("required")),
        default=schema.get("default"),
        is_array=is_array,
        exploded=bool(declared.get("explode", style == "form")),
        convert=_CONVERTERS[kind],
        schema=compiled,
        for_pipeline=bool(declared.get("x-pipeline")),
    )


def argument_name(name: str) -> str:
    """The keyword of the handler: `Idempotency-Key` is `idempotency_key`, `from` is `from_`.

    `__Host-` is a promise to browsers (RFC 6265bis) and no part of what a cookie is called here.
    """
    name = name.removeprefix("__Host-")
    argument = name.lower().replace("-", "_") if "-" in name else name
    return argument + "_" if keyword.iskeyword(argument) else argument


def parse_query(query: str, *, max_fields: int = 100) -> dict[str, list[str]]:
    """Split a query string; raise ValueError when it can't be decoded or has too many fields."""
    fields: dict[str, list[str]] = {}
    if not query:
        return fields
    if query.count("&") >= max_fields:
        raise ValueError(f"The query has more than {max_fields} fields.")
    for field in query.split("&"):
        if field:
            name, _, value = field.partition("=")
            fields.setdefault(decode_text(name, plus=True), []).append(
                decode_text(value, plus=True)
            )
    return fields


def decode_text(text: str, *, plus: bool = False) -> str:
    """Percent-decode once; raise ValueError for bad escapes, bad UTF-8 and NUL."""
    if plus:
        text = text.replace("+", " ")
    if _BAD_ESCAPE.search(text):
        raise ValueError("The URL has a malformed percent escape.")
    try:
        # What is not escaped came as single bytes, which Tornado reads as Latin-1.
        decoded = unquote_to_bytes(text.encode("latin-1")).decode("utf-8")
    except UnicodeError:
        raise ValueError("The URL is not UTF-8.") from None
    if "\0" in decoded:
        raise ValueError("The URL has a NUL character.")
    return decoded


def _to_integer(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise NotOfType("Not an integer.")
    value = int(text)
    if not MIN_INTEGER <= value <= MAX_INTEGER:
        raise NotOfType("Not an integer of 64 bits.")
    return value


def _to_number(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise NotOfType("Not a number.")
    value = float(text)
    if math.isinf(value):
        raise NotOfType("Not a number of 64 bits.")
    return value


def _to_boolean(text: str) -> bool:
    if text not in _BOOLEANS:
        raise NotOfType("Not true or false.")
    return _BOOLEANS[text]


_CONVERTERS: dict[Any, Callable[[str], Any]] = {
    "integer": _to_integer,
    "number": _to_number,
    "boolean": _to_boolean,
    "string": str,
}
