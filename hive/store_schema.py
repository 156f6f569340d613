"""Which version the documents of a store have, and who may use them.

The version grows with each migration. Migrations only go forward, and a node that runs while a
newer one migrates goes on: a change expands first (new fields beside the old ones), and a later
version contracts (takes the old ones away). `readable_from` is the oldest version whose nodes
understand the documents as they are.
"""

from __future__ import annotations

from dataclasses import dataclass


class StoreRefused(Exception):
    """This release can't work with what is in the store; the text says what to do."""


@dataclass(frozen=True, slots=True)
class StoreSchema:
    """The versions of a store: 0 before anything was written."""

    version: int
    readable_from: int


def check_readable(schema: StoreSchema, newest: int) -> None:
    """Raise StoreRefused when a release that knows versions up to `newest` is too old for it."""
    if newest < schema.readable_from:
        raise StoreRefused(
            f"MongoDB holds documents of version {schema.version}, which releases from version "
            f"{schema.readable_from} on can read; this release knows version {newest}. "
            "Start the release that migrated them, or a newer one."
        )
