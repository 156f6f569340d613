"""One row of docs/limits.md, and how sizes are written in it."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

from hive.errors import HiveError
from server.closing import CloseCode, ErrorCode

_KIB = 1024


class Limit(NamedTuple):
    """One row: what is limited, to what, and the answer when it is exceeded."""

    what: str
    limit: str
    answer: type[HiveError] | CloseCode | ErrorCode | str
    note: str = ""


def size_of(count: int) -> str:
    """Bytes in the largest unit that divides them."""
    for unit, name in ((_KIB * _KIB, "MiB"), (_KIB, "KiB")):
        if count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count:,} bytes"


def default_of(function: Any, name: str) -> Any:
    """The default of a parameter."""
    return inspect.signature(function).parameters[name].default
