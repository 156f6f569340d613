"""JSON as the contract wants it: UTF-8, no NaN, integers of any size kept exactly."""

from __future__ import annotations

import json
from typing import Any


class NotJsonError(ValueError):
    """A value that JSON has no form for."""


def encode(value: Any) -> bytes:
    """Encode strictly; raise NotJsonError for NaN, lone surrogates, cycles and foreign types."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise NotJsonError(f"not JSON: {error}") from error


def decode(text: str | bytes) -> Any:
    """Decode; raise NotJsonError for what is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotJsonError(f"not JSON: {error}") from error
