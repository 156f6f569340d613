"""API keys on every kind of database: what their maker may give, rotation, warning, events."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from hive.api_key_ports import ApiKeyFilter
from hive.api_keys import (
    MOST_KEYS,
    ApiKeyEnded,
    ApiKeyNotFound,
    ApiKeyRotated,
    KeyExceedsMaker,
    KeyStatus,
    KeyWish,
    TooManyApiKeys,
    UnknownScope,
)
from hive.errors import HiveError, InvalidToken, Unavailable
from hive.identity_ports import IssuedKey
from hive.permissions import PERMISSIONS, ROLE_PERMISSIONS, Principal, Role
from server.cancelling import cancel_and_wait
from server.key_expiry import BATCH, KeyExpiry
from storage.sql.models import ApiKeyRow, OutboxRow, UserRow
from tests.identity.node import ACTOR, PASSWORD, Clock, Node

OVERLAP = timedelta(hours=1)
ROOM = 10
SCOPED = ("api-keys:write", "api-keys:read", "tasks:read")


@dataclass(frozen=True)
class Person:
    """A user of the node and the principal of its session."""

    node: Node
    principal: Principal

    async def make(self, name: str = "a key", **wish: Any) -> IssuedKey:
        """Make a key in the session."""
        return await make(self.node, self.principal, name, **wish)


async def make(node: Node, maker: Principal, name: str = "a key", **wish: Any) -> IssuedKey:
    """Make a key with any credential."""
    return await node.api_keys.create(maker, KeyWish(name, **wish), ACTOR)


async def person(node: Node, name: str, role: Role = Role.USER) -> Person:
    """A new user that is logged in."""
    await node.add_user(name, role)
    pair = await node.accounts.login(name, PASSWORD)
    return Person(node, await node.authenticator.authenticate(pair.access_token))


async def opened(node: Node, issued: IssuedKey, address: str | None = None) -> Principal:
    """The principal of a key."""
    return await node.authenticator.authenticate(issued.secret, address)


@pytest.fixture
async def ann(node: Node) -> Person:
    """A user."""
    return await person(node, "ann")


@pytest.fixture
async def root(node: Node) -> Person:
    """An admin."""
    return await person(node, "root", Role.ADMIN)


async def events(node: Node, subject: str) -> list[OutboxRow]:
    """The events of a subject, oldest first."""

    def work(sql: Any) -> list[OutboxRow]:
        chosen = select(OutboxRow).where(OutboxRow.subject == subject).order_by(OutboxRow.position)
        return list(sql.scalars(chosen))

    return await node.database.read(work)


async def test_the_limit_holds_for_keys_that_are_made_at_once(ann: Person) -> None:
    """No more than the limit come through together, and one that ended makes room."""
    for _ in range(MOST_KEYS - ROOM):
        await ann.make()
    made = await asyncio.gather(*(ann.make() for _ in range(2 * ROOM)), return_exceptions=True)
    keys = [one for one in made if isinstance(one, IssuedKey)]
    assert len(keys) == ROOM
    assert sum(isinstance(one, TooManyApiKeys) for one in made) == ROOM
    await ann.node.api_keys.revoke(ann.principal, keys[0].key.key_id, ACTOR)
    await ann.make()
    with pytest.raises(TooManyApiKeys):
        await ann.make()


async def test_key_without_scopes_is_all_of_its_owner(node: Node, ann: Person) -> None:
    """Made in a session, a key may do what the user may, for ever and from everywhere."""
    issued = await ann.make()
    principal = await opened(node, issued)
    assert principal.permissions == ROLE_PERMISSIONS[Role.USER]
    assert (issued.key.scopes, issued.key.expires_at) == (frozenset(), None)


async def test_a_session_that_has_ended_leaves_no_key_behind(node: Node, ann: Person) -> None:
    """Other nodes believe a session for a moment longer; a key made then would outlive it."""
    issued = await ann.make()
    await node.store.revoke_session(str(ann.principal.session_id))
    with pytest.raises(InvalidToken):
        await ann.make()
    with pytest.raises(InvalidToken):
        await node.api_keys.rotate(ann.principal, issued.key.key_id, ACTOR, overlap=OVERLAP)
    keys = await node.api_keys.list(ann.principal, ApiKeyFilter(), after=None, limit=10)
    assert [seen.key.key_id for seen in keys] == [issued.key.key_id]


async def test_scopes_narrow_the_key(node: Node, ann: Person) -> None:
    """A key holds the scopes and nothing else."""
    principal = await opened(node, await ann.make(scopes=("tasks:read",)))
    assert principal.permissions == {"tasks:read"}


async def test_unknown_scope_is_pointed_at(ann: Person) -> None:
    """What is no permission is named by its place in the body."""
    with pytest.raises(UnknownScope) as caught:
        await ann.make(scopes=("tasks:read", "tasks:eat"))
    assert caught.value.pointer == "/scopes/1"


async def test_scopes_that_the_maker_lacks_are_refused(node: Node) -> None:
    """Every permission, each by itself: given when it is held, else forbidden."""
    for role in (Role.USER, Role.VIEWER, Role.ADMIN):
        maker = await person(node, role.value, role)
        held = ROLE_PERMISSIONS[role]
        issued = await maker.make(scopes=tuple(sorted(held)))
        assert issued.key.scopes == held
        for permission in sorted(PERMISSIONS - held):
            with pytest.raises(KeyExceedsMaker):
                await maker.make(scopes=(permission,))


async def test_scoped_key_passes_its_scopes_on_and_no_more(node: Node, ann: Person) -> None:
    """Without scopes a key that is made with a key gets that key's, not the user's."""
    maker = await opened(node, await ann.make(scopes=SCOPED))
    inherited = await make(node, maker)
    assert (await opened(node, inherited)).permissions == set(SCOPED)
    with pytest.raises(KeyExceedsMaker):
        await make(node, maker, scopes=("tasks:write",))


async def test_key_of_a_lesser_role_makes_no_greater_one(node: Node, ann: Person) -> None:
    """A user's key stays a user's when the user becomes an admin, and so do those it makes."""
    maker = await opened(node, await ann.make())

    def promote(sql: Any) -> None:
        sql.execute(update(UserRow).values(role=Role.ADMIN.value))

    await node.database.write(promote)
    made = await make(node, maker)
    assert (await opened(node, made)).role is Role.USER
    with pytest.raises(KeyExceedsMaker):
        await make(node, maker, scopes=("users:write",))


async def test_demoted_maker_is_judged_by_the_new_role(node: Node, root: Person) -> None:
    """The rights that count are those in the transaction, not those of the request's start."""

    def demote(sql: Any) -> None:
        sql.execute(update(UserRow).values(role=Role.VIEWER.value))

    await node.database.write(demote)
    with pytest.raises(KeyExceedsMaker):
        await root.make(scopes=("users:write",))
    assert (await root.make()).key.role is Role.VIEWER


async def test_ended_maker_makes_nothing(node: Node, ann: Person) -> None:
    """A key that was revoked, or whose user was disabled, since it was authenticated."""
    issued = await ann.make()
    maker = await opened(node, issued)
    await node.key_store.revoke(ann.principal, issued.key.key_id, ACTOR)
    with pytest.raises(InvalidToken):
        await make(node, maker)

    def disable(sql: Any) -> None:
        sql.execute(update(UserRow).values(disabled=True))

    await node.database.write(disable)
    with pytest.raises(InvalidToken):
        await ann.make()


async def test_key_made_with_a_key_does_not_outlive_it(node: Node, ann: Person) -> None:
    """A longer life is cut, an endless one too; a shorter one stays."""
    maker = await ann.make(expires_in_days=10)
    principal = await opened(node, maker)
    ends = [
        (await make(node, principal, expires_in_days=days)).key.expires_at for days in (None, 90, 5)
    ]
    assert ends[:2] == [maker.key.expires_at] * 2
    assert ends[2] is not None
    assert maker.key.expires_at is not None
    assert timedelta(days=4.9) < maker.key.expires_at - ends[2] < timedelta(days=5)


async def test_key_made_with_a_key_keeps_within_its_addresses(node: Node, ann: Person) -> None:
    """Addresses are inherited, may be narrowed, and not widened."""
    networks = ("192.0.2.0/24", "2001:db8::/32")
    maker = await opened(node, await ann.make(allowed_addresses=networks), "192.0.2.1")
    assert (await make(node, maker)).key.allowed_addresses == networks
    narrowed = await make(node, maker, allowed_addresses=("192.0.2.128/25",))
    assert narrowed.key.allowed_addresses == ("192.0.2.128/25",)
    for wider in ("192.0.0.0/16", "198.51.100.1", "::/0", "2001:db9::/32"):
        with pytest.raises(KeyExceedsMaker):
            await make(node, maker, allowed_addresses=(wider,))


async def test_others_keys_are_not_there(node: Node, ann: Person, root: Person) -> None:
    """Getting, revoking and rotating another's key is as for a key that never was."""
    bob = await person(node, "bob")
    theirs = (await bob.make()).key.key_id
    agents = (await node.api_keys.issue_agent_key("agt_1", "worker", ACTOR)).key.key_id
    for key_id in (theirs, agents, "key_never", "no\0where", "küche", ""):
        caller = ann.principal
        refusals: list[HiveError] = []
        for work in (
            node.api_keys.get(caller, key_id),
            node.api_keys.revoke(caller, key_id, ACTOR),
            node.api_keys.rotate(caller, key_id, ACTOR, overlap=OVERLAP),
        ):
            with pytest.raises(ApiKeyNotFound) as caught:
                await work
            refusals.append(caught.value)
        assert {(r.code, r.title, r.detail) for r in refusals} == {
            ("api-key-not-found", "API key not found", "API key not found")
        }
    assert (await node.api_keys.get(root.principal, agents)).key.agent_id == "agt_1"


async def test_lists_are_ones_own_and_everybodys_for_admins(
    node: Node, ann: Person, root: Person, clock: Clock
) -> None:
    """Newest first, by owner and status, page by page."""
    mine = [(await ann.make(f"k{n}")).key.key_id for n in range(3)]
    short = (await ann.make("short", expires_in_days=1)).key.key_id
    agents = (await node.api_keys.issue_agent_key("agt_1", "worker", ACTOR, owner_id="usr_1")).key
    await node.api_keys.revoke(ann.principal, mine[0], ACTOR)
    clock.advance(days=2)

    async def listed(caller: Principal, after: str | None = None, **wanted: Any) -> list[str]:
        seen = await node.api_keys.list(caller, ApiKeyFilter(**wanted), after=after, limit=10)
        return [one.key.key_id for one in seen]

    ann_id = ann.principal.principal_id
    assert await listed(ann.principal) == [short, *reversed(mine)]
    assert await listed(ann.principal, after=mine[2]) == [mine[1], mine[0]]
    assert await listed(ann.principal, owner="agt_1") == []
    assert await listed(ann.principal, status=KeyStatus.REVOKED) == [mine[0]]
    assert await listed(ann.principal, status=KeyStatus.EXPIRED) == [short]
    assert await listed(ann.principal, status=KeyStatus.ACTIVE) == [mine[2], mine[1]]
    assert await listed(root.principal) == [agents.key_id, short, *reversed(mine)]
    assert await listed(root.principal, owner="agt_1") == [agents.key_id]
    assert await listed(root.principal, owner="usr_1") == []
    assert await listed(root.principal, owner=ann_id) == [short, *reversed(mine)]


async def test_revoking_is_idempotent(node: Node, ann: Person) -> None:
    """The second time changes nothing, not even when it was."""
    issued = await ann.make()
    first = await node.api_keys.revoke(ann.principal, issued.key.key_id, ACTOR)
    again = await node.api_keys.revoke(ann.principal, issued.key.key_id, ACTOR)
    assert (first.status, again) == (KeyStatus.REVOKED, first)
    told = [event.event_type for event in await events(node, issued.key.key_id)]
    assert told == ["api_key.created", "api_key.revoked"]
    with pytest.raises(InvalidToken):
        await opened(node, issued)


async def test_keys_of_the_agents_that_a_user_registered_are_the_agents(
    node: Node, root: Person
) -> None:
    """An agent that is named as the operator's key loses nothing when that one is replaced."""
    user_id = root.principal.principal_id
    agents = await node.api_keys.issue_agent_key("agt_1", "operator", ACTOR, owner_id=user_id)
    own = await root.make("operator")
    assert await node.api_keys.revoke_user_keys(user_id, "operator", ACTOR) == 1
    with pytest.raises(InvalidToken):
        await opened(node, own)
    assert (await opened(node, agents)).agent_id == "agt_1"


async def test_successor_is_the_same_with_another_secret(node: Node, root: Person) -> None:
    """Name, kind, role, scopes, addresses and life; both keys work until the overlap ends."""
    wish = {"scopes": SCOPED, "allowed_addresses": ("192.0.2.0/24",), "expires_in_days": 30}
    for old in (
        await root.make("ci", **wish),
        await node.api_keys.issue_agent_key("agt_1", "worker", ACTOR, owner_id="usr_1"),
    ):
        new = await node.api_keys.rotate(
            root.principal, old.key.key_id, ACTOR, overlap=timedelta(hours=1)
        )
        same = ("name", "kind", "role", "scopes", "allowed_addresses", "owner_id", "agent_id")
        assert [getattr(new.key, n) for n in same] == [getattr(old.key, n) for n in same]
        assert new.secret != old.secret
        left = (await node.api_keys.get(root.principal, old.key.key_id)).key
        assert left.successor_id == new.key.key_id
        assert left.expires_at is not None
        assert timedelta(minutes=59) < left.expires_at - datetime.now(UTC) < timedelta(hours=1)
        old_life = old.key.expires_at and old.key.expires_at - old.key.created_at
        assert (new.key.expires_at and new.key.expires_at - new.key.created_at) == old_life
        a, b = [await opened(node, key, "192.0.2.1") for key in (old, new)]
        assert replace(a, key_id=None, expires_at=None) == replace(b, key_id=None, expires_at=None)


async def test_overlap_never_prolongs_a_key(node: Node, ann: Person) -> None:
    """A key that ends tomorrow still does, however long the overlap."""
    old = await ann.make(expires_in_days=1)
    await node.api_keys.rotate(ann.principal, old.key.key_id, ACTOR, overlap=timedelta(days=30))
    left = await node.api_keys.get(ann.principal, old.key.key_id)
    assert left.key.expires_at == old.key.expires_at


async def test_no_overlap_ends_the_key_at_once(node: Node, ann: Person) -> None:
    """The very next use is refused."""
    old = await ann.make()
    await opened(node, old)
    new = await node.api_keys.rotate(ann.principal, old.key.key_id, ACTOR, overlap=timedelta(0))
    with pytest.raises(InvalidToken):
        await opened(node, old)
    assert (await opened(node, new)).principal_id == ann.principal.principal_id


async def test_ended_and_rotated_keys_are_not_rotated(
    node: Node, ann: Person, clock: Clock
) -> None:
    """Each refusal says which of the two it is, and the successor's name."""
    rotated, revoked = await ann.make(), await ann.make()
    expired = await ann.make(expires_in_days=1)
    new = await node.api_keys.rotate(ann.principal, rotated.key.key_id, ACTOR, overlap=OVERLAP)
    await node.api_keys.revoke(ann.principal, revoked.key.key_id, ACTOR)
    clock.advance(days=2)
    with pytest.raises(ApiKeyRotated, match=new.key.key_id):
        await node.api_keys.rotate(ann.principal, rotated.key.key_id, ACTOR, overlap=OVERLAP)
    for ended in (revoked, expired):
        with pytest.raises(ApiKeyEnded):
            await node.api_keys.rotate(ann.principal, ended.key.key_id, ACTOR, overlap=OVERLAP)


async def test_of_many_rotations_at_once_one_happens(node: Node, ann: Person) -> None:
    """Also when the key itself asks: one successor, no lock that is waited for in a circle."""
    old = await ann.make()
    self_made = await opened(node, old)
    done = await asyncio.gather(
        *(
            node.api_keys.rotate(caller, old.key.key_id, ACTOR, overlap=OVERLAP)
            for caller in (self_made, ann.principal) * 5
        ),
        return_exceptions=True,
    )
    kinds = sorted(type(one).__name__ for one in done)
    assert kinds == ["ApiKeyRotated"] * 9 + ["IssuedKey"]


async def test_key_rotates_itself_and_no_mightier_one(node: Node, ann: Person) -> None:
    """Otherwise a narrow key would learn the secret of a wide one."""
    wide = await ann.make()
    placed = await ann.make(scopes=SCOPED)
    narrow = await ann.make(scopes=SCOPED, allowed_addresses=("192.0.2.0/24",), expires_in_days=3)
    maker = await opened(node, narrow, "192.0.2.1")
    for mightier in (wide, placed):
        with pytest.raises(KeyExceedsMaker):
            await node.api_keys.rotate(maker, mightier.key.key_id, ACTOR, overlap=OVERLAP)
    equal = await ann.make(
        scopes=("tasks:read",), allowed_addresses=("192.0.2.9",), expires_in_days=90
    )
    successor = await node.api_keys.rotate(maker, equal.key.key_id, ACTOR, overlap=OVERLAP)
    assert successor.key.expires_at == narrow.key.expires_at
    own = await node.api_keys.rotate(maker, narrow.key.key_id, ACTOR, overlap=OVERLAP)
    assert own.key.scopes == narrow.key.scopes


async def test_events_tell_owner_and_cause_and_no_secret(
    node: Node, ann: Person, root: Person
) -> None:
    """Created, rotated, revoked: in the transaction, with the actor's call."""
    old = await ann.make("ci", expires_in_days=30)
    new = await node.api_keys.rotate(ann.principal, old.key.key_id, ACTOR, overlap=OVERLAP)
    await node.api_keys.revoke(root.principal, new.key.key_id, ACTOR)
    agents = await node.api_keys.issue_agent_key("agt_1", "worker", ACTOR)
    told = {key.key.key_id: await events(node, key.key.key_id) for key in (old, new, agents)}
    assert [[one.event_type for one in each] for each in told.values()] == [
        ["api_key.created", "api_key.rotated"],
        ["api_key.created", "api_key.revoked"],
        ["api_key.created"],
    ]
    every = [event for each in told.values() for event in each]
    assert [event.owner for event in every] == [ann.principal.principal_id] * 4 + ["agt_1"]
    assert {(event.actor, event.request_id, event.call_id) for event in every} == {
        ("usr_actor", "req_1", "aud_1")
    }
    assert told[old.key.key_id][1].data["successor_id"] == new.key.key_id
    for event in every:
        assert "azk_" not in str(event.data)


async def test_refused_rotation_leaves_nothing_behind(
    node: Node, ann: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction: without the event there is neither a successor nor another end."""
    old = await ann.make()

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("storage.sql.revocations.record", fail)
        with pytest.raises(ZeroDivisionError):
            await node.api_keys.rotate(ann.principal, old.key.key_id, ACTOR, overlap=OVERLAP)
    seen = await node.api_keys.list(ann.principal, ApiKeyFilter(), after=None, limit=9)
    assert [(one.key.key_id, one.key.successor_id) for one in seen] == [(old.key.key_id, None)]


async def test_expiring_keys_are_announced_once(node: Node, ann: Person, clock: Clock) -> None:
    """Those that end within a week, unless they ended, were revoked or have a successor."""
    soon = await ann.make("soon", expires_in_days=7)
    later = await ann.make("later", expires_in_days=8)
    await ann.make("never")
    revoked = await ann.make("revoked", expires_in_days=5)
    rotated = await ann.make("rotated", expires_in_days=5)
    await node.api_keys.revoke(ann.principal, revoked.key.key_id, ACTOR)
    await node.api_keys.rotate(ann.principal, rotated.key.key_id, ACTOR, overlap=OVERLAP)
    duty = KeyExpiry(node.key_store)

    async def announced() -> list[str]:
        def work(sql: Any) -> list[str]:
            chosen = select(OutboxRow).where(OutboxRow.event_type == "api_key.expiring")
            return [row.data["name"] for row in sql.scalars(chosen.order_by(OutboxRow.position))]

        return await node.database.read(work)

    # The successor of `rotated` lives five days as well.
    assert await duty.announce() == 2
    assert sorted(await announced()) == ["rotated", "soon"]
    assert await duty.announce() == 0
    clock.advance(days=2)
    assert await duty.announce() == 1
    assert (await announced())[2:] == ["later"]
    (event,) = (await events(node, soon.key.key_id))[1:]
    assert (event.actor, event.owner) == ("system:key-expiry", ann.principal.principal_id)
    clock.advance(days=30)
    assert await duty.announce() == 0
    assert later.key.key_id != soon.key.key_id


async def test_many_expiring_keys_go_in_batches_and_to_one_of_two(node: Node, ann: Person) -> None:
    """Two nodes that both hold themselves for the leader announce each key once."""
    await ann.make("first", expires_in_days=1)
    count = 2 * BATCH + 7

    def multiply(sql: Any) -> None:
        row = sql.scalars(select(ApiKeyRow)).one()
        columns = {c.name: getattr(row, c.name) for c in ApiKeyRow.__table__.columns}
        for n in range(count - 1):
            sql.add(ApiKeyRow(**columns | {"key_id": f"key_{n:05}", "key_hash": f"{n:064}"}))

    await node.database.write(multiply)
    both = await asyncio.gather(*(KeyExpiry(node.key_store).announce() for _ in range(2)))
    assert sum(both) == count

    def subjects(sql: Any) -> list[str]:
        chosen = select(OutboxRow.subject).where(OutboxRow.event_type == "api_key.expiring")
        return list(sql.scalars(chosen))

    told = await node.database.read(subjects)
    assert (len(told), len(set(told))) == (count, count)


async def test_duty_goes_on_after_an_outage(
    sqlite_node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store does not answer at first; the key is announced all the same."""
    ann = await person(sqlite_node, "ann")
    announce, outages = sqlite_node.key_store.announce_expiring, [Unavailable(), Unavailable()]

    async def failing(*given: Any, **wanted: Any) -> int:
        if outages:
            raise outages.pop()
        return await announce(*given, **wanted)

    monkeypatch.setattr(sqlite_node.key_store, "announce_expiring", failing)
    key = (await ann.make(expires_in_days=1)).key
    working = asyncio.create_task(KeyExpiry(sqlite_node.key_store, period_seconds=0.01).work(1))
    async with asyncio.timeout(10):
        # Nobody signals that the event is written.
        while len(await events(sqlite_node, key.key_id)) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await cancel_and_wait(working)
    assert outages == []
