"""Users, sessions, keys and the record of revocations, on every kind of database."""

from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy import select, text

from hive.errors import Unavailable
from hive.identity import UsernameTaken
from hive.permissions import Role
from storage.sql import revocations, sessions
from storage.sql.database import Database
from storage.sql.identity import SqlIdentity
from storage.sql.models import OutboxRow
from tests.identity.node import ACTOR, PASSWORD, Clock, Node


async def test_username_is_unique_whatever_its_case(node: Node) -> None:
    """The second spelling of a name is refused, and found as the first one."""
    user_id = await node.add_user("Ann")
    with pytest.raises(UsernameTaken):
        await node.add_user("aNN")
    found = await node.store.find_credentials("ANN")
    assert found is not None
    assert (found[0].user_id, found[0].username) == (user_id, "Ann")
    assert await node.store.count_users() == 1


@pytest.mark.parametrize("username", ["no\0body", "\ud800", "nobody"])
async def test_unstorable_and_unknown_names_are_nobody(node: Node, username: str) -> None:
    """What no database can hold is as unknown as any other name."""
    assert await node.store.find_credentials(username) is None


async def test_times_come_back_aware_and_unchanged(node: Node, clock: Clock) -> None:
    """A time survives the database with its zone."""
    user_id = await node.add_user()
    user = await node.store.find_user(user_id)
    assert user is not None
    assert user.created_at.tzinfo is not None
    assert abs((user.created_at - clock()).total_seconds()) < 60


async def test_a_session_is_not_opened_after_the_password_changed(node: Node) -> None:
    """What was verified must still be what is stored when the session is opened."""
    user_id = await node.add_user()
    opened = await node.store.open_session(user_id, "a" * 64, verified_hash="another hash")
    assert opened is None


async def test_a_session_is_not_opened_for_a_disabled_user(node: Node) -> None:
    """Disabling between verification and session wins."""
    user_id = await node.add_user()
    found = await node.store.find_credentials("ann")
    assert found is not None
    await node.store.change_user(user_id, disabled=True)
    assert await node.store.open_session(user_id, "a" * 64, verified_hash=found[1]) is None


async def test_ended_sessions_go_at_the_next_login(node: Node, clock: Clock) -> None:
    """Sessions past their end don't pile up."""
    await node.add_user()
    password = "correct horse battery staple"
    await node.accounts.login("ann", password)
    clock.advance(days=31)
    await node.accounts.login("ann", password)
    count = await node.database.read(lambda sql: sql.scalar(text("SELECT count(*) FROM sessions")))
    tokens = await node.database.read(
        lambda sql: sql.scalar(text("SELECT count(*) FROM refresh_tokens"))
    )
    assert (count, tokens) == (1, 1)


async def test_a_login_ends_the_session_that_was_used_least_recently(
    node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ending all of a user's sessions stays short, however often it logs in."""
    monkeypatch.setattr(sessions, "MOST_SESSIONS", 3)
    user_id = await node.add_user()
    opened = []
    for _ in range(5):
        pair = await node.accounts.login("ann", PASSWORD)
        opened.append((await node.authenticator.authenticate(pair.access_token)).session_id)
        clock.advance(seconds=1)
        await node.store.touch(str(opened[0]))
    live = await node.sessions.list(user_id, after=None, limit=10)
    assert {session.session_id for session in live} == {opened[0], opened[3], opened[4]}
    reasons = await node.database.read(
        lambda sql: sql.scalars(
            select(OutboxRow.data)
            .where(OutboxRow.event_type == "session.revoked")
            .order_by(OutboxRow.position)
        ).all()
    )
    assert [(each["session_id"], each["reason"]) for each in reasons] == [
        (opened[1], "too-many"),
        (opened[2], "too-many"),
    ]


async def test_concurrent_revocations_leave_no_hole(node: Node) -> None:
    """A follower that polls while many revoke at once misses none and sees each in order."""
    keys = [
        (await node.api_keys.issue_agent_key(f"agt_{n}", f"key {n}", ACTOR)).key for n in range(40)
    ]
    seen: list[str] = []
    position = 0

    async def follow() -> None:
        nonlocal position
        while len(seen) < len(keys):
            changes = await node.store.changes_after(position)
            seen.extend(changes.subjects)
            position = changes.position

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(follow())
        for key in keys:
            tasks.create_task(node.key_store.revoke_of_agent(key.agent_id or "", ACTOR))
    assert sorted(seen) == sorted(key.key_id for key in keys)
    assert position == 40


async def test_only_so_many_revocations_are_kept(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is bounded; the newest stay."""
    monkeypatch.setattr(revocations, "KEPT", 3)
    user_id = await node.add_user()
    for role in (Role.VIEWER, Role.USER, Role.VIEWER, Role.USER, Role.VIEWER):
        await node.store.change_user(user_id, role=role)
    changes = await node.store.changes_after(0)
    assert (changes.position, len(changes.subjects)) == (5, 3)


async def test_a_failed_unit_of_work_changes_nothing(node: Node) -> None:
    """An exception rolls the transaction back."""
    await node.add_user()

    def work(sql: object) -> None:
        sql.execute(text("DELETE FROM users"))  # type: ignore[attr-defined] # A SQLAlchemy session.
        raise RuntimeError("after the delete")

    with pytest.raises(RuntimeError, match="after the delete"):
        await node.database.write(work)
    assert await node.store.count_users() == 1


async def test_a_locked_database_is_unavailable_in_time(sqlite_url: str) -> None:
    """A writer that waits for another one gives up after its time and says so."""
    holder, waiter = Database(sqlite_url), Database(sqlite_url, timeout_seconds=0.2)
    holder.migrate()
    with holder.engine.connect().execution_options(begin="IMMEDIATE") as connection:
        connection.execute(text("SELECT 1"))
        with pytest.raises(Unavailable):
            await SqlIdentity(waiter).create_user("ann", "hash", Role.USER)
    assert (await SqlIdentity(holder).create_user("bob", "hash", Role.USER)).username == "bob"
    holder.close()
    waiter.close()


async def test_too_much_waiting_work_is_refused_at_once(sqlite_url: str) -> None:
    """The queue before the database is bounded."""
    database = Database(sqlite_url, threads=1, waiting=2)
    database.migrate()
    store = SqlIdentity(database)
    go_on = threading.Event()
    waiting = [asyncio.create_task(database.read(lambda _: go_on.wait(10))) for _ in range(3)]
    await asyncio.sleep(0)
    for _ in range(7):
        with pytest.raises(Unavailable):
            await store.count_users()
    go_on.set()
    assert await asyncio.gather(*waiting) == [True, True, True]
    assert await store.count_users() == 0
    database.close()
