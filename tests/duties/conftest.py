"""A store on a database of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.storage.store import Store, open_store


@pytest.fixture
async def store(mongodb_uri: str, database_name: str) -> AsyncIterator[Store]:
    """Real MongoDB, with indexes."""
    async with open_store(mongodb_uri, database_name) as opened:
        yield opened
