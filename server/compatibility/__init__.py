"""Finds what would break clients of a released contract: docs/versioning.md's rules as a program.

`find_breaks(Release.read(old), Release.read(new))` compares two pairs of `openapi.yaml` and
`asyncapi.yaml`. What a client sends must still be taken, and what it gets must still be what it was
told. The comparison is by keyword: two schemas that mean the same and are written differently may
be called a break, never the other way round.
"""

from __future__ import annotations

from server.compatibility.breaks import RULES, Break
from server.compatibility.frames import frame_breaks
from server.compatibility.operations import operation_breaks
from server.compatibility.releases import Release


def find_breaks(old: Release, new: Release) -> list[Break]:
    """Every break of a client of the old contracts, in the order of the old documents."""
    return [*operation_breaks(old, new), *frame_breaks(old, new)]


__all__ = ["RULES", "Break", "Release", "find_breaks"]
