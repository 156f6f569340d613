"""What the tests of the edge share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.api.conftest import (
    admin,
    agent,
    anonymous,
    node,
    other_user,
    people,
    user,
    viewer,
)
from tests.contract.running import serve_small
from tests.edge.wires import Wire, connect

__all__ = ["admin", "agent", "anonymous", "node", "other_user", "people", "user", "viewer"]


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    """A connection to the small server, whose bodies end at 64 KiB."""
    async with serve_small(max_body_bytes=64 * 1024) as (_, base), connect(base) as wire:
        yield wire
