"""What a stolen token of an admin is not good for: without signatures, and from elsewhere."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from hive.permissions import Role
from tests.api.running import PASSWORD, Api, RunningNode, running_node
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


async def test_a_token_without_signatures_gets_no_key_of_an_agent(
    node: RunningNode, name: str
) -> None:
    """It has no end, and would go on when the token's session is over."""
    await node.add_user(name, Role.ADMIN)
    stolen = await node.log_in(name)
    key = await register(stolen, "ed25519")

    refused = await stolen.refused(401, "POST", "/api/v1/agents", json={"name": name})

    assert refused["code"] == "signature-required"
    signed = await request(stolen, "POST", "/api/v1/agents", {"name": name}, key=key)
    assert signed.status_code == 201, signed.text


async def test_from_elsewhere_an_admin_has_only_own_keys(tmp_path: Path, mongodb_uri: str) -> None:
    """Outside the allowlist the keys of others, which only admins reach, are not there."""
    elsewhere = ("192.0.2.0/24",)
    async with running_node(tmp_path / "n", mongodb_uri, admin_allowlist=elsewhere) as node:
        await node.add_user("ann", Role.USER)
        ann, admin = await node.log_in("ann"), await node.log_in("admin")
        api_key = (await ann.ok("POST", "/api/v1/api-keys", json={"name": "ci"}))["key_id"]
        theirs = f"/api/v1/api-keys/{api_key}"
        signing = f"/api/v1/signing-keys/{(await register(ann, 'ed25519')).keyid}"
        mine = (await admin.ok("POST", "/api/v1/api-keys", json={"name": "mine"}))["key_id"]

        for method, path in (
            ("GET", theirs),
            ("POST", f"{theirs}/rotate"),
            ("DELETE", theirs),
            ("GET", signing),
            ("DELETE", signing),
        ):
            await admin.refused(404, method, path)

        listed = {key["key_id"] for key in await admin.pages("/api/v1/api-keys")}
        assert mine in listed
        assert api_key not in listed
        assert await admin.pages("/api/v1/signing-keys") == []
        assert (await ann.ok("GET", theirs))["status"] == "active"
        await admin.ok("POST", f"/api/v1/api-keys/{mine}/rotate")
