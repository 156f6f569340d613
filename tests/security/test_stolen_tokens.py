"""A stolen token of somebody who signs makes nobody who does not have to sign."""

from __future__ import annotations

import uuid

import pytest

from hive.permissions import Role
from tests.api.running import PASSWORD, Api, RunningNode
from tests.security.signing import register, request

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def name() -> str:
    """A username that nobody has."""
    return f"stolen-{uuid.uuid4().hex[:8]}"


async def test_a_token_without_signatures_makes_no_other_admin(
    node: RunningNode, admin: Api, name: str
) -> None:
    """Whoever holds the token of an admin who signs could else go on as an admin who does not."""
    await node.add_user(name, Role.ADMIN)
    stolen = await node.log_in(name)
    key = await register(stolen, "ed25519")
    accomplice = {"username": f"{name}-2", "password": PASSWORD, "role": "admin"}

    refused = await stolen.refused(401, "POST", "/api/v1/users", json=accomplice)

    assert refused["code"] == "signature-required"
    names = [user["username"] for user in await admin.pages("/api/v1/users?limit=200")]
    assert accomplice["username"] not in names
    signed = await request(stolen, "POST", "/api/v1/users", accomplice, key=key)
    assert signed.status_code == 201, signed.text
