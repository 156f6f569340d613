"""Entity tags, and the changes that are made only to the version that a client has seen.

The tag of a resource with a version is `"<version>.<hash>"`, of any other representation
`"<hash>"` (RFC 9110, section 8.8). A content coding adds its name (`"7.9f86d081-gzip"`). `If-Match`
compares versions: every visible change makes a new one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from hive.errors import PreconditionFailed

ANY: Final = "*"
CODINGS: Final = ("-gzip", "-br", "-zstd")
"""What a content coding puts behind the tag of a representation."""
_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\uffff]*)"[ \t]*(?:,[ \t,]*|$)')
_VERSION = re.compile(r"(0|[1-9][0-9]{0,15})(?:\..*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class EntityTag:
    """One tag as a client sent it; `opaque` has no quotes and no coding behind it."""

    opaque: str
    coding: str = ""
    is_weak: bool = False


def read_tags(field: str) -> tuple[EntityTag, ...]:
    """The tags of a list; none when any of it can't be read, for then nothing is to match."""
    return tuple(_tags(field.strip(" \t,")))


def read_version(tag: EntityTag) -> int | None:
    """The version that a tag names; None when it names none."""
    found = _VERSION.fullmatch(tag.opaque)
    return int(found[1]) if found else None


class Versioned(Protocol):
    """Whatever has a version."""

    @property
    def version(self) -> int:
        """Grows by one with every visible change."""
        ...


V = TypeVar("V", bound=Versioned)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ExpectedVersions:
    """The versions that a change may be made to."""

    versions: frozenset[int]

    def require(self, version: int) -> None:
        """Raise PreconditionFailed unless it is one of them."""
        if version not in self.versions:
            raise PreconditionFailed(
                f"The resource is at version {version}. Read it again, and decide again."
            )

    def guard(self, decide: Callable[[V], T]) -> Callable[[V], T]:
        """The decision, which raises PreconditionFailed for any other version."""

        def decide_expected(current: V) -> T:
            self.require(current.version)
            return decide(current)

        return decide_expected


def read_if_match(field: str | None) -> ExpectedVersions | None:
    """What `If-Match` asks for; None for no such field and for `*`, which every resource meets.

    Weak tags match nothing (RFC 9110, section 13.1.1), like those that can't be read.
    """
    if field is None or field.strip() == ANY:
        return None
    found = [read_version(tag) for tag in read_tags(field) if not tag.is_weak]
    return ExpectedVersions(frozenset(version for version in found if version is not None))


def expecting(expected: ExpectedVersions | None, decide: Callable[[V], T]) -> Callable[[V], T]:
    """The decision as it is, or guarded by what is expected."""
    return decide if expected is None else expected.guard(decide)


def _tags(field: str) -> Iterator[EntityTag]:
    found: list[EntityTag] = []
    position = 0
    while position < len(field):
        match = _TAG.match(field, position)
        if match is None:
            return
        found.append(_tag(match[2], is_weak=match[1] is not None))
        position = match.end()
    yield from found


def _tag(opaque: str, *, is_weak: bool) -> EntityTag:
    for coding in CODINGS:
        if opaque.endswith(coding):
            return EntityTag(opaque.removesuffix(coding), coding, is_weak)
    return EntityTag(opaque, is_weak=is_weak)
