"""What the tests of the contract engine share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from server.contract import Contract
from server.referee import Referee
from tests.contract.running import FIXTURES, load_small, serve_small


@pytest.fixture(scope="session")
def small() -> Contract:
    """The small contract."""
    return load_small()


@pytest.fixture(scope="session")
def referee() -> Referee:
    """The referee of the small contract."""
    return Referee(FIXTURES / "openapi.yaml")


@pytest.fixture
async def client(referee: Referee) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the small server that may do everything; every answer is judged."""

    async def judge(response: httpx.Response) -> None:
        await response.aread()
        referee.check_httpx(response)

    async with (
        serve_small() as (_, base),
        httpx.AsyncClient(
            base_url=base,
            headers={"Authorization": "Bearer everything"},
            event_hooks={"response": [judge]},
        ) as client,
    ):
        yield client
