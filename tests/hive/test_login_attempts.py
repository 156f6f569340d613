"""The decision whether a login may be verified: pure, by what is on record."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hive.login_attempts import (
    FAILURES_PER_NETWORK,
    GUESSES_PER_ACCOUNT,
    GUESSES_PER_KNOWN_PLACE,
    MAX_STREAK,
    WINDOW,
    History,
    Tally,
    network_of,
    time_to_wait,
)

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
FULL = Tally(1_000, NOW - timedelta(minutes=1))


def ago(count: int, **by: float) -> Tally:
    """So many failures, the oldest of them so long ago."""
    return Tally(count, NOW - timedelta(**by))


def test_bounds_are_those_that_are_promised() -> None:
    """Ten guesses on an account, thirty failures of a network, a quarter of an hour, a hundred."""
    bounds = (GUESSES_PER_ACCOUNT, GUESSES_PER_KNOWN_PLACE, FAILURES_PER_NETWORK, MAX_STREAK)
    assert bounds == (10, 10, 30, 100)
    assert timedelta(minutes=15) == WINDOW


def test_first_attempt_is_verified() -> None:
    """Nothing on record, nothing to wait for."""
    assert time_to_wait(History(), NOW) is None


@pytest.mark.parametrize(
    ("history", "wait"),
    [
        (History(account=ago(9, minutes=14)), None),
        (History(account=ago(10, minutes=14)), timedelta(minutes=1)),
        (History(network=ago(29, minutes=14)), None),
        (History(network=ago(30, minutes=5)), timedelta(minutes=10)),
        (History(account=ago(10, minutes=14), network=ago(30, minutes=5)), timedelta(minutes=10)),
        (History(streak=99), None),
        (History(streak=100), WINDOW),
        (History(account=ago(10, minutes=15)), timedelta(seconds=1)),
    ],
)
def test_unknown_place_shares_the_budgets(history: History, wait: timedelta | None) -> None:
    """The account's, the network's and the streak's; the longest wait is told."""
    assert time_to_wait(history, NOW) == wait


def test_known_place_is_touched_by_nobody_else() -> None:
    """Whatever others did to the account, from wherever, also from the same network."""
    history = History(known=True, streak=10_000, account=FULL, network=FULL)
    assert time_to_wait(history, NOW) is None


def test_known_place_has_a_bound_of_its_own() -> None:
    """Who guesses from there waits as well."""
    assert time_to_wait(History(known=True, place=ago(9, minutes=1)), NOW) is None
    wait = time_to_wait(History(known=True, place=ago(10, minutes=1)), NOW)
    assert wait == timedelta(minutes=14)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("a socket", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_network_is_what_one_party_can_move_in(address: str | None, network: str) -> None:
    """One IPv4 address, or a /64 of IPv6; whatever is none shares one budget."""
    assert network_of(address) == network
