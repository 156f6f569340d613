"""The row of the system's settings, on both databases."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from sqlalchemy import select

from hive.changes import Actor
from hive.system_settings import SystemSettings
from storage.sql.models import OutboxRow
from storage.sql.system_settings import SUBJECT, SqlSystemSettings
from tests.identity.node import Node

ACTOR = Actor("usr_1", "req_1", "aud_1")


async def test_nothing_is_set_at_first(node: Node) -> None:
    """Version 0, without a time."""
    assert await SqlSystemSettings(node.database).read() == SystemSettings()


async def test_change_is_one_write_with_its_event(node: Node) -> None:
    """Settings, event and the record that other nodes follow."""
    store = SqlSystemSettings(node.database)
    position = await node.store.change_position()
    changed = await store.change(
        lambda now: replace(now, admin_allowlist=("10.0.0.0/8",), signing_required=True), ACTOR
    )
    assert await store.read() == changed
    assert (changed.version, changed.updated_by) == (1, "usr_1")
    assert SUBJECT in (await node.store.changes_after(position)).subjects
    events = await node.database.read(
        lambda sql: [
            (one.event_type, one.subject, one.owner, one.call_id, one.data)
            for one in sql.scalars(select(OutboxRow))
        ]
    )
    assert events == [("system.settings_updated", "system", None, "aud_1", {"version": 1})]


async def test_refused_change_leaves_nothing(node: Node) -> None:
    """What the decision raises goes through, and neither event nor version is left."""
    store = SqlSystemSettings(node.database)

    def refuse(_: SystemSettings) -> SystemSettings:
        raise LookupError

    raised = await asyncio.gather(store.change(refuse, ACTOR), return_exceptions=True)
    assert isinstance(raised[0], LookupError)
    assert await store.read() == SystemSettings()
    assert not await node.database.read(lambda sql: list(sql.scalars(select(OutboxRow))))


async def test_changes_at_once_see_one_another(node: Node) -> None:
    """Twenty callers each add a network to what is there: all of them are there at the end."""
    store = SqlSystemSettings(node.database)

    def adding(number: int) -> SystemSettings:
        return replace(SystemSettings(), admin_allowlist=(f"10.0.0.{number}/32",))

    def decide(number: int) -> object:
        return lambda now: replace(
            now, admin_allowlist=now.admin_allowlist + adding(number).admin_allowlist
        )

    await asyncio.gather(*(store.change(decide(n), ACTOR) for n in range(20)))  # type: ignore[arg-type]
    settings = await store.read()
    assert set(settings.admin_allowlist) == {f"10.0.0.{n}/32" for n in range(20)}
    assert settings.version == 20
