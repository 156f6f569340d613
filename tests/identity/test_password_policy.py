"""Which new passwords are taken: length, and what guessers try first; no rules of composition."""

from __future__ import annotations

import pytest

from server.password_policy import WeakPassword, check_password, common_passwords
from server.settings import SettingsError, load_settings

# The same letters, each as wide as two.
WIDE = "".join(chr(ord(letter) + 0xFEE0) for letter in "password")


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery staple",
        "nur kleine buchstaben",
        "7391846205",
        "p" + "q" * 7,
        "密码是一个很长的句子",
        "🐝 🦊 🐢 🐙 !",
        "x7" * 4 + "k",
        "the annals of september",
        "\u00e4" * 4 + "Zubr\u00f3wka",
        "a b" * 85 + "c",
    ],
)
def test_any_characters_make_a_password(password: str) -> None:
    """Small letters alone, digits alone, other scripts, spaces: nothing is demanded."""
    check_password(password, username="ann")


@pytest.mark.parametrize(
    ("password", "said"),
    [
        ("", "at least 8"),
        ("xk29vq7", "at least 8"),
        ("e\u0301a\u0301i\u0301o\u0301u\u0301y\u0301n\u0303", "at least 8"),
        ("\ufb03\ufb00\ufb01zx", None),
        ("aB3 " * 64 + "x", "at most 256"),
        ("\ufdfa" * 15, "at most 256"),
    ],
)
def test_characters_are_counted_as_they_are_hashed(password: str, said: str | None) -> None:
    """8 to 256 after NFKC: what is typed in two code points may be one character, or eighteen."""
    if said is None:
        check_password(password, username="ann")
        return
    with pytest.raises(WeakPassword, match=said):
        check_password(password, username="ann")


@pytest.mark.parametrize(
    "password",
    ["password", "PASSWORD1", "P@ssw0rd", "qwertyuiop", "12345678", WIDE, "iloveyou"],
)
def test_common_passwords_are_refused(password: str) -> None:
    """Whatever the case or the width of their letters."""
    with pytest.raises(WeakPassword, match="most common") as refusal:
        check_password(password, username="ann")
    assert (refusal.value.code, refusal.value.pointer) == ("weak-password", "/password")
    assert refusal.value.context == {}


@pytest.mark.parametrize(
    "password", ["aaaaaaaa", "abababababab", "passwordpassword", "zzz" * 50, "12341234123412341234"]
)
def test_repetition_of_something_short_is_refused(password: str) -> None:
    """A long password that is a short one many times is a short one."""
    with pytest.raises(WeakPassword):
        check_password(password, username="ann")


@pytest.mark.parametrize(
    ("username", "password"),
    [
        ("gertrude.stein", "gertrude.stein"),
        ("gertrude.stein", "GertrudeStein1"),
        ("gertrude.stein", "2026-gertrude-stein"),
        ("Ann", "ann12345"),
        ("Ann", "annpassword"),
        ("a b c d e f g", "A B C D E F G"),
        ("someone", "agentzero"),
        ("someone", "AgentZero-API"),
        ("someone", "agentzero2026!"),
    ],
)
def test_names_that_everybody_knows_are_refused(username: str, password: str) -> None:
    """The username and the product's name, also with a little that stands beside them."""
    with pytest.raises(WeakPassword, match="name"):
        check_password(password, username=username)


def test_name_in_a_long_password_does_no_harm() -> None:
    """What stands beside the name is a password by itself."""
    check_password("ann and seven tall giraffes", username="ann")
    check_password("banana-boat-7", username="a")


def test_pointer_names_the_field() -> None:
    """An operation says where in its body the password is."""
    with pytest.raises(WeakPassword) as refusal:
        check_password("password", username="ann", pointer="/new_password")
    assert refusal.value.pointer == "/new_password"


def test_list_is_a_real_one() -> None:
    """More of them than ASVS asks for (3,000) are long enough to be refused by nothing else."""
    assert sum(len(each) >= 8 for each in common_passwords()) > 10_000


@pytest.mark.parametrize(
    "password", ["short", "eleven chrs", "passwordpassword", "agentzero-admin", "x7kq " * 60]
)
def test_admin_password_of_the_settings_obeys(password: str) -> None:
    """Twelve characters at least, and the same list; the error names the variable only."""
    with pytest.raises(SettingsError, match="AGENTZERO_ADMIN_PASSWORD") as refusal:
        load_settings({"AGENTZERO_ADMIN_PASSWORD": password})
    assert password not in str(refusal.value)
