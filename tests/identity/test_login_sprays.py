"""What is remembered to notice sprays: bounded, for a while, and without secrets."""

from __future__ import annotations

from structlog.testing import capture_logs

from server.login_sprays import COUNTED, REMEMBERED, LoginSprays


class Hands:
    """A clock that a test moves."""

    now = 1_000.0

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now


def spray(sprays: LoginSprays, accounts: range, password: str = "Winter2026!") -> int:
    """Try a password once on each account, from a network each; how many warnings that gave."""
    with capture_logs() as logs:
        for number in accounts:
            sprays.note(f"account {number}", f"network {number}", password)
    return len(logs)


def test_tenth_account_is_one_too_many() -> None:
    """Nine are people who forgot; the same account again and again is not a spray."""
    sprays = LoginSprays()
    assert spray(sprays, range(9)) == 0
    assert spray(sprays, range(9)) == 0
    assert spray(sprays, range(9, 10)) == 1


def test_password_is_known_in_any_of_its_forms() -> None:
    """Two ways to type it are one password; another one starts anew."""
    sprays = LoginSprays()
    assert spray(sprays, range(5), "Z\u00fcrich-2026") == 0
    assert spray(sprays, range(5, 10), "Zu\u0308rich-2026") == 1
    assert spray(sprays, range(9), "Basel-2026") == 0


def test_warning_comes_once_a_minute() -> None:
    """However many accounts are tried meanwhile."""
    hands = Hands()
    sprays = LoginSprays(hands)
    assert spray(sprays, range(100)) == 1
    hands.now += 59
    assert spray(sprays, range(100)) == 0
    hands.now += 1
    assert spray(sprays, range(100)) == 1


def test_slow_trying_is_forgotten() -> None:
    """Two accounts every four minutes are eight within the window."""
    hands = Hands()
    sprays = LoginSprays(hands)
    for number in range(0, 100, 2):
        assert spray(sprays, range(number, number + 2)) == 0
        hands.now += 240


def test_memory_is_bounded() -> None:
    """Random passwords and networks push each other out; a long spray keeps its latest accounts."""
    sprays = LoginSprays()
    for number in range(3 * REMEMBERED):
        sprays.note("account", f"network {number}", f"password {number}")
    assert len(sprays._tried) == REMEMBERED
    spray(sprays, range(10 * COUNTED))
    assert max(len(tried.accounts) for tried in sprays._tried.values()) == COUNTED


def test_nothing_that_is_kept_can_be_read() -> None:
    """Passwords are a keyed hash whose key no other process has."""
    one, other = LoginSprays(), LoginSprays()
    for sprays in (one, other):
        sprays.note("account", "network", "a secret")
    assert "a secret" not in repr(one._tried)
    assert one._tried.keys() != other._tried.keys()
