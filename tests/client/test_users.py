"""Users and sessions by the client, against the real server."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from agentzero_client import (
    AsyncClient,
    AuthenticationError,
    Client,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
    ProblemError,
)
from tests.api.running import PASSWORD, RunningNode, running_node

pytestmark = pytest.mark.asyncio(loop_scope="module")
NEW = "a better battery for horses"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(
    tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str
) -> AsyncIterator[RunningNode]:
    """The product, running."""
    async with running_node(tmp_path_factory.mktemp("node"), mongodb_uri) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def admin(node: RunningNode) -> AsyncIterator[AsyncClient]:
    """A client of the first admin."""
    async with AsyncClient(node.url, username="admin", password=PASSWORD) as client:
        yield client


def _name() -> str:
    return f"user-{uuid.uuid4().hex[:8]}"


async def test_a_user_is_made_changed_and_deleted(admin: AsyncClient) -> None:
    """The life of a user, typed."""
    name = _name()
    made = await admin.users.create(name, PASSWORD, role="viewer")
    assert (made.username, made.role, made.disabled, made.version) == (name, "viewer", False, 1)
    with pytest.raises(ConflictError, match="username-taken"):
        await admin.users.create(name, PASSWORD)
    changed = await admin.users.update(made.user_id, role="user", disabled=True)
    assert (changed.role, changed.disabled, changed.version) == ("user", True, 2)
    assert await admin.users.get(made.user_id) == changed
    listed = [user async for user in admin.users.list(role="user", disabled=True)]
    assert changed in listed
    await admin.users.delete(made.user_id)
    with pytest.raises(NotFoundError, match="user-not-found"):
        await admin.users.get(made.user_id)
    with pytest.raises(ValueError, match="role or disabled"):
        await admin.users.update(made.user_id)


async def test_the_last_admin_is_told_apart(admin: AsyncClient) -> None:
    """By a code of its own."""
    me = await admin.auth.me()
    with pytest.raises(ConflictError, match="last-admin"):
        await admin.users.delete(me.principal_id)


async def test_a_changed_password_is_the_one_to_log_in_with(
    node: RunningNode, admin: AsyncClient
) -> None:
    """The client goes on by itself, also when its session ends later."""
    name = _name()
    user = await admin.users.create(name, PASSWORD)
    async with AsyncClient(node.url, username=name, password=PASSWORD) as client:
        with pytest.raises(ProblemError, match="wrong-password"):
            await client.auth.change_password("not this one", NEW)
        await client.auth.change_password(PASSWORD, NEW)
        assert await admin.users.revoke_sessions(user.user_id) == 1
        assert (await client.auth.me()).username == name
    async with AsyncClient(node.url, api_key=node.directory.find_operator_key()) as client:
        with pytest.raises(PermissionDeniedError, match="session-required"):
            await client.auth.change_password(PASSWORD, NEW)


async def test_a_reset_password_does_not_show_in_a_print(
    node: RunningNode, admin: AsyncClient
) -> None:
    """It works once it is handed over; a given one does not come back."""
    name = _name()
    user = await admin.users.create(name, PASSWORD)
    reset = await admin.users.reset_password(user.user_id)
    assert reset.password is not None
    assert reset.password not in repr(reset)
    async with AsyncClient(node.url, username=name, password=reset.password) as client:
        assert (await client.auth.me()).principal_id == user.user_id
    assert (await admin.users.reset_password(user.user_id, password=NEW)).password is None


async def test_sessions_are_seen_and_ended(node: RunningNode, admin: AsyncClient) -> None:
    """One's own, and those of others by an admin."""
    name = _name()
    user = await admin.users.create(name, PASSWORD)
    clients = [AsyncClient(node.url) for _ in range(3)]
    tokens = [await client.auth.login(name, PASSWORD) for client in clients]
    sessions = [session async for session in clients[0].sessions.list()]
    assert [session.current for session in sessions] == [False, False, True]
    seen = [session.session_id async for session in admin.users.sessions(user.user_id, limit=2)]
    assert seen == [session.session_id for session in sessions[:2]]
    await clients[0].sessions.revoke(sessions[0].session_id)
    with pytest.raises(NotFoundError, match="session-not-found"):
        await clients[0].sessions.revoke(sessions[0].session_id)
    assert await clients[0].sessions.revoke_others() == 1
    await admin.users.revoke_session(user.user_id, sessions[2].session_id)
    async with AsyncClient(node.url, token=tokens[0].access_token) as ended:
        with pytest.raises(AuthenticationError):
            await ended.auth.me()
    for client in clients:
        await client.close()


async def test_the_blocking_client_has_them_too(node: RunningNode) -> None:
    """The same methods, waiting."""

    def use() -> list[str]:
        with Client(node.url, username="admin", password=PASSWORD) as client:
            user = client.users.create(_name(), PASSWORD)
            assert [s.session_id for s in client.users.sessions(user.user_id)] == []
            assert user in list(client.users.list(role="user"))
            return [str(session.current) for session in client.sessions.list(limit=1)]

    assert len(await asyncio.to_thread(use)) == 1
