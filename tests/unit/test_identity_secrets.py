"""The text form of API keys and refresh tokens."""

from __future__ import annotations

import math
import random
import re
import secrets
import string

import pytest

from hive.secrets import API_KEY, REFRESH_TOKEN, SecretFormat, fingerprint, visible_prefix

BOTH = pytest.mark.parametrize("form", [API_KEY, REFRESH_TOKEN], ids=["api-key", "refresh-token"])


def _make(form: SecretFormat) -> str:
    return form.encode(secrets.token_bytes(form.entropy_bytes))


@BOTH
def test_ten_thousand_secrets_are_distinct_and_well_formed(form: SecretFormat) -> None:
    """No duplicates, one length, the prefix, and a checksum that fits."""
    made = {_make(form) for _ in range(10_000)}
    assert len(made) == 10_000
    assert {len(secret) for secret in made} == {len(form.prefix) + form.digits + 6}
    assert all(form.is_well_formed(secret) for secret in made)
    assert all(re.fullmatch(rf"{form.prefix}[0-9A-Za-z]{{36,}}", secret) for secret in made)


def test_api_keys_carry_at_least_178_bits() -> None:
    """So many that a fast hash is enough to store them."""
    assert API_KEY.entropy_bytes * 8 >= 178
    assert API_KEY.digits * math.log2(62) >= 178
    assert REFRESH_TOKEN.entropy_bytes * 8 >= 256


@BOTH
@pytest.mark.parametrize("fill", [b"\x00", b"\xff"], ids=["zeros", "ones"])
def test_extreme_entropy_has_the_same_length(form: SecretFormat, fill: bytes) -> None:
    """Leading zeros are written, and the largest number fits."""
    secret = form.encode(fill * form.entropy_bytes)
    assert form.is_well_formed(secret)
    assert len(secret) == len(form.prefix) + form.digits + 6


@BOTH
def test_every_single_typing_error_is_seen(form: SecretFormat) -> None:
    """Each changed, dropped, doubled or swapped character breaks the checksum or the length."""
    secret = _make(form)
    wrong = set()
    for at in range(len(secret)):
        other = random.choice([c for c in string.ascii_letters if c != secret[at]])
        wrong.add(secret[:at] + other + secret[at + 1 :])
        wrong.add(secret[:at] + secret[at + 1 :])
        wrong.add(secret[:at] + secret[at] + secret[at:])
        wrong.add(secret[:at] + secret[at : at + 2][::-1] + secret[at + 2 :])
    wrong.discard(secret)
    assert [text for text in wrong if form.is_well_formed(text)] == []


@BOTH
@pytest.mark.parametrize("text", ["", "azk_", "azr_", "azk_é", "\0" * 43, "azk_" + "٣" * 39])
def test_junk_is_not_well_formed(form: SecretFormat, text: str) -> None:
    """Nothing that is not ASCII base62 of the right length passes."""
    assert not form.is_well_formed(text)


def test_kinds_are_not_interchangeable() -> None:
    """A refresh token is no API key, and the reverse."""
    assert not API_KEY.is_well_formed(_make(REFRESH_TOKEN))
    assert not REFRESH_TOKEN.is_well_formed(_make(API_KEY))


def test_random_strings_never_pass_the_checksum() -> None:
    """Of 10^5 well-shaped guesses none has the right checksum (chance: 1 in 40,000)."""
    generator = random.Random(7)
    alphabet = string.ascii_letters + string.digits
    guesses = ("azk_" + "".join(generator.choices(alphabet, k=39)) for _ in range(100_000))
    assert not any(API_KEY.is_well_formed(guess) for guess in guesses)


def test_wrong_length_of_entropy_is_a_mistake() -> None:
    """A caller that brings too little is told so."""
    with pytest.raises(ValueError, match="expected 24 bytes"):
        API_KEY.encode(b"short")


def test_what_is_shown_and_kept_does_not_give_the_key() -> None:
    """The prefix shows ten characters; the fingerprint is SHA-256 in hex."""
    secret = _make(API_KEY)
    assert visible_prefix(secret) == secret[:10]
    assert re.fullmatch(r"[0-9a-f]{64}", fingerprint(secret))
    assert secret not in fingerprint(secret)
