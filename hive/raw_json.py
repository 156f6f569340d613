"""Free-form JSON that the hive carries and never reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RawJson:
    """One JSON value as the UTF-8 bytes that came. Whoever makes one has checked its syntax."""

    encoded: bytes
