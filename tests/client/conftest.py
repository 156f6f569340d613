"""A fake hive for each test, and agents and clients that talk to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from agentzero_client import Agent, AsyncClient
from tests.client.fake_hive import FakeHive

RunningAgent = Callable[[Agent], Any]


@pytest.fixture(autouse=True)
def _no_identity_from_outside(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What the machine's own environment says of a hive is none of a test's business."""
    for name in ("AGENT_ID", "API_KEY", "REGISTRATION_KEY", "REGISTRATION_KEY_FILE", "SERVER"):
        monkeypatch.delenv(f"AGENTZERO_{name}", raising=False)
    monkeypatch.setenv("AGENTZERO_STATE_DIRECTORY", str(tmp_path_factory.mktemp("state")))


@pytest.fixture
async def hive() -> AsyncIterator[FakeHive]:
    """A fake hive; the test fails when client or fake broke a contract."""
    fake = FakeHive()
    await fake.start()
    try:
        yield fake
    finally:
        await fake.stop()
    assert fake.violations == []


@pytest.fixture
async def client(hive: FakeHive) -> AsyncIterator[AsyncClient]:
    """An admin's client."""
    async with AsyncClient(hive.url, api_key="admin-key") as connected:
        yield connected


@pytest.fixture
async def running(hive: FakeHive) -> AsyncIterator[Callable[[Agent], Any]]:
    """Gives a context that serves an agent for a while, and stops it."""
    async with AsyncExitStack() as stack:

        @asynccontextmanager
        async def run(agent: Agent) -> AsyncIterator[asyncio.Task[Any]]:
            serving = asyncio.create_task(agent.serve())
            try:
                yield serving
            finally:
                agent.stop()
                agent.stop()
                await asyncio.wait({serving}, timeout=10)
                assert serving.done(), "the agent does not stop"

        yield run
        await stack.aclose()
