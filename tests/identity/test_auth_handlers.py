"""The operations of `handlers/auth.py`, from credentials to answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from handlers import auth
from handlers.context import Context
from hive.errors import InvalidToken
from hive.permissions import ROLE_PERMISSIONS, Principal, Role
from hive.ports import Services
from tests.identity.node import ACTOR, PASSWORD, Node


def _context(node: Node, principal: Principal | None = None) -> Context:
    services = cast(Services, SimpleNamespace(identity=node.accounts))
    return Context(principal, "req_1", "192.0.2.1", services)


async def test_login_refresh_me_and_logout(node: Node) -> None:
    """The way of a session through the four operations."""
    await node.add_user("Ann")
    body = {"username": "ann", "password": PASSWORD, "device": "a laptop"}
    tokens = (await auth.login(_context(node), body=body)).body
    assert tokens.keys() == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert (tokens["token_type"], tokens["expires_in"]) == ("bearer", 3600)
    presented = {"refresh_token": tokens["refresh_token"]}
    tokens = (await auth.refresh(_context(node), body=presented)).body
    principal = await node.authenticator.authenticate(tokens["access_token"])
    assert await auth.get_me(_context(node, principal)) == {
        "principal_id": principal.principal_id,
        "username": "Ann",
        "role": "user",
        "permissions": sorted(ROLE_PERMISSIONS[Role.USER]),
        "session_id": principal.session_id,
    }
    found = await node.store.find_session(principal.session_id or "")
    assert found is not None
    assert (found[0].device, found[0].address) == ("a laptop", "192.0.2.1")
    answer = await auth.logout(_context(node, principal), body={})
    assert answer.body == {"message": "Logged out"}
    with pytest.raises(InvalidToken):
        await auth.refresh(_context(node), body={"refresh_token": tokens["refresh_token"]})


async def test_me_of_an_agent(node: Node) -> None:
    """An agent sees its own identifier and the key that it came with."""
    issued = await node.api_keys.issue_agent_key("agt_1", "worker", ACTOR)
    principal = await node.authenticator.authenticate(issued.secret)
    me = await auth.get_me(_context(node, principal))
    assert (me["principal_id"], me["agent_id"], me["role"]) == ("agt_1", "agt_1", "agent")
    assert me["key_id"] == issued.key.key_id
    assert "session_id" not in me
