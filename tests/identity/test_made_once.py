"""What is made under an identifier that was chosen before is made once, however often it is asked.

So a request that runs again after a crash, or twice at the same time, has one effect and one event.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import pytest

from hive.api_keys import KeyWish
from hive.changes import Actor
from hive.idempotency import Seed, UndoneMeanwhile
from hive.permissions import Principal, Role
from hive.secrets import API_KEY
from storage.sql.outbox import SqlOutbox
from tests.identity.node import Node

ACTOR = Actor("usr_1", "req_1", "aud_1")
PASSWORD = "correct horse battery staple"
AT_ONCE = 6


async def told(node: Node) -> Counter[str]:
    """How many events of each type wait for the log."""
    return Counter(event.type for event in await SqlOutbox(node.database).read(limit=100))


async def maker(node: Node) -> Principal:
    """Somebody who has logged in."""
    await node.users.create("ann", PASSWORD, Role.ADMIN, ACTOR)
    pair = await node.accounts.login("ann", PASSWORD)
    return await node.authenticator.authenticate(pair.access_token)


async def test_a_user_is_made_once(node: Node) -> None:
    """At the same time, and again; not for anybody else who wants the name."""
    made = await asyncio.gather(
        *(
            node.users.create("ann", PASSWORD, Role.USER, ACTOR, user_id="usr_chosen")
            for _ in range(AT_ONCE)
        )
    )
    made.append(await node.users.create("ann", PASSWORD, Role.USER, ACTOR, user_id="usr_chosen"))
    assert {detail.user.user_id for detail in made} == {"usr_chosen"}
    assert await told(node) == {"user.created": 1}


async def test_a_user_that_was_deleted_is_not_made_again(node: Node) -> None:
    """Whoever deleted it meant it."""
    await node.users.create("ann", PASSWORD, Role.USER, ACTOR, user_id="usr_chosen")
    await node.users.delete("usr_chosen", ACTOR)
    with pytest.raises(UndoneMeanwhile):
        await node.users.create("ann", PASSWORD, Role.USER, ACTOR, user_id="usr_chosen")


async def test_an_api_key_is_made_once_with_one_secret(node: Node) -> None:
    """Each time the same one, and it works."""
    caller, seed = await maker(node), Seed("key_chosen", bytes(range(32)))
    issued = await asyncio.gather(
        *(node.api_keys.create(caller, KeyWish("ci"), ACTOR, seed) for _ in range(AT_ONCE))
    )
    assert {one.key.key_id for one in issued} == {"key_chosen"}
    (secret,) = {one.secret for one in issued}
    assert secret == API_KEY.encode(bytes(range(API_KEY.entropy_bytes)))
    assert (await node.authenticator.authenticate(secret)).key_id == "key_chosen"
    assert (await told(node))["api_key.created"] == 1
    await node.api_keys.revoke(caller, "key_chosen", ACTOR)
    with pytest.raises(UndoneMeanwhile):
        await node.api_keys.create(caller, KeyWish("ci"), ACTOR, seed)


async def test_an_api_key_is_rotated_once(node: Node) -> None:
    """The second time the key has its successor, which is given again."""
    caller, seed = await maker(node), Seed("key_chosen", bytes(range(32)))
    old = (await node.api_keys.create(caller, KeyWish("ci"), ACTOR)).key.key_id
    rotated = await asyncio.gather(
        *(
            node.api_keys.rotate(caller, old, ACTOR, seed, overlap=timedelta(hours=1))
            for _ in range(AT_ONCE)
        )
    )
    assert {one.key.key_id for one in rotated} == {"key_chosen"}
    assert (await told(node))["api_key.rotated"] == 1


async def test_an_agent_key_is_made_once(node: Node) -> None:
    """Revoked meanwhile, it is given as it is: whoever registers the agent looks."""
    seed = Seed("key_chosen", bytes(range(32)))
    issued = await asyncio.gather(
        *(node.api_keys.issue_agent_key("agt_1", "worker", ACTOR, seed) for _ in range(AT_ONCE))
    )
    assert {one.key.key_id for one in issued} == {"key_chosen"}
    assert await told(node) == {"api_key.created": 1}
    await node.api_keys.revoke_agent_keys("agt_1", ACTOR)
    again = await node.api_keys.issue_agent_key("agt_1", "worker", ACTOR, seed)
    assert again.key.revoked_at is not None
