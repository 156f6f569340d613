"""Signing keys and nonces on both databases: exact limits, one taker for each nonce, bounded."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from typeid import TypeID

from hive.changes import Actor
from hive.errors import Unavailable
from hive.permissions import Principal, Role
from hive.signing import (
    MOST_KEYS,
    RequestSignature,
    SignatureInvalid,
    SignatureReplayed,
    SigningAlgorithm,
    SigningKeyNotFound,
    TooManySigningKeys,
)
from server.identifiers import TypeIdentifiers
from server.sealing import Seal
from server.signing_keys import SealedSigningKeys
from storage.sql.models import ApiKeyRow, OutboxRow, SignatureNonceRow
from storage.sql.nonces import SWEPT, SqlNonces
from storage.sql.signing_keys import SqlSigningKeys
from tests.identity.node import Clock, Node

ACTOR = Actor("usr_test", "req_test", "aud_test")


def service(node: Node) -> SealedSigningKeys:
    """The service as `server/bootstrap/` makes it."""
    return SealedSigningKeys(
        SqlSigningKeys(node.database),
        Seal(node.keys.sealing),
        node.revocations,
        TypeIdentifiers(),
    )


async def principal(node: Node, username: str = "ann") -> Principal:
    """A new user, as one who came with a session."""
    user_id = await node.add_user(username)
    return Principal(user_id, username, Role.USER, frozenset(), session_id="ses_1")


async def create(keys: SealedSigningKeys, who: Principal, key_id: str | None = None) -> str:
    """An HMAC key; its identifier."""
    issued = await keys.create(
        who,
        name="n",
        algorithm=SigningAlgorithm.HMAC_SHA256,
        public_key=None,
        key_id=key_id,
        actor=ACTOR,
    )
    assert issued.secret is not None
    assert keys.secret_of(issued.key) == issued.secret
    assert issued.secret not in (issued.key.sealed or b"")
    return issued.key.signing_key_id


def signature(keyid: str, nonce: str = "0123456789abcdef", ago: float = 0) -> RequestSignature:
    """What a verified signature says."""
    return RequestSignature(keyid, nonce, int(time.time() - ago))


async def test_the_limit_holds_for_keys_that_come_at_once(node: Node) -> None:
    """Whoever registers for the same owner waits, and counts after the other's commit."""
    keys, who = service(node), await principal(node)
    made = await asyncio.gather(
        *(create(keys, who) for _ in range(MOST_KEYS + 5)), return_exceptions=True
    )
    refused = [one for one in made if isinstance(one, BaseException)]
    assert len(made) - len(refused) == MOST_KEYS
    assert all(isinstance(one, TooManySigningKeys) for one in refused)
    assert len(await keys.usable_by(who)) == MOST_KEYS


async def test_a_change_has_one_event_and_a_second_revocation_none(node: Node) -> None:
    """Revoking is idempotent, and nobody else's."""
    keys, who = service(node), await principal(node)
    key = await create(keys, who)
    other = await principal(node, "bob")
    with pytest.raises(SigningKeyNotFound):
        await keys.revoke(other, key, ACTOR)
    await keys.revoke(who, key, ACTOR)
    await keys.revoke(who, key, ACTOR)
    assert not await keys.usable_by(who)
    events = await node.database.read(
        lambda sql: sql.execute(
            select(OutboxRow.event_type, OutboxRow.owner, OutboxRow.call_id)
            .where(OutboxRow.subject == key)
            .order_by(OutboxRow.position)
        ).all()
    )
    types = ("signing_key.created", "signing_key.revoked")
    assert [tuple(row) for row in events] == [
        (event_type, who.principal_id, "aud_test") for event_type in types
    ]


async def test_all_keys_of_an_owner_are_revoked_at_once(node: Node) -> None:
    """Bound to an API key or not; each with its event, no other owner's, and once only."""
    keys, store, who = service(node), SqlSigningKeys(node.database), await principal(node)
    user = await node.store.find_user(who.principal_id)
    assert user is not None
    api_key = (await node.api_keys.issue_user_key(user, "machine", ACTOR)).key.key_id
    own = [await create(keys, who), await create(keys, who, key_id=api_key)]
    other = await principal(node, "bob")
    others = await create(keys, other)
    await keys.revoke(who, await create(keys, who), ACTOR)
    operator = Actor("system:operator")
    assert await store.revoke_all(who.principal_id, operator) == 2
    assert await store.revoke_all(who.principal_id, operator) == 0
    await node.revocations.poll()
    assert not await keys.usable_by(who)
    assert not await keys.usable_by(replace(who, key_id=api_key))
    assert list(await keys.usable_by(other)) == [others]
    events = await node.database.read(
        lambda sql: sql.execute(
            select(OutboxRow.subject, OutboxRow.owner, OutboxRow.event_type)
            .where(OutboxRow.actor == "system:operator")
            .order_by(OutboxRow.position)
        ).all()
    )
    assert [tuple(row) for row in events] == [
        (key, who.principal_id, "signing_key.revoked") for key in sorted(own)
    ]


async def test_registrations_at_the_same_time_are_before_or_after(node: Node) -> None:
    """A key that is live at the end was registered behind the revocation of all."""
    keys, store, who = service(node), SqlSigningKeys(node.database), await principal(node)
    counts: list[int] = []

    async def revoke_all() -> None:
        counts.append(await store.revoke_all(who.principal_id, ACTOR))

    await asyncio.gather(*(create(keys, who) for _ in range(MOST_KEYS)), revoke_all(), revoke_all())
    live = await store.usable(who.principal_id, None)
    assert sum(counts) + len(live) == MOST_KEYS
    assert await store.revoke_all(who.principal_id, ACTOR) == len(live)


async def test_a_key_signs_however_often_it_was_rotated(node: Node) -> None:
    """Else the hundredth successor could do unsigned what the first key could not."""
    keys, who = service(node), await principal(node)
    user = await node.store.find_user(who.principal_id)
    assert user is not None
    first = (await node.api_keys.issue_user_key(user, "machine", ACTOR)).key
    bound = await create(keys, who, key_id=first.key_id)

    def rotate(sql: Session) -> str:
        row = sql.get_one(ApiKeyRow, first.key_id)
        columns = {column.key: getattr(row, column.key) for column in ApiKeyRow.__table__.columns}
        for n in range(100):
            row.successor_id = f"{first.key_id}{n}"
            row = ApiKeyRow(**columns | {"key_id": row.successor_id, "key_hash": str(n)})
            sql.add(row)
        return row.key_id

    last = await node.database.write(rotate)
    assert list(await keys.usable_by(replace(who, session_id=None, key_id=last))) == [bound]


async def test_another_node_hears_of_a_key_by_polling(node: Node) -> None:
    """What a node believed is dropped once it has heard, and after 500 ms in any case."""
    here, there, who = service(node), service(node), await principal(node)
    assert not await there.usable_by(who)
    key = await create(here, who)
    await node.revocations.poll()
    assert await there.usable_by(who)
    assert list(await there.usable_by(who)) == [key]


async def test_a_nonce_has_one_taker(node: Node) -> None:
    """Of many at once, too; another key's nonce is another one."""
    keys, nonces, who = service(node), SqlNonces(node.database), await principal(node)
    first, second = await create(keys, who), await create(keys, who)
    taken = await asyncio.gather(
        *(nonces.use(signature(first)) for _ in range(20)), return_exceptions=True
    )
    assert [one for one in taken if not isinstance(one, SignatureReplayed)] == [None]
    await nonces.use(signature(second))


async def test_a_nonce_is_remembered_for_longer_than_its_signature_is_good(
    node: Node, clock: Clock
) -> None:
    """At every instant a second use is refused: as a replay, then as too old."""
    keys, nonces, who = service(node), SqlNonces(node.database), await principal(node)
    key = await create(keys, who)
    early = signature(key, ago=-299)
    await nonces.use(early)
    for seconds in (0, 300, 296):
        clock.advance(seconds=seconds)
        await _use_another(nonces, key, clock)
        with pytest.raises(SignatureReplayed):
            await nonces.use(early)
    clock.advance(seconds=5)
    with pytest.raises(SignatureInvalid):
        await nonces.use(early)


async def _use_another(nonces: SqlNonces, key: str, clock: Clock) -> None:
    used = RequestSignature(key, str(TypeID()), int(clock().timestamp()))
    await nonces.use(used)


async def test_old_nonces_are_forgotten_in_bounded_batches(node: Node, clock: Clock) -> None:
    """Each use takes up to so many away; none that still counts."""
    keys, nonces, who = service(node), SqlNonces(node.database), await principal(node)
    key = await create(keys, who)
    old = clock() - timedelta(days=1)
    await node.database.write(
        lambda sql: sql.add_all(
            SignatureNonceRow(nonce_hash=f"{n:064x}", expires_at=old) for n in range(SWEPT + 10)
        )
    )

    async def count() -> int:
        return await node.database.read(
            lambda sql: sql.scalar(select(func.count()).select_from(SignatureNonceRow)) or 0
        )

    await nonces.use(signature(key, "a" * 16))
    assert await count() == 11
    await asyncio.gather(*(nonces.use(signature(key, f"{n:016}")) for n in range(8)))
    assert await count() == 9


async def test_a_revoked_key_is_refused_in_the_transaction_of_its_nonce(node: Node) -> None:
    """A node that has not heard yet accepts nothing either."""
    keys, nonces, who = service(node), SqlNonces(node.database), await principal(node)
    key = await create(keys, who)
    await nonces.use(signature(key, "a" * 16))
    found = await keys.get(who, key)
    assert found.last_used_at is not None
    await SqlSigningKeys(node.database).revoke(key, ACTOR)
    with pytest.raises(SignatureInvalid, match="revoked"):
        await nonces.use(signature(key, "b" * 16))


async def test_without_the_database_no_nonce_is_taken(sqlite_node: Node) -> None:
    """Unavailable, whatever is known of the keys."""
    keys, nonces = service(sqlite_node), SqlNonces(sqlite_node.database)
    who = await principal(sqlite_node)
    key = await create(keys, who)
    assert await keys.usable_by(who)
    with sqlite_node.database.engine.connect().execution_options(begin="IMMEDIATE") as other:
        other.exec_driver_sql("SELECT 1")
        with pytest.raises(Unavailable):
            await nonces.use(signature(key))
