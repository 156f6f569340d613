"""Dataclasses out of JSON objects. Unknown members are ignored: a newer server may send more."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from agentzero_client.errors import UnexpectedAnswerError

T = TypeVar("T")


def decode_model(model: type[T], body: Any) -> T:
    """Make a `model` of a JSON object; raise UnexpectedAnswerError when a member is missing."""
    if not isinstance(body, Mapping):
        raise UnexpectedAnswerError(
            f"expected an object for {model.__name__}, got {type(body).__name__}"
        )
    values: dict[str, Any] = {}
    for name, hint, required in _members(model):  # type: ignore[arg-type]  # mypy asks T.
        if name in body:
            values[name] = _value(hint, body[name], f"{model.__name__}.{name}")
        elif required:
            raise UnexpectedAnswerError(f"{model.__name__} without {name}")
    return model(**values)


def decode_list(model: type[T], body: Any) -> list[T]:
    """Make a list of `model` of a JSON array."""
    if not isinstance(body, list):
        raise UnexpectedAnswerError(
            f"expected an array of {model.__name__}, got {type(body).__name__}"
        )
    return [decode_model(model, item) for item in body]


@cache
def _members(model: type[Any]) -> tuple[tuple[str, Any, bool], ...]:
    hints = get_type_hints(model)
    return tuple(
        (
            field.name,
            hints[field.name],
            field.default is MISSING and field.default_factory is MISSING,
        )
        for field in fields(model)
    )


def _value(hint: Any, value: Any, where: str) -> Any:
    if get_origin(hint) in (types.UnionType, Union):
        if value is None:
            return None
        hint = next(part for part in get_args(hint) if part is not type(None))
    if hint is datetime:
        return _time(value, where)
    if get_origin(hint) is list and isinstance(value, list):
        (item_hint,) = get_args(hint)
        return [_value(item_hint, item, where) for item in value]
    if isinstance(hint, type) and is_dataclass(hint):
        return decode_model(hint, value)
    return value


def _time(value: Any, where: str) -> datetime:
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise UnexpectedAnswerError(f"{where} is no RFC 3339 time: {value!r}") from error
