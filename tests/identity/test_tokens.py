"""Access tokens: ours are accepted, nothing else is."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519, rsa

from hive.errors import InvalidToken, TokenExpired, Unauthenticated
from hive.permissions import Role
from hive.token_keys import TokenAlgorithm
from server import key_material
from server.keys import Keys, SigningKey, WeakSecretError
from server.tokens import AccessTokens
from tests.identity import forging
from tests.identity.node import ISSUER, SECRET

HS256 = Keys.derive(SECRET).signing[0]
FORGE = forging.Forge(HS256)


def _rsa_key(bits: int) -> SigningKey:
    private = rsa.generate_private_key(public_exponent=65_537, key_size=bits)
    return SigningKey("rsa", "RS256", private.public_key(), private)


@pytest.fixture(scope="module")
def rs256() -> SigningKey:
    """An RS256 entry of the ring, beside the HS256 one."""
    return _rsa_key(2048)


@pytest.fixture(scope="module")
def forges(rs256: SigningKey) -> dict[str, forging.Forge]:
    """Somebody with the key of each algorithm in the ring."""
    eddsa = key_material.generate(TokenAlgorithm.EDDSA)
    return {key.algorithm: forging.Forge(key) for key in (HS256, rs256, eddsa)}


@pytest.fixture
def tokens(forges: dict[str, forging.Forge]) -> AccessTokens:
    """A ring of all kinds: the place where algorithms can be confused."""
    return AccessTokens([forge.key for forge in forges.values()], issuer=ISSUER)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to reach somebody fails the test."""

    def refuse(*args: object, **named: object) -> None:
        raise AssertionError(f"a token made us connect: {args} {named}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("algorithm", TokenAlgorithm)
def test_a_good_token_is_accepted(
    tokens: AccessTokens, forges: dict[str, forging.Forge], algorithm: str
) -> None:
    """What the corpus is made from does verify, or its refusals would prove nothing."""
    claims = tokens.verify(forges[algorithm].good())
    assert (claims.user_id, claims.session_id) == (forging.USER_ID, forging.SESSION_ID)
    assert claims.role is Role.USER


def test_issued_token_verifies_and_says_who(tokens: AccessTokens) -> None:
    """A token of ours carries user, session, role and its end, one hour ahead."""
    issued = tokens.issue("usr_1", "ses_1", Role.ADMIN)
    claims = tokens.verify(issued.encoded)
    assert (claims.user_id, claims.session_id, claims.role) == ("usr_1", "ses_1", Role.ADMIN)
    assert claims.expires_at == issued.expires_at
    assert abs(issued.expires_at - time.time() - 3600) < 5
    assert (
        claims.token_id
        != tokens.verify(tokens.issue("usr_1", "ses_1", Role.ADMIN).encoded).token_id
    )


@pytest.mark.parametrize("algorithm", TokenAlgorithm)
@pytest.mark.usefixtures("no_network")
def test_forged_tokens_are_refused(
    tokens: AccessTokens, forges: dict[str, forging.Forge], algorithm: str
) -> None:
    """Every one is 401, and none reaches for a key elsewhere."""
    accepted, details = [], set()
    for name, token in _corpus(forges, algorithm):
        try:
            tokens.verify(token)
            accepted.append(name)
        except Unauthenticated as error:
            details.add(error.detail)
    assert accepted == []
    assert details <= {"Invalid token", "Token expired"}


@pytest.mark.parametrize("algorithm", TokenAlgorithm)
def test_the_corpus_is_large_enough(forges: dict[str, forging.Forge], algorithm: str) -> None:
    """At least 60 forged tokens and every claim misused, all of them different."""
    corpus = list(_corpus(forges, algorithm))
    assert len({name for name, _ in corpus}) == len(corpus) >= 200


def _corpus(forges: dict[str, forging.Forge], algorithm: str) -> Iterator[tuple[str, str]]:
    forge = forges[algorithm]
    yield from forging.bad_headers(forge)
    yield from forging.unsigned(forge)
    yield from forging.bent(forge)
    yield from forging.bad_claims(forge)
    if algorithm != "RS256":
        yield from forging.confused(forges["RS256"], forge)


def test_expired_token_is_told_apart(tokens: AccessTokens) -> None:
    """A token of ours that ran out says so, eleven seconds after its end and not nine."""

    def ending(ago: int) -> str:
        claims = FORGE.claims(exp=int(time.time()) - ago)
        return FORGE.sign(FORGE.header(), claims)

    with pytest.raises(TokenExpired) as caught:
        tokens.verify(ending(11))
    assert caught.value.detail == "Token expired"
    assert tokens.verify(ending(8)).user_id == forging.USER_ID


def test_expired_token_with_a_bad_signature_is_just_invalid(tokens: AccessTokens) -> None:
    """Nobody learns from a forged token what time we think it is."""
    forged = forging.sign(FORGE.header(), FORGE.claims(exp=1), bytes(32))
    with pytest.raises(InvalidToken):
        tokens.verify(forged)


@pytest.mark.parametrize("kind", ["RS256", "EdDSA"])
def test_asymmetric_keys_sign_and_verify(rs256: SigningKey, kind: str) -> None:
    """The ring takes RS256 and EdDSA; the old key verifies while the new one signs."""
    ed = ed25519.Ed25519PrivateKey.generate()
    entry = rs256 if kind == "RS256" else SigningKey("ed", "EdDSA", ed.public_key(), ed)
    old = AccessTokens([HS256], issuer=ISSUER)
    new = AccessTokens([entry, HS256], issuer=ISSUER)
    assert new.verify(new.issue("usr_1", "ses_1", Role.USER).encoded).user_id == "usr_1"
    assert new.verify(old.issue("usr_2", "ses_2", Role.USER).encoded).user_id == "usr_2"
    with pytest.raises(InvalidToken):
        old.verify(new.issue("usr_1", "ses_1", Role.USER).encoded)


def test_a_token_of_another_secret_is_refused(tokens: AccessTokens) -> None:
    """Two installations don't accept each other's tokens."""
    other = AccessTokens(Keys.derive(bytes(range(100, 132))).signing, issuer=ISSUER)
    with pytest.raises(InvalidToken):
        tokens.verify(other.issue("usr_1", "ses_1", Role.ADMIN).encoded)


def test_previous_secret_still_verifies() -> None:
    """A change of the secret does not log everybody out."""
    old, new = bytes(range(40)), bytes(range(50, 90))
    token = AccessTokens(Keys.derive(old).signing, issuer=ISSUER).issue("usr_1", "s", Role.USER)
    ring = Keys.derive(new, previous=[old]).signing
    with pytest.raises(InvalidToken):
        AccessTokens(ring[:1], issuer=ISSUER).verify(token.encoded)
    with pytest.raises(InvalidToken, match="another kind"):
        # The signature holds under the old key; only the session's identifier is not one.
        AccessTokens(ring, issuer=ISSUER).verify(token.encoded)


@pytest.mark.parametrize(
    "secret",
    [b"", b"secret", b"x" * 31, b"x" * 64, b"changeme" * 4, b"abcdefg" * 6],
    ids=["empty", "short", "31-bytes", "one-letter", "word", "seven-letters"],
)
def test_weak_secret_is_refused(secret: bytes) -> None:
    """The server does not start with a secret that could be guessed."""
    with pytest.raises(WeakSecretError):
        Keys.derive(secret)


def test_every_purpose_has_its_own_key() -> None:
    """Signing, refreshing and cursors share nothing, and no key shows in a log."""
    keys = Keys.derive(SECRET)
    made = {keys.signing[0].private, keys.refresh, keys.cursors, SECRET}
    assert len(made) == 4
    assert {len(key) for key in made} == {32}
    assert not [key for key in made if repr(key) in repr(keys) + repr(keys.signing)]


@pytest.mark.parametrize(
    "entry",
    [
        lambda: SigningKey("short", "HS256", bytes(31), bytes(31)),
        lambda: _rsa_key(1024),
        lambda: SigningKey("none", "none", None, None),
        lambda: SigningKey("es", "ES256", None, None),
        lambda: SigningKey("text", "HS256", "x" * 32, "x" * 32),
        lambda: SigningKey("swapped", "RS256", HS256.public, HS256.private),
        lambda: SigningKey("swapped", "EdDSA", _rsa_key(2048).public, None),
        lambda: SigningKey("448", "EdDSA", ed448.Ed448PrivateKey.generate().public_key(), None),
    ],
    ids=["hs256-31-bytes", "rsa-1024", "none", "es256", "text", "not-rsa", "not-ed", "ed448"],
)
def test_weak_signing_key_stops_the_start(entry: Callable[[], SigningKey]) -> None:
    """A key that is too short, or of an algorithm that we don't use, never enters a ring."""
    with pytest.raises(ValueError, match=r"bits|bytes|not one of"):
        AccessTokens([entry()], issuer=ISSUER)


def test_a_ring_must_have_keys_and_distinct_names() -> None:
    """One kid is one key, and somebody has to sign."""
    with pytest.raises(ValueError, match="empty"):
        AccessTokens([], issuer=ISSUER)
    with pytest.raises(ValueError, match="one kid"):
        AccessTokens([HS256, HS256], issuer=ISSUER)
