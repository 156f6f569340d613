"""What admins decide at run time: when it counts, and that nobody locks himself out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from hive.changes import Actor
from hive.errors import Unavailable
from hive.permissions import Role
from hive.system_settings import (
    AddressNotAllowed,
    FixedByEnvironment,
    SettingsChange,
    SystemSettings,
    WouldLockOut,
    change_settings,
)
from server.revocations import Revocations
from server.system_settings import LiveSettings
from storage.sql.database import Database
from storage.sql.identity import SqlIdentity
from storage.sql.system_settings import SqlSystemSettings
from tests.api.running import Api, RunningNode, found, running_node
from tests.polls import next_poll
from tests.security.signing import register, request
from tests.servers import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS = "/api/v1/system/settings"
ANY_VERSION = {"If-Match": "*"}
LOOPBACK = ["127.0.0.0/8", "::1/128"]
ELSEWHERE = ["192.0.2.0/24"]
ACTOR = Actor("usr_1")


@pytest_asyncio.fixture(loop_scope="module")
async def put_back(admin: Api) -> AsyncIterator[None]:
    """Everywhere again after the test."""
    yield
    await admin.ok("PATCH", SETTINGS, headers=ANY_VERSION, json={"admin_allowlist": []})


async def test_at_first_nothing_is_set(admin: Api) -> None:
    """Admins come from everywhere, nobody has to sign."""
    settings = await admin.ok("GET", SETTINGS)
    assert settings == {"admin_allowlist": [], "signing_required": False, "version": 0}


@pytest.mark.usefixtures("put_back")
async def test_change_is_versioned_and_told(admin: Api) -> None:
    """The version grows by one, the event of the change names it and who made it."""
    before = await admin.ok("GET", SETTINGS)
    me = (await admin.ok("GET", "/api/v1/auth/me"))["principal_id"]
    changed = await admin.ok(
        "PATCH", SETTINGS, headers=ANY_VERSION, json={"admin_allowlist": LOOPBACK}
    )
    assert changed["admin_allowlist"] == LOOPBACK
    assert changed["version"] == before["version"] + 1
    assert changed["updated_by"] == me
    assert changed == await admin.ok("GET", SETTINGS)

    async def events() -> list[dict[str, Any]]:
        path = "/api/v1/events?type=system.settings_updated&order=desc&limit=1"
        return list(await admin.ok("GET", path))

    told = await found(
        events, lambda seen: seen and seen[0]["data"]["version"] == changed["version"], "the event"
    )
    assert (told[0]["subject"], told[0]["actor"]) == ("system", me)


@pytest.mark.usefixtures("put_back")
async def test_what_changes_nothing_is_no_version(admin: Api) -> None:
    """Saying the same again is answered and not recorded."""
    first = await admin.ok(
        "PATCH", SETTINGS, headers=ANY_VERSION, json={"admin_allowlist": LOOPBACK}
    )
    again = await admin.ok(
        "PATCH", SETTINGS, headers=ANY_VERSION, json={"admin_allowlist": LOOPBACK}
    )
    assert first == again


@pytest.mark.usefixtures("put_back")
async def test_networks_get_their_canonical_form(admin: Api) -> None:
    """Addresses become networks, IPv4 in IPv6 becomes IPv4, each stands once."""
    given = ["127.0.0.1", "::ffff:127.0.0.0/104", "127.0.0.0/8", "2001:DB8:0::/32"]
    changed = await admin.ok(
        "PATCH", SETTINGS, headers=ANY_VERSION, json={"admin_allowlist": given}
    )
    assert changed["admin_allowlist"] == ["127.0.0.1/32", "127.0.0.0/8", "2001:db8::/32"]


@pytest.mark.parametrize("text", ["127.0.0.1/8", "300.1.1.1", "10.0.0.0/33", "::1/129", "a:b/64"])
async def test_network_that_is_none_is_refused_by_its_place(admin: Api, text: str) -> None:
    """422 with a pointer; host bits are refused, because they may mean one or millions."""
    body = {"admin_allowlist": ["127.0.0.0/8", text]}
    problem = await admin.refused(422, "PATCH", SETTINGS, headers=ANY_VERSION, json=body)
    assert problem["code"] == "invalid-network"
    assert problem["errors"][0]["pointer"] == "/admin_allowlist/1"


@pytest.mark.parametrize("text", ["fe80::1%eth0", "127.0.0.1%1", "localhost", "127.0.0.0/08x"])
async def test_text_that_can_be_no_network_is_refused(admin: Api, text: str) -> None:
    """The contract has no zones and no names."""
    await admin.refused(
        400, "PATCH", SETTINGS, headers=ANY_VERSION, json={"admin_allowlist": [text]}
    )


async def test_nobody_locks_himself_out(admin: Api) -> None:
    """409, and nothing is changed: a list without the caller, a signature that he did not make."""
    before = await admin.ok("GET", SETTINGS)
    for body in (
        {"admin_allowlist": ELSEWHERE},
        {"admin_allowlist": ["::/0"]},
        {"signing_required": True},
        {"admin_allowlist": LOOPBACK, "signing_required": True},
    ):
        problem = await admin.refused(409, "PATCH", SETTINGS, headers=ANY_VERSION, json=body)
        assert problem["code"] == "would-lock-out"
    assert before == await admin.ok("GET", SETTINGS)


async def test_who_signs_may_demand_signatures(tmp_path: Path, mongodb_uri: str) -> None:
    """From then on it takes a signature to change anything, to take the demand back, too."""
    async with running_node(tmp_path, mongodb_uri) as node:
        admin = await node.log_in("admin")
        key = await register(admin, "ed25519")
        answer = await request(admin, "PATCH", SETTINGS, {"signing_required": True}, key=key)
        assert answer.status_code == 200, answer.text
        assert answer.json()["signing_required"]
        await admin.refused(
            401, "PATCH", SETTINGS, headers=ANY_VERSION, json={"signing_required": False}
        )
        other = await _other_admin(node)
        await other.refused(
            401, "PATCH", SETTINGS, headers=ANY_VERSION, json={"signing_required": False}
        )
        answer = await request(admin, "PATCH", SETTINGS, {"signing_required": False}, key=key)
        assert not answer.json()["signing_required"]
        await other.ok("PATCH", SETTINGS, headers=ANY_VERSION, json={"signing_required": False})


async def _other_admin(node: RunningNode) -> Api:
    await node.add_user("other_admin", Role.ADMIN)
    return await node.log_in("other_admin")


async def test_settings_are_for_admins(user: Api, viewer: Api, anonymous: Api) -> None:
    """Others neither see nor change them."""
    for api in (user, viewer):
        await api.refused(403, "GET", SETTINGS)
        await api.refused(403, "PATCH", SETTINGS, headers=ANY_VERSION, json={"admin_allowlist": []})
    await anonymous.refused(401, "GET", SETTINGS)


async def test_environment_wins(tmp_path: Path, mongodb_uri: str) -> None:
    """A list in the environment can't be changed by request; the other settings can."""
    fixed = ("127.0.0.0/8", "2001:db8::/32")
    async with running_node(tmp_path, mongodb_uri, admin_allowlist=fixed) as node:
        admin = await node.log_in("admin")
        settings = await admin.ok("GET", SETTINGS)
        assert settings["admin_allowlist"] == list(fixed)
        for networks in ([], LOOPBACK):
            problem = await admin.refused(
                409, "PATCH", SETTINGS, headers=ANY_VERSION, json={"admin_allowlist": networks}
            )
            assert problem["code"] == "fixed-by-environment"
        assert (
            await admin.ok("PATCH", SETTINGS, headers=ANY_VERSION, json={"signing_required": False})
        ) == settings


async def test_environment_lets_back_in(tmp_path: Path, mongodb_uri: str) -> None:
    """An admin whom the stored list keeps out is let in by the environment at the next start."""
    async with running_node(tmp_path, mongodb_uri) as node:
        admin = await node.log_in("admin")
        store = _store_of(node)
        await store.change(lambda _: SystemSettings(admin_allowlist=tuple(ELSEWHERE)), ACTOR)
        await found(
            lambda: admin.get(SETTINGS), lambda answer: answer.status_code == 403, "locked out"
        )
    async with running_node(tmp_path, mongodb_uri, admin_allowlist=("127.0.0.1/32",)) as node:
        admin = await node.log_in("admin")
        assert (await admin.ok("GET", SETTINGS))["admin_allowlist"] == ["127.0.0.1/32"]


def _store_of(node: RunningNode) -> SqlSystemSettings:
    store = node.node.services.system._store  # type: ignore[attr-defined]
    assert isinstance(store, SqlSystemSettings)
    return store


async def test_every_node_follows_within_a_second(tmp_path: Path) -> None:
    """Of two nodes on one database the other one knows a change at its next poll."""
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    async with AsyncExitStack() as stack:
        here, there = [await _open(stack, url) for _ in range(2)]
        wanted = SettingsChange(admin_allowlist=("127.0.0.0/8",))
        await here.change(wanted, ACTOR, address="127.0.0.1", signed=False)
        assert not here.current.admits("192.0.2.1")
        await next_poll(there._revocations)
        await eventually(lambda: not there.current.admits("192.0.2.1"), "the other follows")


async def test_last_known_list_counts_while_sql_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can't be read is no open door; what changed meanwhile counts once SQL is back."""
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    async with AsyncExitStack() as stack:
        here, there = [await _open(stack, url) for _ in range(2)]
        wanted = SettingsChange(admin_allowlist=("127.0.0.0/8",))
        await here.change(wanted, ACTOR, address="127.0.0.1", signed=False)
        await next_poll(there._revocations)
        await eventually(lambda: not there.current.admits("192.0.2.1"), "the other follows")
        attempts = 0

        async def away() -> SystemSettings:
            nonlocal attempts
            attempts += 1
            raise Unavailable

        with monkeypatch.context() as patch:
            patch.setattr(there._store, "read", away)
            wanted = SettingsChange(admin_allowlist=("127.0.0.0/8", "192.0.2.0/24"))
            await here.change(wanted, ACTOR, address="127.0.0.1", signed=False)
            await eventually(lambda: attempts > 1, "the other asks again")
            assert not there.current.admits("192.0.2.1")
        await eventually(lambda: there.current.admits("192.0.2.1"), "the other follows")


async def test_concurrent_changes_come_one_after_the_other(tmp_path: Path) -> None:
    """Each of them has a version of its own, and none undoes what another one set."""
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    async with AsyncExitStack() as stack:
        nodes = [await _open(stack, url) for _ in range(2)]
        changes = [
            SettingsChange(admin_allowlist=("127.0.0.0/8", f"192.0.2.{n}/32")) for n in range(20)
        ]
        changed = await asyncio.gather(
            *(
                nodes[n % 2].change(one, ACTOR, address="127.0.0.1", signed=False)
                for n, one in enumerate(changes)
            )
        )
        assert sorted(one.version for one in changed) == list(range(1, 21))


async def _open(stack: AsyncExitStack, url: str, **options: Any) -> LiveSettings:
    database = Database(url)
    stack.callback(database.close)
    database.migrate()
    revocations = Revocations(SqlIdentity(database))
    await revocations.start()
    stack.push_async_callback(revocations.stop)
    settings = LiveSettings(SqlSystemSettings(database), revocations, **options)
    await settings.start()
    stack.push_async_callback(settings.stop)
    return settings


async def test_fixed_list_is_not_stored(tmp_path: Path) -> None:
    """What the environment says is this node's; a change of the rest leaves the stored list."""
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    async with AsyncExitStack() as stack:
        plain = await _open(stack, url)
        await plain.change(
            SettingsChange(admin_allowlist=("10.0.0.0/8",)), ACTOR, address="10.0.0.1", signed=False
        )
        fixed = await _open(stack, url, fixed_allowlist=("127.0.0.0/8",))
        with pytest.raises(FixedByEnvironment):
            await fixed.change(
                SettingsChange(admin_allowlist=()), ACTOR, address="127.0.0.1", signed=False
            )
        changed = await fixed.change(
            SettingsChange(signing_required=True), ACTOR, address="127.0.0.1", signed=True
        )
        assert changed.admin_allowlist == ("127.0.0.0/8",)
        assert (await plain.read()).admin_allowlist == ("10.0.0.0/8",)
        assert (await plain.read()).signing_required


async def test_decision_sees_what_another_admin_did() -> None:
    """Who was let in a moment ago and is kept out now changes nothing any more."""
    current = SystemSettings(admin_allowlist=("10.0.0.0/8",))
    with pytest.raises(AddressNotAllowed):
        change_settings(
            current, SettingsChange(admin_allowlist=()), address="192.0.2.1", signed=True
        )


async def test_signatures_can_be_required_by_who_signed() -> None:
    """And taken back by anybody whom the demand lets through."""
    wanted = SettingsChange(signing_required=True)
    with pytest.raises(WouldLockOut):
        change_settings(SystemSettings(), wanted, address="10.0.0.1", signed=False)
    changed = change_settings(SystemSettings(), wanted, address="10.0.0.1", signed=True)
    assert changed.signing_required
