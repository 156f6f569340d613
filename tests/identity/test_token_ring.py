"""The ring of keys that sign access tokens: rotation, algorithms, nodes, and the end of keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import select

from hive.changes import Actor
from hive.errors import InvalidToken, Unavailable
from hive.permissions import Role
from hive.token_keys import CHANGED, MOST_KEYS, TokenAlgorithm, TooManyTokenKeys
from server import key_material
from server.keys import Keys
from server.sealing import Seal
from server.settings import SettingsError
from server.token_keys import SealedTokenKeys, TokenKeysUnreadable
from server.tokens import AccessTokens
from storage.sql.database import Database
from storage.sql.models import OutboxRow, TokenKeyRow
from storage.sql.token_keys import SqlTokenKeys
from tests.api.running import found
from tests.identity.node import ISSUER, SECRET, Clock
from tests.servers import eventually

ADMIN = Actor("usr_admin", "req_1", "aud_1")


class Alone:
    """Revocations of a node that hears of nobody but itself."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[str], None]] = []

    def on_revoked(self, callback: Callable[[str], None]) -> None:
        """Call back with what is announced."""
        self._callbacks.append(callback)

    def announce(self, subject_id: str) -> None:
        """Tell this node."""
        for callback in self._callbacks:
            callback(subject_id)


@dataclass(frozen=True)
class Ring:
    """The part of a node that this is about."""

    keys: SealedTokenKeys
    tokens: AccessTokens
    store: SqlTokenKeys

    def issue(self) -> str:
        """A token, signed with the key whose time it is."""
        return self.tokens.issue("usr_1", "ses_1", Role.USER).encoded

    def accepts(self, token: str) -> bool:
        """Whether the token verifies here."""
        try:
            return self.tokens.verify(token).user_id == "usr_1"
        except InvalidToken:
            return False

    @property
    def signing(self) -> str:
        """The algorithm of the key whose time it is."""
        return self.tokens.ring.signer().algorithm


@pytest.fixture
async def database(url: str, clock: Clock) -> AsyncIterator[Database]:
    """One database, that all nodes of a test share."""
    opened = Database(url, clock=clock)
    opened.migrate()
    yield opened
    opened.close()


def make_ring(database: Database, *, secret: bytes = SECRET, algorithm: str = "") -> Ring:
    """The ring of a node, not started."""
    keys = Keys.derive(secret)
    tokens = AccessTokens(keys.signing, issuer=ISSUER)
    store = SqlTokenKeys(database)
    service = SealedTokenKeys(
        store,
        tokens,
        Seal(keys.sealing),
        keys.signing[0],
        Alone(),  # type: ignore[arg-type]
        algorithm=algorithm,
    )
    return Ring(service, tokens, store)


@asynccontextmanager
async def started(database: Database, **options: str) -> AsyncIterator[Ring]:
    """A ring as long as the block runs."""
    ring = make_ring(database, **options)  # type: ignore[arg-type]
    await ring.keys.start()
    try:
        yield ring
    finally:
        await ring.keys.stop()


async def test_key_of_the_secret_signs_while_there_is_no_other(database: Database) -> None:
    """HS256, under the same kid on every node, and nothing of it is published."""
    one, other = make_ring(database), make_ring(database)
    await one.keys.load()
    await other.keys.load()
    assert one.signing == "HS256"
    assert other.accepts(one.issue())
    assert one.keys.public_keys() == []
    assert (await one.store.read()).keys == ()


@pytest.mark.parametrize("algorithm", TokenAlgorithm)
async def test_new_key_is_known_before_it_signs(
    database: Database, clock: Clock, algorithm: TokenAlgorithm
) -> None:
    """For two seconds the old one signs; then the new one; tokens of both verify on both nodes."""
    one, other = make_ring(database), make_ring(database)
    before = one.issue()
    await one.keys.rotate(ADMIN, algorithm)
    between = one.issue()
    assert jwt.get_unverified_header(between)["kid"] == jwt.get_unverified_header(before)["kid"]
    clock.advance(seconds=2.01)
    await one.keys.load()
    after = one.issue()
    header = jwt.get_unverified_header(after)
    assert header["alg"] == algorithm
    assert header["kid"] != jwt.get_unverified_header(before)["kid"]
    assert not other.accepts(after)
    await other.keys.load()
    for ring in (one, other):
        assert all(ring.accepts(token) for token in (before, between, after))
    assert jwt.get_unverified_header(other.issue())["kid"] == header["kid"]


async def test_time_to_sign_comes_without_another_look(database: Database, clock: Clock) -> None:
    """Each node knows beforehand when; a new key that had to be read late is not used early."""
    ring = make_ring(database)
    await ring.keys.rotate(ADMIN, TokenAlgorithm.EDDSA)
    clock.advance(seconds=1)
    await ring.keys.load()
    assert ring.signing == "HS256"
    await eventually(lambda: ring.signing == "EdDSA", "the new key signs", seconds=3)


async def test_old_key_verifies_until_its_last_token_has_expired(
    database: Database, clock: Clock
) -> None:
    """Then it is refused, and gone from the database."""
    ring = make_ring(database)
    old = ring.issue()
    first, new = await ring.keys.rotate(ADMIN)
    assert first.verifies_until is not None
    left = (first.verifies_until - new.signs_from).total_seconds()
    # A token's life, the leeway, and how late a node may hear of the new key.
    assert left == 3_600 + 10 + 2
    clock.advance(seconds=left)
    await ring.keys.load()
    assert ring.accepts(old)
    clock.advance(seconds=2.1)
    await ring.keys.load()
    assert not ring.accepts(old)
    assert [key.kid for key in (await ring.store.read()).keys] == [new.kid]
    assert ring.accepts(ring.issue())


async def test_old_key_ends_by_itself(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that hears nothing any more drops it in time, and its row is taken away."""
    monkeypatch.setattr("server.token_keys.RETRY_SECONDS", 0.05)
    async with started(database) as ring:
        old = ring.issue()
        clock.advance(seconds=-(3_600 + 10 + 2 + 2 - 0.5))
        await ring.keys.rotate(ADMIN)
        clock.advance(seconds=3_600 + 10 + 2 + 2 - 0.5)
        ring.keys._heard(CHANGED)
        await eventually(lambda: not ring.accepts(old), "the old key has ended", seconds=2)
        await found(ring.store.read, lambda stored: len(stored.keys) == 1, "its row is gone")


async def test_rotations_at_once_come_one_after_the_other(database: Database) -> None:
    """Of many on two nodes each makes one key; one is the newest, and all others have an end."""
    rings = [make_ring(database), make_ring(database)]
    results = await asyncio.gather(*(rings[n % 2].keys.rotate(ADMIN) for n in range(10)))
    keys = (await rings[0].store.read()).keys
    assert len(keys) == 11
    assert len({key.signs_from for key in keys}) == 11
    assert [key.kid for key in keys if key.verifies_until is None] == [keys[-1].kid]
    ends = [key.verifies_until for key in keys[:-1]]
    assert ends == sorted(ends, key=lambda end: end or pytest.fail("no end"))
    assert {result[-1].kid for result in results} == {key.kid for key in keys[1:]}
    for ring in rings:
        await ring.keys.load()
    assert list(rings[0].tokens.ring.known()) == [key.kid for key in keys]
    assert list(rings[1].tokens.ring.known()) == [key.kid for key in keys]


async def test_successor_signs_later_when_the_clock_went_back(
    database: Database, clock: Clock
) -> None:
    """The order of the ring is the order of the rotations, whatever the database's clock does."""
    ring = make_ring(database)
    first = (await ring.keys.rotate(ADMIN))[-1]
    clock.advance(seconds=-3_000)
    second = (await ring.keys.rotate(ADMIN))[-1]
    assert second.signs_from > first.signs_from
    assert [key.kid for key in (await ring.store.read()).keys][1:] == [first.kid, second.kid]


async def test_setting_of_another_algorithm_makes_one_key(database: Database) -> None:
    """Nodes that start together make one; a later start makes none; without it all stays."""
    rings = [make_ring(database, algorithm="EdDSA") for _ in range(3)]
    try:
        await asyncio.gather(*(ring.keys.start() for ring in rings))
    finally:
        for ring in rings:
            await ring.keys.stop()
    keys = (await rings[0].store.read()).keys
    assert [key.algorithm for key in keys] == ["HS256", "EdDSA"]
    for algorithm in ("EdDSA", ""):
        async with started(database, algorithm=algorithm) as ring:
            assert (await ring.store.read()).keys == keys
    async with started(database, algorithm="HS256") as ring:
        assert [key.algorithm for key in (await ring.store.read()).keys][2:] == ["HS256"]


async def test_algorithm_goes_on(database: Database) -> None:
    """Without a word the next key is of the newest key's algorithm, or of the settings'."""
    ring = make_ring(database)
    await ring.keys.rotate(ADMIN, TokenAlgorithm.EDDSA)
    assert (await ring.keys.rotate(ADMIN))[-1].algorithm == "EdDSA"
    fixed = make_ring(database, algorithm="RS256")
    assert (await fixed.keys.rotate(ADMIN))[-1].algorithm == "RS256"


async def test_keys_are_strong_and_stay_what_they_are(database: Database) -> None:
    """RSA of 3,072 bits, Ed25519, 32 bytes; another node restores the same ones."""
    one, other = make_ring(database), make_ring(database)
    for algorithm in TokenAlgorithm:
        await one.keys.rotate(ADMIN, algorithm)
    await other.keys.load()
    known = one.tokens.ring.known()
    restored = other.tokens.ring.known()
    assert list(known) == list(restored)
    for kid, key in known.items():
        assert restored[kid].algorithm == key.algorithm
        assert key_material.secret_part(restored[kid]) == key_material.secret_part(key)
    rsa = next(key.private for key in known.values() if key.algorithm == "RS256")
    assert isinstance(rsa, RSAPrivateKey)
    assert rsa.key_size == 3_072


async def test_published_keys_verify_our_tokens(database: Database, clock: Clock) -> None:
    """Whoever reads the key set can check a token, and finds no secret and nothing of HS256."""
    ring = make_ring(database)
    for algorithm in (TokenAlgorithm.RS256, TokenAlgorithm.EDDSA, TokenAlgorithm.HS256):
        _, *_, new = await ring.keys.rotate(ADMIN, algorithm)
        published = json.loads(json.dumps(ring.keys.public_keys()))
        assert (new.kid in {jwk["kid"] for jwk in published}) is (algorithm != "HS256")
        clock.advance(seconds=2.01)
        await ring.keys.load()
        token = ring.issue()
        assert jwt.get_unverified_header(token)["kid"] == new.kid
        if algorithm != "HS256":
            key = jwt.PyJWKSet.from_dict({"keys": published})[new.kid]
            claims = jwt.decode(token, key, [algorithm.value], audience="agentzero-api")
            assert claims["sub"] == "usr_1"
    shown = ring.keys.public_keys()
    assert sorted(jwk["alg"] for jwk in shown) == ["EdDSA", "RS256"]
    public = {"kty", "kid", "alg", "use", "n", "e", "crv", "x"}
    assert all(set(jwk) <= public and jwk["use"] == "sig" for jwk in shown)


async def test_rotation_leaves_an_event_without_secrets(database: Database) -> None:
    """`system.token_keys_rotated` names the key, the actor and the call, for admins only."""
    ring = make_ring(database)
    _, new = await ring.keys.rotate(ADMIN, TokenAlgorithm.EDDSA)
    (row,) = await database.read(lambda sql: list(sql.scalars(select(OutboxRow))))
    assert (row.event_type, row.subject, row.owner) == (
        "system.token_keys_rotated",
        "system",
        None,
    )
    assert (row.actor, row.request_id, row.call_id) == ("usr_admin", "req_1", "aud_1")
    assert set(row.data) == {"kid", "algorithm", "signs_from"}
    assert (row.data["kid"], row.data["algorithm"]) == (new.kid, "EdDSA")


async def test_no_secret_is_stored_or_shown(sqlite_url: str) -> None:
    """Neither in the database's files nor in the text of any object."""
    database = Database(sqlite_url)
    database.migrate()
    ring = make_ring(database)
    for algorithm in TokenAlgorithm:
        keys = await ring.keys.rotate(ADMIN, algorithm)
        assert "sealed" not in repr(keys)
    secrets = [key_material.secret_part(key) for key in ring.tokens.ring.known().values()]
    assert len(secrets) == 4
    folder = Path(sqlite_url.removeprefix("sqlite:///")).parent
    content = b"".join(each.read_bytes() for each in folder.iterdir())
    database.close()
    for secret in secrets:
        assert secret[-24:] not in content
        assert secret.hex() not in repr(ring.tokens.ring.known())


async def test_another_secret_stops_the_start_in_words(database: Database) -> None:
    """It names the variable; the way out makes a new key and forgets the others."""
    ring = make_ring(database)
    old = ring.issue()
    await ring.keys.rotate(ADMIN, TokenAlgorithm.EDDSA)
    stranger = make_ring(database, secret=bytes(range(100, 140)))
    with pytest.raises(SettingsError, match="AGENTZERO_SECRET_KEY"):
        await stranger.keys.start()
    await stranger.keys.stop()
    keys = await stranger.keys.replace_unreadable(ADMIN)
    assert [key.algorithm for key in keys] == ["HS256", "EdDSA"]
    await stranger.keys.load()
    assert stranger.accepts(stranger.issue())
    assert not stranger.accepts(old)


@pytest.mark.parametrize("change", ["kid", "algorithm", "sealed"])
async def test_sealed_key_can_not_be_moved(database: Database, change: str) -> None:
    """Not to another kid or algorithm, and no bit of it can change."""
    ring = make_ring(database)
    _, new = await ring.keys.rotate(ADMIN, TokenAlgorithm.EDDSA)
    bent = new.sealed[:-1] + bytes([new.sealed[-1] ^ 1])
    values = {"kid": "0" * 16, "algorithm": "HS256", "sealed": bent}

    def work(sql: object) -> None:
        row = sql.get(TokenKeyRow, new.kid)  # type: ignore[attr-defined]
        setattr(row, change, values[change])

    await database.write(work)
    with pytest.raises(TokenKeysUnreadable):
        await make_ring(database).keys.load()


async def test_ring_outlives_a_database_that_is_away(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was known goes on, and what was missed is read when it answers again."""
    monkeypatch.setattr("server.token_keys.RETRY_SECONDS", 0.01)
    async with started(database) as ring:
        asked = asyncio.Event()
        read = ring.store.read

        async def refuse() -> None:
            asked.set()
            raise Unavailable

        monkeypatch.setattr(ring.store, "read", refuse)
        await make_ring(database).keys.rotate(ADMIN, TokenAlgorithm.EDDSA)
        ring.keys._heard(CHANGED)
        await asked.wait()
        assert ring.accepts(ring.issue())
        monkeypatch.setattr(ring.store, "read", read)
        await eventually(lambda: len(ring.keys.public_keys()) == 1, "the new key is known")


async def test_changes_of_others_are_no_change_of_the_ring(database: Database) -> None:
    """The end of a session does not make every node read the keys again."""
    ring = make_ring(database)
    ring.keys._heard("ses_1")
    assert not ring.keys._changed.is_set()


async def test_ring_is_bounded(database: Database, clock: Clock) -> None:
    """Rotating faster than tokens expire conflicts, until the first has expired."""
    ring = make_ring(database)
    for _ in range(MOST_KEYS - 1):
        await ring.keys.rotate(ADMIN)
    with pytest.raises(TooManyTokenKeys):
        await ring.keys.rotate(ADMIN)
    clock.advance(seconds=3_700)
    keys = await ring.keys.rotate(ADMIN)
    assert len(keys) == 2
