"""Users and their sessions on every kind of database: events, last admins, what a change ends."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from hive.changes import Actor
from hive.errors import InvalidToken, WriteConflict
from hive.identity import PrincipalKind, UsernameTaken
from hive.permissions import Principal, Role
from hive.sessions import SessionNotFound, SessionRequired
from hive.users import LastAdmin, UserChange, UserFilter, UserNotFound, WrongPassword
from server.password_policy import WeakPassword
from server.sessions import SessionSweep
from server.users import ALPHABET, RANDOM_CHARACTERS, random_password
from storage.sql.models import ApiKeyRow, OutboxRow, SigningKeyRow
from storage.sql.sessions import SqlSessions
from storage.sql.users import SqlUsers
from tests.identity.node import PASSWORD, Clock, Node, build, running

ACTOR = Actor("usr_admin", "req_1", "aud_1")
NEW = "a better battery for horses"
HERE = "192.0.2.1"


async def _events(node: Node, event_type: str | None = None) -> list[OutboxRow]:
    def work(sql: Any) -> list[OutboxRow]:
        rows = sql.scalars(select(OutboxRow).order_by(OutboxRow.position)).all()
        return [row for row in rows if event_type in (None, row.event_type)]

    return await node.database.read(work)


async def _changed(node: Node, after: int = 0) -> tuple[str, ...]:
    return (await node.store.changes_after(after)).subjects


async def _log_in(node: Node, username: str = "ann", password: str = PASSWORD) -> Principal:
    pair = await node.accounts.login(username, password, device="laptop", address=HERE)
    return await node.authenticator.authenticate(pair.access_token)


async def test_the_life_of_a_user_is_told_by_events(node: Node) -> None:
    """Each visible change is one event with who did it, by which call, and the next version."""
    created = await node.users.create("Ann", PASSWORD, Role.USER, ACTOR)
    user_id = created.user.user_id
    assert (created.user.version, created.signing) == (1, False)
    await node.users.update(user_id, UserChange(role=Role.VIEWER), ACTOR)
    await node.users.update(user_id, UserChange(role=Role.VIEWER), ACTOR)
    await node.users.reset_password(user_id, NEW, ACTOR)
    await node.users.update(user_id, UserChange(disabled=True), ACTOR)
    await node.users.delete(user_id, ACTOR)
    events = await _events(node)
    assert [(event.event_type, event.data["version"]) for event in events] == [
        ("user.created", 1),
        ("user.updated", 2),
        ("user.password_changed", 3),
        ("user.updated", 4),
        ("user.deleted", 4),
    ]
    for event in events:
        assert (event.subject, event.owner) == (user_id, user_id)
        assert (event.actor, event.request_id, event.call_id) == ("usr_admin", "req_1", "aud_1")
        assert event.data.keys() == {"user_id", "username", "role", "disabled", "version"}
    with pytest.raises(UserNotFound):
        await node.users.get(user_id)


async def test_a_change_that_changes_nothing_is_none(node: Node) -> None:
    """No event, no version, nobody is thrown out."""
    user_id = await node.add_user()
    before = await node.users.get(user_id)
    unchanged = await node.users.update(user_id, UserChange(Role.USER, disabled=False), ACTOR)
    assert unchanged == before
    assert [event.event_type for event in await _events(node)] == ["user.created"]
    assert await _changed(node) == ()


async def test_a_refused_change_leaves_no_event(node: Node) -> None:
    """The event is in the transaction of the change: neither without the other."""
    await node.add_user("ann")
    with pytest.raises(UsernameTaken):
        await node.users.create("ANN", PASSWORD, Role.USER, ACTOR)
    assert len(await _events(node)) == 1


@pytest.mark.parametrize("how", ["demote", "disable", "delete"])
async def test_the_last_admin_stays(node: Node, how: str) -> None:
    """A disabled admin does not count, and after the refusal nothing has changed."""
    await _disabled_admin(node)
    user_id = await node.add_user("ann", Role.ADMIN)
    caller = await _log_in(node)
    with pytest.raises(LastAdmin):
        await _take_away(node, user_id, how)
    assert (await node.users.get(user_id)).user.version == 1
    assert len(await node.sessions.list(user_id, after=None, limit=9)) == 1
    await node.add_user("eve", Role.ADMIN)
    await _take_away(node, user_id, how)
    assert caller.principal_id == user_id


@pytest.mark.parametrize("how", ["demote", "disable", "delete"])
async def test_of_admins_that_leave_at_once_on_two_nodes_one_stays(
    node: Node, url: str, how: str
) -> None:
    """Whoever comes second sees what the first one did, on any node."""
    async with running(build(url)) as other:
        admins = [await node.add_user(f"admin-{n}", Role.ADMIN) for n in range(8)]
        outcomes = await asyncio.gather(
            *(
                _take_away(each, user_id, how)
                for user_id, each in zip(admins, [node, other] * 4, strict=True)
            ),
            return_exceptions=True,
        )
    refused = [outcome for outcome in outcomes if outcome is not None]
    assert [type(outcome) for outcome in refused] == [LastAdmin]
    left = await node.users.list(UserFilter(Role.ADMIN, disabled=False), after=None, limit=9)
    assert len(left) == 1


async def test_disabling_ends_every_session(node: Node) -> None:
    """Each ended session and the user are recorded, and each has its event with the reason."""
    user_id = await node.add_user()
    callers = [await _log_in(node) for _ in range(3)]
    await node.users.update(user_id, UserChange(disabled=True), ACTOR)
    sessions = {caller.session_id for caller in callers}
    assert set(await _changed(node)) == {*sessions, user_id}
    revoked = await _events(node, "session.revoked")
    assert {event.subject for event in revoked} == sessions
    assert {(event.owner, event.data["reason"]) for event in revoked} == {
        (user_id, "user-disabled")
    }
    assert await node.sessions.list(user_id, after=None, limit=9) == []
    enabled = await node.users.update(user_id, UserChange(disabled=False), ACTOR)
    assert (enabled.user.disabled, enabled.user.version) == (False, 3)
    assert await node.sessions.list(user_id, after=None, limit=9) == []
    assert (await _log_in(node)).principal_id == user_id


async def test_a_new_role_ends_no_session_and_is_told(node: Node) -> None:
    """Tokens keep working, with the role of today."""
    user_id = await node.add_user()
    pair = await node.accounts.login("ann", PASSWORD)
    await node.users.update(user_id, UserChange(Role.ADMIN), ACTOR)
    assert await _changed(node) == (user_id,)
    assert (await node.authenticator.authenticate(pair.access_token)).role is Role.ADMIN


async def test_deleting_ends_all_that_the_user_had(node: Node) -> None:
    """Sessions and signing keys go, its own API keys are revoked; agents keep theirs."""
    user_id = await node.add_user()
    caller = await _log_in(node)
    await node.database.write(lambda sql: _add_keys(sql, user_id))
    assert (await node.users.get(user_id)).signing is True
    await node.users.delete(user_id, ACTOR)
    rows = await node.database.read(
        lambda sql: sql.execute(
            text("SELECT key_id, revoked_at IS NULL FROM api_keys ORDER BY key_id")
        ).all()
    )
    assert [(key_id, bool(live)) for key_id, live in rows] == [
        ("key_agent", True),
        ("key_own", False),
    ]
    for table in ("sessions", "refresh_tokens", "signing_keys", "users"):
        count = await node.database.read(
            lambda sql, table=table: sql.scalar(text(f"SELECT count(*) FROM {table}"))  # type: ignore[misc]
        )
        assert (table, count) == (table, 0)
    assert set(await _changed(node)) == {caller.session_id, "key_own", user_id}
    (key_event,) = await _events(node, "api_key.revoked")
    assert (key_event.subject, key_event.owner) == ("key_own", user_id)
    (session_event,) = await _events(node, "session.revoked")
    assert session_event.data["reason"] == "user-deleted"


async def test_signing_is_told_of_live_keys_of_the_user_itself(node: Node) -> None:
    """A key of one API key, and a revoked one, don't count."""
    user_id = await node.add_user()
    for column, value in (("key_id", "'key_1'"), ("revoked_at", "created_at")):
        await node.database.write(lambda sql: _add_keys(sql, user_id))
        await node.database.write(
            lambda sql, c=column, v=value: sql.execute(text(f"UPDATE signing_keys SET {c} = {v}"))  # type: ignore[misc]
        )
        assert (await node.users.get(user_id)).signing is False
        await node.database.write(lambda sql: sql.execute(text("DELETE FROM signing_keys")))
        await node.database.write(lambda sql: sql.execute(text("DELETE FROM api_keys")))


async def test_lists_are_stable_while_users_come_and_go(node: Node) -> None:
    """A page starts behind the last one of the page before, whatever was added or deleted."""
    made = [await node.add_user(f"user-{n}") for n in range(6)]
    first = await node.users.list(UserFilter(), after=None, limit=3)
    await node.users.delete(made[2], ACTOR)
    made.append(await node.add_user("user-6"))
    rest = await node.users.list(UserFilter(), after=first[-1].user.user_id, limit=9)
    seen = [each.user.user_id for each in (*first, *rest)]
    assert seen == made


async def test_filters_of_the_list(node: Node) -> None:
    """By role, by disabled, by both."""
    ann, bob, eve = [
        await node.add_user(name, role)
        for name, role in (("ann", Role.ADMIN), ("bob", Role.VIEWER), ("eve", Role.VIEWER))
    ]
    await node.users.update(eve, UserChange(disabled=True), ACTOR)

    async def listed(wanted: UserFilter) -> list[str]:
        return [d.user.user_id for d in await node.users.list(wanted, after=None, limit=9)]

    assert await listed(UserFilter()) == [ann, bob, eve]
    assert await listed(UserFilter(Role.VIEWER)) == [bob, eve]
    assert await listed(UserFilter(disabled=False)) == [ann, bob]
    assert await listed(UserFilter(Role.VIEWER, disabled=True)) == [eve]


async def test_changing_ones_password_ends_all_other_sessions(node: Node) -> None:
    """The session that asks stays, its refresh token too; the old password is no good."""
    user_id = await node.add_user()
    others = [await _log_in(node) for _ in range(2)]
    caller = await _log_in(node)
    await node.users.change_password(caller, PASSWORD, NEW, ACTOR, address=HERE)
    assert set(await _changed(node)) == {each.session_id for each in others}
    left = await node.sessions.list(user_id, after=None, limit=9)
    assert [session.session_id for session in left] == [caller.session_id]
    assert (await _log_in(node, password=NEW)).principal_id == user_id
    user = (await node.users.get(user_id)).user
    assert user.version == 2
    assert user.password_changed_at > user.created_at
    reasons = {event.data["reason"] for event in await _events(node, "session.revoked")}
    assert reasons == {"password-changed"}


async def test_a_wrong_current_password_changes_nothing(node: Node) -> None:
    """422 with a pointer, and guesses run into the bound of logins."""
    await node.add_user()
    caller = await _log_in(node)
    refusals = []
    for n in range(14):
        with pytest.raises(Exception) as refusal:  # noqa: PT011 - which one is looked at below
            await node.users.change_password(
                caller, f"guess {n}", NEW, ACTOR, address="198.51.100.9"
            )
        refusals.append(refusal.value)
    codes = [refusal.code for refusal in refusals]  # type: ignore[attr-defined]
    assert codes == ["wrong-password"] * 10 + ["too-many-attempts"] * 4
    assert isinstance(refusals[0], WrongPassword)
    assert refusals[0].pointer == "/current_password"
    assert await _events(node, "user.password_changed") == []


async def test_a_weak_new_password_is_refused(node: Node) -> None:
    """By the policy, with the place in the request, wherever a password is set."""
    user_id = await node.add_user()
    caller = await _log_in(node)
    with pytest.raises(WeakPassword) as refusal:
        await node.users.change_password(caller, PASSWORD, "password", ACTOR, address=HERE)
    assert refusal.value.pointer == "/new_password"
    for attempt in (
        node.users.create("bob", "password", Role.USER, ACTOR),
        node.users.reset_password(user_id, "password", ACTOR),
    ):
        with pytest.raises(WeakPassword):
            await attempt


async def test_a_key_can_not_change_the_password(node: Node) -> None:
    """Not even with the right one."""
    user_id = await node.add_user()
    caller = Principal(user_id, "ann", Role.USER, frozenset(), key_id="key_1")
    with pytest.raises(SessionRequired):
        await node.users.change_password(caller, PASSWORD, NEW, ACTOR, address=HERE)


@pytest.mark.parametrize("meanwhile", ["revoked", "disabled", "deleted", "other password"])
async def test_rights_that_go_while_the_password_is_verified(node: Node, meanwhile: str) -> None:
    """What was true at the check has to be true in the transaction."""
    await node.add_user("another", Role.ADMIN)
    user_id = await node.add_user()
    caller = await _log_in(node)
    session_id = caller.session_id or ""
    stored = await SqlUsers(node.database).password_hash(user_id)
    changes: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "revoked": lambda: node.sessions.revoke(user_id, session_id, ACTOR),
        "disabled": lambda: node.users.update(user_id, UserChange(disabled=True), ACTOR),
        "deleted": lambda: node.users.delete(user_id, ACTOR),
        "other password": lambda: _change_twice(node, caller),
    }
    await changes[meanwhile]()
    expected = WriteConflict if meanwhile == "other password" else InvalidToken
    with pytest.raises(expected):
        await SqlUsers(node.database).replace_password(session_id, stored, "hash", ACTOR)


async def test_a_reset_ends_every_session_and_lets_the_owner_in(node: Node) -> None:
    """The random password works at once, also after guesses had used up the bound."""
    user_id = await node.add_user()
    await _log_in(node)
    for n in range(12):
        with pytest.raises(Exception, match=r"invalid-credentials|too-many-attempts"):
            await node.accounts.login("ann", f"guess {n}", address="198.51.100.9")
    made = await node.users.reset_password(user_id, None, ACTOR)
    assert made is not None
    assert await node.sessions.list(user_id, after=None, limit=9) == []
    pair = await node.accounts.login("ann", made, address="203.0.113.5")
    assert (await node.authenticator.authenticate(pair.access_token)).principal_id == user_id
    assert await node.users.reset_password(user_id, NEW, ACTOR) is None


def test_random_passwords_are_long_and_readable() -> None:
    """Over 100 bits, of characters that are not taken for one another, each time another."""
    assert RANDOM_CHARACTERS * math.log2(len(set(ALPHABET))) > 100
    assert not set("0Oo1lI") & set(ALPHABET)
    assert len({random_password() for _ in range(100)}) == 100


async def test_sessions_are_listed_newest_first_and_only_live_ones(
    node: Node, clock: Clock
) -> None:
    """Revoked and expired ones are not shown; a login is told by an event of its call."""
    user_id = await node.add_user()
    expired = await _log_in(node)
    clock.advance(days=30.5)
    first, second, revoked = [await _log_in(node) for _ in range(3)]
    await node.sessions.revoke(user_id, revoked.session_id or "", ACTOR)
    listed = await node.sessions.list(user_id, after=None, limit=9)
    assert [s.session_id for s in listed] == [second.session_id, first.session_id]
    behind = await node.sessions.list(user_id, after=second.session_id, limit=9)
    assert [s.session_id for s in behind] == [first.session_id]
    opened = await _events(node, "session.opened")
    assert opened[0].subject == expired.session_id
    assert opened[0].data == {
        "session_id": expired.session_id,
        "user_id": user_id,
        "device": "laptop",
        "address": HERE,
    }


async def test_a_session_of_another_user_is_not_found(node: Node) -> None:
    """Nor one that never was, nor one that has ended."""
    user_id = await node.add_user()
    other = await node.add_user("bob")
    caller = await _log_in(node)
    session_id = caller.session_id or ""
    for owner, wanted in ((other, session_id), (user_id, "ses_none"), ("usr_none", session_id)):
        with pytest.raises(SessionNotFound):
            await node.sessions.revoke(owner, wanted, ACTOR)
    await node.sessions.revoke(user_id, session_id, ACTOR)
    with pytest.raises(SessionNotFound):
        await node.sessions.revoke(user_id, session_id, ACTOR)
    assert await node.sessions.list("usr_none", after=None, limit=1) == []
    assert await node.sessions.revoke_all("usr_none", ACTOR) == 0


async def test_reuse_of_a_refresh_token_is_told(node: Node, clock: Clock) -> None:
    """As a session that ended by the system's own decision."""
    await node.add_user()
    pair = await node.accounts.login("ann", PASSWORD)
    await node.accounts.refresh(pair.refresh_token)
    clock.advance(seconds=11)
    with pytest.raises(InvalidToken):
        await node.accounts.refresh(pair.refresh_token)
    (event,) = await _events(node, "session.revoked")
    assert (event.actor, event.data["reason"]) == ("system:refresh-reuse", "refresh-reused")


async def test_expired_sessions_are_swept_in_batches(node: Node, clock: Clock) -> None:
    """With their tokens, also of users who never come back; live ones stay."""
    user_id = await node.add_user()
    for _ in range(5):
        await node.accounts.login("ann", PASSWORD, address=HERE)
    clock.advance(days=31)
    await node.add_user("bob")
    await node.accounts.login("bob", PASSWORD, address=HERE)
    store = SqlSessions(node.database)
    assert await store.sweep(2) == 2
    assert await SessionSweep(store).sweep() == 3
    count = text("SELECT count(*) FROM refresh_tokens")
    assert await node.database.read(lambda sql: sql.scalar(count)) == 1
    assert await node.sessions.list(user_id, after=None, limit=9) == []


async def test_dead_refresh_tokens_of_a_session_don_t_pile_up(node: Node, clock: Clock) -> None:
    """A rotation takes those away that are past their end; the younger ones still betray reuse."""
    await node.add_user()
    pair = await node.accounts.login("ann", PASSWORD)
    for _ in range(12):
        clock.advance(days=2)
        pair = await node.accounts.refresh(pair.refresh_token)
    count = text("SELECT count(*) FROM refresh_tokens")
    left = await node.database.read(lambda sql: sql.scalar(count))
    assert left == 1 + timedelta(days=7) // timedelta(days=2)


async def _change_twice(node: Node, caller: Principal) -> None:
    await node.users.change_password(caller, PASSWORD, NEW, ACTOR, address=HERE)


async def _disabled_admin(node: Node) -> None:
    """An admin that is disabled, and nobody else."""
    user_id = await node.add_user("away", Role.ADMIN)
    await node.database.write(
        lambda sql: sql.execute(
            text("UPDATE users SET disabled = true WHERE user_id = :user_id"),
            {"user_id": user_id},
        )
    )


async def _take_away(node: Node, user_id: str, how: str) -> None:
    if how == "delete":
        await node.users.delete(user_id, ACTOR)
    elif how == "disable":
        await node.users.update(user_id, UserChange(disabled=True), ACTOR)
    else:
        await node.users.update(user_id, UserChange(role=Role.USER), ACTOR)


def _add_keys(sql: Session, user_id: str) -> None:
    now = datetime.now(UTC)
    for key_id, kind in (("key_own", PrincipalKind.USER), ("key_agent", PrincipalKind.AGENT)):
        sql.add(
            ApiKeyRow(
                key_id=key_id,
                name="a key",
                prefix="azk_",
                key_hash=key_id,
                kind=kind.value,
                owner_id=user_id,
                agent_id="agt_1" if kind is PrincipalKind.AGENT else None,
                role="user",
                scopes=[],
                allowed_addresses=[],
                created_at=now,
            )
        )
    sql.add(
        SigningKeyRow(
            signing_key_id="sgk_1",
            owner_id=user_id,
            name="a key",
            algorithm="ed25519",
            created_at=now,
        )
    )
