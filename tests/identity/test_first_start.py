"""What a fresh installation makes, once."""

from __future__ import annotations

import asyncio

from sqlalchemy import text

from hive.permissions import Role
from hive.secrets import API_KEY
from server.first_start import FirstStart, ensure_bootstrap
from tests.identity.node import Node


async def _ensure(
    node: Node,
    *,
    admin_password: str | None = None,
    operator_key: str | None = None,
    node_id: str = "nod_1",
) -> FirstStart:
    return await ensure_bootstrap(
        node.store,
        node.passwords,
        node.api_keys,
        node.authenticator,
        admin_password=admin_password,
        operator_key=operator_key,
        node_id=node_id,
    )


async def test_fresh_installation_gets_an_admin_and_an_operator_key(node: Node) -> None:
    """Both are shown once and both work; neither is in the object's text."""
    made = await _ensure(node)
    assert made.admin_password
    assert made.operator_key
    assert API_KEY.is_well_formed(made.operator_key)
    principal = await node.authenticator.authenticate(made.operator_key)
    assert (principal.name, principal.role) == ("admin", Role.ADMIN)
    pair = await node.accounts.login("admin", made.admin_password)
    assert (await node.authenticator.authenticate(pair.access_token)).is_admin
    assert made.admin_password not in repr(made)
    assert made.operator_key not in repr(made)


async def test_second_start_makes_nothing(node: Node) -> None:
    """With a key that works and a user there is nothing to make or to show."""
    made = await _ensure(node)
    assert await _ensure(node, operator_key=made.operator_key) == FirstStart()
    assert await node.store.count_users() == 1


async def test_given_password_is_used_and_not_shown(node: Node) -> None:
    """An operator who sets the password knows it already."""
    made = await _ensure(node, admin_password="a password from the settings")
    assert made.admin_password is None
    pair = await node.accounts.login("admin", "a password from the settings")
    assert (await node.authenticator.authenticate(pair.access_token)).is_admin


async def test_lost_operator_key_is_replaced(node: Node) -> None:
    """Without the file a new key is made, and the old one, wherever it is, stops working."""
    first = await _ensure(node)
    second = await _ensure(node, operator_key="azk_broken")
    assert second.operator_key not in {None, first.operator_key}
    third = await _ensure(node, operator_key=first.operator_key)
    assert third.operator_key is not None
    fourth = await _ensure(node, operator_key=third.operator_key)
    assert fourth == FirstStart()


async def test_each_node_has_an_operator_key_of_its_own(node: Node) -> None:
    """A node that is added takes nothing from the command lines of the others."""
    first = await _ensure(node)
    second = await _ensure(node, node_id="nod_2")
    assert second.operator_key not in {None, first.operator_key}
    for made, node_id in ((first, "nod_1"), (second, "nod_2")):
        again = await _ensure(node, operator_key=made.operator_key, node_id=node_id)
        assert again == FirstStart()


async def test_without_an_admin_no_operator_key_is_made(node: Node) -> None:
    """Whoever disabled the last admin in the database did not want a key at the next start."""
    await _ensure(node)
    await node.database.write(lambda sql: sql.execute(text("UPDATE users SET disabled = true")))
    assert await _ensure(node) == FirstStart()


async def test_nodes_that_start_together_make_one_admin(node: Node) -> None:
    """Only one of them shows a password, and that one works."""
    made = await asyncio.gather(*(_ensure(node) for _ in range(5)))
    passwords = [each.admin_password for each in made if each.admin_password]
    assert len(passwords) == 1
    pair = await node.accounts.login("admin", passwords[0])
    assert (await node.authenticator.authenticate(pair.access_token)).is_admin
