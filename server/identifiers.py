"""Identifiers: TypeIDs, a prefix and a UUIDv7, ordered by the time they are made."""

from __future__ import annotations

from typeid import TypeID


class TypeIdentifiers:
    """The port `hive.ports.Identifiers`."""

    def new(self, prefix: str) -> str:
        """A new identifier."""
        return str(TypeID(prefix))
