"""Sessions: logging in, refreshing, logging in again."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from agentzero_client import AsyncClient, AuthenticationError
from tests.client.fake_hive import FakeHive, Trouble


def count(hive: FakeHive, verb: str) -> int:
    """How often an operation of the session was asked for."""
    return len([path for _, path, _ in hive.requests if path == f"/api/v1/auth/{verb}"])


async def test_password_logs_in_at_first_use_only(hive: FakeHive) -> None:
    """One login serves every request, however many start at once."""
    async with AsyncClient(hive.url, username="admin", password="secret") as client:
        await asyncio.gather(*(client.hive.status() for _ in range(5)))
    assert count(hive, "login") == 1


async def test_wrong_password_is_an_authentication_error(hive: FakeHive) -> None:
    """Nothing is tried again with it."""
    async with AsyncClient(hive.url, username="admin", password="wrong") as client:
        with pytest.raises(AuthenticationError, match="Invalid credentials"):
            await client.hive.status()
    assert count(hive, "login") == 1


async def test_token_is_refreshed_before_it_expires(
    hive: FakeHive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is enough: no request has to fail first."""
    clock = SimpleNamespace(now=1_000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("agentzero_client.credentials.time", clock)
    async with AsyncClient(hive.url, username="admin", password="secret") as client:
        await client.hive.status()
        clock.now += hive.expires_in - 31
        await client.hive.status()
        assert count(hive, "refresh") == 0
        clock.now += 2
        await client.hive.status()
    assert (count(hive, "login"), count(hive, "refresh")) == (1, 1)


async def test_rejected_token_is_refreshed_once_for_all_requests(hive: FakeHive) -> None:
    """A refresh token works once: requests that fail together share one exchange."""
    async with AsyncClient(hive.url, username="admin", password="secret") as client:
        await client.hive.status()
        hive.tokens.clear()
        statuses = await asyncio.gather(*(client.hive.status() for _ in range(5)))
    assert len(statuses) == 5
    assert (count(hive, "login"), count(hive, "refresh")) == (1, 1)


async def test_revoked_session_logs_in_again(hive: FakeHive) -> None:
    """The password is still good when the refresh token is not."""
    async with AsyncClient(hive.url, username="admin", password="secret") as client:
        await client.hive.status()
        hive.tokens.clear()
        hive.refresh_tokens.clear()
        await client.hive.status()
    assert (count(hive, "login"), count(hive, "refresh")) == (2, 1)


async def test_token_that_is_never_accepted_ends_in_an_error(hive: FakeHive) -> None:
    """One renewal per request, no circle."""
    hive.troubles.append(Trouble("GET", "hive", 401, "invalid-token", times=10))
    async with AsyncClient(hive.url, username="admin", password="secret") as client:
        with pytest.raises(AuthenticationError):
            await client.hive.status()
    assert len([path for _, path, _ in hive.requests if "hive" in path]) == 2


async def test_api_key_that_is_refused_is_not_tried_twice(hive: FakeHive) -> None:
    """There is nothing to renew it with."""
    async with AsyncClient(hive.url, api_key="wrong") as client:
        with pytest.raises(AuthenticationError, match="Invalid token"):
            await client.auth.me()
    assert len(hive.requests) == 1


async def test_login_refresh_me_and_logout(hive: FakeHive, client: AsyncClient) -> None:
    """The session by hand; tokens don't show in a print."""
    tokens = await client.auth.login("admin", "secret")
    assert tokens.access_token not in repr(tokens)
    assert (await client.auth.me()).role == "admin"
    assert (await client.auth.refresh()).access_token != tokens.access_token
    await client.auth.logout()
    await client.auth.me()
    assert count(hive, "login") == 2, "the next use logs in again"


async def test_api_key_has_no_session_to_refresh(client: AsyncClient) -> None:
    """Told here, without asking the server."""
    with pytest.raises(AuthenticationError, match="no session"):
        await client.auth.refresh()
