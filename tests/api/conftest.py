"""Fixtures of the API tests: one node and one set of people for each module."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.api.running import PEOPLE, Agent, Api, RunningNode, running_node


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(
    tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str
) -> AsyncIterator[RunningNode]:
    """The product, running."""
    async with running_node(tmp_path_factory.mktemp("node"), mongodb_uri) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def people(node: RunningNode) -> dict[str, Api]:
    """A logged-in client for each of `user`, `other_user` and `viewer`."""
    for name, role in PEOPLE.items():
        await node.add_user(name, role)
    return {name: await node.log_in(name) for name in PEOPLE}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def admin(node: RunningNode) -> Api:
    """A client of the admin that the first start made."""
    return await node.log_in("admin")


@pytest.fixture(scope="module")
def user(people: dict[str, Api]) -> Api:
    """A client of role user."""
    return people["user"]


@pytest.fixture(scope="module")
def other_user(people: dict[str, Api]) -> Api:
    """A client of another user."""
    return people["other_user"]


@pytest.fixture(scope="module")
def viewer(people: dict[str, Api]) -> Api:
    """A client of role viewer."""
    return people["viewer"]


@pytest.fixture(scope="module")
def anonymous(node: RunningNode) -> Api:
    """A client without a credential."""
    return node.client()


@pytest_asyncio.fixture(loop_scope="module")
async def agent(node: RunningNode, admin: Api) -> Agent:
    """A new agent with one slot and no capabilities, for one test."""
    return await node.add_agent(admin)
