"""Who is behind a credential, and how soon a change acts."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

from hive.api_key_ports import KeptSecret
from hive.api_keys import KeyGrant
from hive.errors import Conflict, InvalidCredentials, InvalidToken, Unavailable
from hive.identity import PrincipalKind
from hive.permissions import ROLE_PERMISSIONS, Role
from hive.secrets import API_KEY, fingerprint
from server.authentication import Authenticator
from tests.identity.node import ACTOR, PASSWORD, Clock, Node, build, running
from tests.polls import next_poll


async def _login(node: Node, role: Role = Role.USER) -> str:
    await node.add_user("ann", role)
    return (await node.accounts.login("ann", PASSWORD)).access_token


async def _refused_by_next_poll(node: Node, bearer: str) -> None:
    await next_poll(node.revocations)
    with pytest.raises(InvalidToken):
        await node.authenticator.authenticate(bearer)


async def test_access_token_names_user_session_and_end(node: Node) -> None:
    """The principal has the permissions of the user's role."""
    principal = await node.authenticator.authenticate(await _login(node))
    assert (principal.name, principal.role) == ("ann", Role.USER)
    assert principal.permissions == ROLE_PERMISSIONS[Role.USER]
    assert principal.principal_id.startswith("usr_")
    assert (principal.session_id or "").startswith("ses_")
    assert principal.expires_at is not None
    assert abs(principal.expires_at - time.time() - 3600) < 5


async def test_agent_key_is_the_agent(node: Node) -> None:
    """A key made for an agent speaks for it, with all permissions of the role."""
    issued = await node.api_keys.issue_agent_key("agt_1", "worker", ACTOR, owner_id="usr_1")
    principal = await node.authenticator.authenticate(issued.secret)
    assert (principal.principal_id, principal.agent_id) == ("agt_1", "agt_1")
    assert (principal.name, principal.role) == ("worker", Role.AGENT)
    assert principal.permissions == ROLE_PERMISSIONS[Role.AGENT]
    assert principal.key_id == issued.key.key_id
    assert issued.secret.startswith(issued.key.prefix)


async def _make_key(
    node: Node,
    owner_id: str,
    *,
    role: Role = Role.ADMIN,
    scopes: frozenset[str] = frozenset(),
    expires_at: datetime | None = None,
) -> str:
    secret = API_KEY.encode(b"\x07" * API_KEY.entropy_bytes)
    granted = KeyGrant(
        "a key",
        PrincipalKind.USER,
        role,
        scopes=scopes,
        owner_id=owner_id,
        expires_at=expires_at,
    )
    await node.key_store.insert(granted, KeptSecret(secret[:10], fingerprint(secret)), ACTOR)
    return secret


async def test_user_key_has_its_scopes_and_no_more_than_its_owner(node: Node) -> None:
    """An admin's key in the hands of somebody who is a viewer now is a viewer's."""
    user_id = await node.add_user("ann", Role.VIEWER)
    scopes = frozenset({"tasks:read", "agents:write"})
    principal = await node.authenticator.authenticate(await _make_key(node, user_id, scopes=scopes))
    assert principal.role is Role.VIEWER
    assert principal.permissions == {"tasks:read"}


async def test_expired_key_is_refused(node: Node) -> None:
    """A key past its end is no key."""
    user_id = await node.add_user("ann", Role.ADMIN)
    secret = await _make_key(node, user_id, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(InvalidToken):
        await node.authenticator.authenticate(secret)


async def test_key_of_a_disabled_owner_is_refused(node: Node) -> None:
    """Disabling a user takes the keys along."""
    await node.add_user("another", Role.ADMIN)
    user_id = await node.add_user("ann", Role.ADMIN)
    secret = await _make_key(node, user_id)
    assert (await node.authenticator.authenticate(secret)).is_admin
    await node.store.change_user(user_id, disabled=True)
    await _refused_by_next_poll(node, secret)


async def test_bad_checksum_costs_no_database(
    sqlite_node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key with a typing error, or a guess, is refused without a question."""
    issued = await sqlite_node.api_keys.issue_agent_key("agt_1", "worker", ACTOR)

    async def refuse(*_: object) -> None:
        raise AssertionError("the database was asked")

    monkeypatch.setattr(sqlite_node.store, "find_api_key", refuse)
    monkeypatch.setattr(sqlite_node.store, "find_session", refuse)
    swapped = issued.secret[:-8] + issued.secret[-7] + issued.secret[-8] + issued.secret[-6:]
    junk = ("azk_", "azk_" + "0" * 39, issued.secret + "0", issued.secret.swapcase(), "", "x.y.z")
    for text in junk if swapped == issued.secret else (*junk, swapped):
        with pytest.raises(InvalidToken) as caught:
            await sqlite_node.authenticator.authenticate(text)
        assert caught.value.detail == "Invalid token"


async def test_well_formed_but_unknown_credentials_are_refused(node: Node) -> None:
    """A right checksum, or a right signature over a session that is not, proves nothing."""
    with pytest.raises(InvalidToken):
        await node.authenticator.authenticate(API_KEY.encode(bytes(24)))
    user_id = await node.add_user()
    stray = node.tokens.issue(user_id, "ses_01m800kkbrez1vcmc27j99r4p4", Role.ADMIN)
    with pytest.raises(InvalidToken):
        await node.authenticator.authenticate(stray.encoded)


async def test_session_of_another_user_is_refused(node: Node) -> None:
    """A token must name the user whose session it is."""
    mine = await node.authenticator.authenticate(await _login(node))
    other = await node.add_user("bob")
    crossed = node.tokens.issue(other, mine.session_id or "", Role.USER)
    with pytest.raises(InvalidToken):
        await node.authenticator.authenticate(crossed.encoded)


async def test_logout_acts_at_once_here_and_within_a_second_elsewhere(node: Node, url: str) -> None:
    """The node that logs out refuses the very next request; the other one follows by SQL."""
    bearer = await _login(node)
    async with running(build(url)) as other:
        principal = await node.authenticator.authenticate(bearer)
        told: list[str] = []
        other.revocations.on_revoked(told.append)
        await other.authenticator.authenticate(bearer)
        await node.accounts.logout(principal)
        with pytest.raises(InvalidToken):
            await node.authenticator.authenticate(bearer)
        await _refused_by_next_poll(other, bearer)
        assert told == [principal.session_id]


@pytest.mark.parametrize("change", ["revoke-keys", "disable", "demote"])
async def test_a_change_elsewhere_acts_within_a_second(node: Node, url: str, change: str) -> None:
    """Revoked keys, disabled users and new roles, seen by a node that had cached the old state."""
    user_id = await node.add_user("ann", Role.ADMIN)
    await node.add_user("the admin who stays", Role.ADMIN)
    bearer = (await node.accounts.login("ann", PASSWORD)).access_token
    key = (await node.api_keys.issue_agent_key("agt_1", "worker", ACTOR)).secret
    async with running(build(url)) as other:
        assert (await other.authenticator.authenticate(bearer)).is_admin
        assert (await other.authenticator.authenticate(key)).agent_id == "agt_1"
        if change == "revoke-keys":
            assert await node.api_keys.revoke_agent_keys("agt_1", ACTOR) == 1
            await _refused_by_next_poll(other, key)
        elif change == "disable":
            await node.store.change_user(user_id, disabled=True)
            await _refused_by_next_poll(other, bearer)
        else:
            await node.store.change_user(user_id, role=Role.VIEWER)
            await next_poll(other.revocations)
            principal = await other.authenticator.authenticate(bearer)
            assert principal.permissions == ROLE_PERMISSIONS[Role.VIEWER]


async def test_a_question_under_way_does_not_hide_a_revocation(
    sqlite_node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that was read before the logout is not believed after it."""
    bearer = await _login(sqlite_node)
    principal = await sqlite_node.authenticator.authenticate(bearer)
    fresh = Authenticator(sqlite_node.store, sqlite_node.tokens, sqlite_node.revocations)
    read, answer = asyncio.Event(), asyncio.Event()
    ask = sqlite_node.store.find_session

    async def slow(session_id: str) -> object:
        found = await ask(session_id)
        read.set()
        await answer.wait()
        return found

    monkeypatch.setattr(sqlite_node.store, "find_session", slow)
    waiting = asyncio.create_task(fresh.authenticate(bearer))
    await read.wait()
    await sqlite_node.accounts.logout(principal)
    answer.set()
    with pytest.raises(InvalidToken):
        await waiting
    await fresh.close()


async def test_many_requests_ask_once(sqlite_node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand requests of one session cost one question, and the next ones none for a while."""
    bearer = await _login(sqlite_node)
    asked = 0
    ask = sqlite_node.store.find_session

    async def counted(session_id: str) -> object:
        nonlocal asked
        asked += 1
        return await ask(session_id)

    monkeypatch.setattr(sqlite_node.store, "find_session", counted)
    await asyncio.gather(*(sqlite_node.authenticator.authenticate(bearer) for _ in range(1_000)))
    assert asked <= 2


async def test_a_caller_that_goes_away_leaves_the_others_their_answer(
    sqlite_node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of several requests is cancelled; the second still learns who asks."""
    bearer = await _login(sqlite_node)
    ask, asked, answer = sqlite_node.store.find_session, asyncio.Event(), asyncio.Event()

    async def slow(session_id: str) -> object:
        asked.set()
        await answer.wait()
        return await ask(session_id)

    monkeypatch.setattr(sqlite_node.store, "find_session", slow)
    first = asyncio.create_task(sqlite_node.authenticator.authenticate(bearer))
    await asked.wait()
    second = asyncio.create_task(sqlite_node.authenticator.authenticate(bearer))
    await asyncio.sleep(0)
    first.cancel()
    answer.set()
    assert (await second).name == "ann"


async def test_without_sql_what_is_known_holds_for_two_seconds(
    sqlite_node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then every protected operation is unavailable; an answer of SQL heals it."""
    bearer = await _login(sqlite_node)
    await sqlite_node.authenticator.authenticate(bearer)
    started = time.monotonic()

    async def fail(*_: object) -> None:
        raise Unavailable(reason="SQL is down")

    with monkeypatch.context() as down:
        down.setattr(sqlite_node.store, "find_session", fail)
        down.setattr(sqlite_node.store, "changes_after", fail)
        while True:
            asked_seconds = time.monotonic() - started
            try:
                await sqlite_node.authenticator.authenticate(bearer)
            except Unavailable:
                break
            assert asked_seconds < 2.5
            await asyncio.sleep(0.02)
        assert time.monotonic() - started > 1.5
        assert sqlite_node.revocations.silent_seconds > 1
    assert (await sqlite_node.authenticator.authenticate(bearer)).name == "ann"
    await next_poll(sqlite_node.revocations)
    assert sqlite_node.revocations.silent_seconds < asked_seconds


async def test_logout_holds_even_without_sql(
    sqlite_node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this node knows to be revoked is not accepted because SQL is down."""
    bearer = await _login(sqlite_node)
    await sqlite_node.accounts.logout(await sqlite_node.authenticator.authenticate(bearer))

    async def fail(*_: object) -> None:
        raise Unavailable(reason="SQL is down")

    monkeypatch.setattr(sqlite_node.store, "find_session", fail)
    with pytest.raises(Unavailable):
        await sqlite_node.authenticator.authenticate(bearer)


async def test_a_failing_subscriber_does_not_silence_the_others(sqlite_node: Node) -> None:
    """Each connection is told, whatever the one before does."""
    told: list[str] = []

    def fail(subject_id: str) -> None:
        raise RuntimeError(subject_id)

    sqlite_node.revocations.on_revoked(fail)
    sqlite_node.revocations.on_revoked(told.append)
    sqlite_node.revocations.announce("ses_1")
    assert told == ["ses_1"]


async def test_following_survives_an_unforeseen_failure(
    sqlite_node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One round that breaks is not the end of the duty."""
    told: list[str] = []
    sqlite_node.revocations.on_revoked(told.append)
    broken = asyncio.Event()

    async def fail(*_: object) -> None:
        broken.set()
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(sqlite_node.store, "changes_after", fail)
        async with asyncio.timeout(30):
            await broken.wait()
    user_id = await sqlite_node.add_user()
    await sqlite_node.store.change_user(user_id, role=Role.VIEWER)
    await next_poll(sqlite_node.revocations)
    assert told == [user_id]


async def test_last_use_is_noted(node: Node) -> None:
    """A key that was used says when; at most once a minute."""
    issued = await node.api_keys.issue_agent_key("agt_1", "worker", ACTOR)
    await node.authenticator.authenticate(issued.secret)
    async with asyncio.timeout(5):
        while True:
            found = await node.store.find_api_key(fingerprint(issued.secret))
            assert found is not None
            if found[0].last_used_at is not None:
                break


async def test_every_failed_login_looks_the_same(node: Node) -> None:
    """Missing, wrong and disabled: one code, one text, one verification each."""
    await node.add_user("ann")
    disabled = await node.add_user("bob")
    await node.store.change_user(disabled, disabled=True)
    verified: list[bool] = []
    verify = node.passwords._context.verify

    def counted(*arguments: object) -> object:
        verified.append(True)
        return verify(*arguments)

    node.passwords._context.verify = counted
    answers = set()
    for username, password in (
        ("ann", "wrong"),
        ("bob", PASSWORD),
        ("bob", "wrong"),
        ("nobody", PASSWORD),
        ("no\0body", PASSWORD),
        ("", PASSWORD),
    ):
        with pytest.raises(InvalidCredentials) as caught:
            await node.accounts.login(username, password)
        answers.add(
            (type(caught.value), caught.value.code, caught.value.title, caught.value.detail)
        )
    assert answers == {
        (InvalidCredentials, "invalid-credentials", "Invalid credentials", "Invalid credentials")
    }
    assert len(verified) == 6


async def test_login_replaces_an_older_hash(sqlite_node: Node) -> None:
    """Parameters were raised since the password was set: the next login stores the newer hash."""
    old = await sqlite_node.passwords.hash(PASSWORD)
    await sqlite_node.store.create_user("ann", old, Role.USER)
    stronger = type(sqlite_node.passwords)(memory_kib=128, passes=2)
    sqlite_node.accounts._passwords = stronger
    await sqlite_node.accounts.login("ann", PASSWORD)
    found = await sqlite_node.store.find_credentials("ann")
    assert found is not None
    assert "m=128,t=2" in found[1]
    await sqlite_node.accounts.login("ann", PASSWORD)
    stronger.close()


async def test_api_key_has_no_session_to_end(node: Node) -> None:
    """Logging out with a key is a conflict, and the key stays."""
    issued = await node.api_keys.issue_agent_key("agt_1", "worker", ACTOR)
    principal = await node.authenticator.authenticate(issued.secret)
    with pytest.raises(Conflict):
        await node.accounts.logout(principal)
    assert await node.authenticator.authenticate(issued.secret) == principal


async def test_thirty_day_old_session_ends_its_access_tokens(node: Node, clock: Clock) -> None:
    """A token never outlives its session, even when its own hour is not over."""
    clock.advance(days=-30, minutes=-1)
    bearer = await _login(node)
    with pytest.raises(InvalidToken):
        await node.authenticator.authenticate(bearer)
