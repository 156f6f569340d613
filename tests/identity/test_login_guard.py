"""The record of failed logins on each kind of database: exact under concurrency, and bounded."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from hive.errors import HiveError, InvalidCredentials, Unavailable
from hive.login_attempts import WINDOW, Attempt, TooManyAttempts
from server import login_guard
from server.login_guard import LoginGuard
from storage.sql.login_failures import SqlLoginFailures
from storage.sql.models import LoginFailureRow, LoginPlaceRow, LoginStreakRow
from tests.identity.node import PASSWORD, Clock, Node

HOME = "198.51.100.7"


@pytest.fixture
def failures(node: Node) -> SqlLoginFailures:
    """The record."""
    return SqlLoginFailures(node.database)


async def count(node: Node, table: Any) -> int:
    """How many rows there are."""
    return await node.database.read(
        lambda sql: sql.scalar(select(func.count()).select_from(table)) or 0
    )


async def outcome(node: Node, password: str, address: str, name: str = "ann") -> str:
    """What a login gives: `in`, or the code of the refusal."""
    try:
        await node.accounts.login(name, password, address=address)
    except HiveError as error:
        return error.code
    return "in"


async def test_parallel_reservations_never_exceed_a_bound(
    node: Node, failures: SqlLoginFailures
) -> None:
    """From twenty-five places at once ten are let through; the rest leaves nothing on record."""
    tried = await asyncio.gather(
        *(failures.reserve("account", f"10.0.0.{number}") for number in range(25)),
        return_exceptions=True,
    )
    kinds = Counter(type(each) for each in tried)
    assert kinds == {Attempt: 10, TooManyAttempts: 15}
    assert await count(node, LoginFailureRow) == 10


async def test_reservations_that_share_accounts_and_networks_all_come_to_an_end(
    node: Node, failures: SqlLoginFailures
) -> None:
    """Locks are taken in one order, so no two wait for each other; a network fails thirty times."""
    for start in range(0, 80, 20):
        tried = await asyncio.gather(
            *(
                failures.reserve(f"account {n % 8}", f"10.0.0.{n // 16}")
                for n in range(start, start + 20)
            ),
            return_exceptions=True,
        )
        assert {type(each) for each in tried} == {Attempt}, tried
    assert await count(node, LoginFailureRow) == 80
    tried = await asyncio.gather(
        *(failures.reserve(f"other {n}", "10.0.0.0") for n in range(20)), return_exceptions=True
    )
    assert sum(isinstance(each, Attempt) for each in tried) == 30 - 16


async def test_success_takes_back_and_is_remembered(node: Node, clock: Clock) -> None:
    """The place is known for thirty days, from the last success on."""
    await node.add_user("ann")
    assert await outcome(node, PASSWORD, HOME) == "in"
    assert await count(node, LoginFailureRow) == 0
    assert await count(node, LoginStreakRow) == 0
    for days, known in ((29, True), (29, True), (31, False)):
        clock.advance(days=days)
        for number in range(12):
            await outcome(node, "wrong", f"10.0.0.{number}")
        assert await outcome(node, PASSWORD, HOME) == ("in" if known else "too-many-attempts")


async def test_failures_and_places_don_t_pile_up(node: Node, clock: Clock) -> None:
    """What no longer counts is deleted; an account at the cap stays there."""
    await node.add_user("ann")
    assert await outcome(node, PASSWORD, HOME) == "in"
    for number in range(25):
        await outcome(node, "wrong", f"10.0.1.{number}", f"nobody {number}")
    assert await count(node, LoginFailureRow) == 25
    clock.advance(minutes=15)
    await outcome(node, "wrong", "10.0.2.1", "somebody")
    assert await count(node, LoginFailureRow) == 1
    for _ in range(10):
        for number in range(10):
            await outcome(node, "wrong", f"10.0.3.{number}", "capped")
        clock.advance(minutes=15)
    clock.advance(days=31)
    assert await outcome(node, PASSWORD, "10.0.4.1") == "in"
    assert await count(node, LoginStreakRow) == 1
    assert await count(node, LoginPlaceRow) == 1
    assert await outcome(node, "wrong", "10.0.4.2", "capped") == "too-many-attempts"


async def test_what_was_not_verified_is_taken_back(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full pool of hashing threads costs nobody an attempt."""
    await node.add_user("ann")
    await outcome(node, "wrong", "10.0.0.1")

    async def full(*_: object, **__: object) -> None:
        raise Unavailable

    with monkeypatch.context() as patch:
        patch.setattr(node.passwords, "verify", full)
        for _ in range(20):
            assert await outcome(node, PASSWORD, "10.0.0.1") == "unavailable"
    assert await count(node, LoginFailureRow) == 1
    streak = await node.database.read(lambda sql: sql.scalar(select(LoginStreakRow.failures)))
    assert streak == 1


async def test_attempt_that_is_cut_off_stays_on_record(node: Node) -> None:
    """Whoever hangs up while the hash is computed has guessed all the same."""
    await node.add_user("ann")
    verifying = asyncio.Event()

    async def stuck() -> None:
        async with node.accounts._guard.attempt("ann", "wrong", "10.0.0.1"):
            verifying.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(stuck())
    await verifying.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await count(node, LoginFailureRow) == 1


async def test_names_tried_are_not_on_record(node: Node) -> None:
    """What somebody typed into the wrong field may be a password: only a keyed hash is kept."""
    await outcome(node, "wrong", "10.0.0.1", "hunter2 typed here")
    accounts = await node.database.read(
        lambda sql: sql.scalars(select(LoginFailureRow.account)).all()
    )
    assert "hunter2" not in str(accounts)
    other_key = LoginGuard(SqlLoginFailures(node.database), b"another key")
    assert accounts != [other_key._account("hunter2 typed here")]
    assert accounts == [node.accounts._guard._account(" HUNTER2 typed here ")]


async def test_logins_under_way_are_bounded(
    sqlite_node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound a login is refused at once, before anything is read or written."""
    monkeypatch.setattr(login_guard, "MAX_UNDER_WAY", 5)
    outcomes = Counter(
        await asyncio.gather(
            *(outcome(sqlite_node, "wrong", f"10.0.0.{n}", f"user {n}") for n in range(30))
        )
    )
    assert outcomes == {"invalid-credentials": 5, "unavailable": 25}
    guard = sqlite_node.accounts._guard
    assert (guard._under_way, guard._turns) == (0, {})


async def test_places_stay_known_as_long_as_sessions_live(node: Node, clock: Clock) -> None:
    """Where sessions may live for a year, a place is known for a year."""
    await node.add_user("ann")
    year = LoginGuard(SqlLoginFailures(node.database), b"key", session_lifetime=timedelta(days=365))
    async with year.attempt("ann", PASSWORD, HOME):
        pass
    clock.advance(days=364)
    for number in range(10):
        with pytest.raises(InvalidCredentials):
            async with year.attempt("ann", "wrong", f"10.0.0.{number}"):
                raise InvalidCredentials
    with pytest.raises(TooManyAttempts) as refusal:
        async with year.attempt("ann", PASSWORD, "10.0.1.1"):
            pytest.fail("this was not to be verified")
    assert 0 < refusal.value.retry_after_seconds <= WINDOW.total_seconds()
    async with year.attempt("ann", PASSWORD, HOME):
        pass
