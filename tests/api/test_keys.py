"""Rotating the keys of access tokens over the wire, and the key set that others read."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import pytest_asyncio

from tests.api.running import PASSWORD, Agent, Api, RunningNode, found, running_node

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROTATE = "/api/v1/auth/keys/rotate"
JWKS = "/.well-known/jwks.json"
ROOT = Path(__file__).resolve().parents[2]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(
    tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str
) -> AsyncIterator[RunningNode]:
    """A node of its own: these tests change what signs its tokens."""
    async with running_node(tmp_path_factory.mktemp("keys"), mongodb_uri) as running:
        yield running


async def _token(node: RunningNode, algorithm: str) -> str:
    """A new access token, once the keys of this algorithm sign."""
    credentials = {"username": "admin", "password": PASSWORD}

    async def log_in() -> str:
        tokens = await node.client().ok("POST", "/api/v1/auth/login", json=credentials)
        return str(tokens["access_token"])

    return await found(
        log_in, lambda token: jwt.get_unverified_header(token)["alg"] == algorithm, algorithm
    )


async def test_hs256_publishes_nothing(anonymous: Api) -> None:
    """A new installation signs with HS256, and its key set is empty."""
    response = await anonymous.get(JWKS)
    assert response.json() == {"keys": []}
    assert response.headers["Content-Type"] == "application/json"
    # A copy that nobody asks about again would hide the next key from those who look for it.
    assert response.headers["Cache-Control"] == "private, no-cache"


@pytest.mark.parametrize("algorithm", ["EdDSA", "RS256"])
async def test_rotation_publishes_the_key_at_once(
    node: RunningNode, admin: Api, anonymous: Api, algorithm: str
) -> None:
    """The answer names the new key and when older ones end; anybody can verify its tokens."""
    ring = await admin.ok("POST", ROTATE, json={"algorithm": algorithm})
    assert ring["algorithm"] == algorithm
    assert ring["verifying"][-1]["verifies_until"] > ring["signs_from"]
    published = await anonymous.ok("GET", JWKS)
    assert ring["kid"] in {key["kid"] for key in published["keys"]}
    token = await _token(node, algorithm)
    key = jwt.PyJWKSet.from_dict(published)[ring["kid"]]
    assert jwt.decode(token, key, [algorithm], audience="agentzero-api")["role"] == "admin"
    await node.client(token).ok("GET", "/api/v1/auth/me")
    await admin.ok("GET", "/api/v1/auth/me")


@pytest.mark.parametrize("body", [{}, {"json": {}}])
async def test_rotation_without_a_word_keeps_the_algorithm(
    node: RunningNode, admin: Api, body: dict[str, Any]
) -> None:
    """With `{}` or no body at all."""
    before = await admin.ok("POST", ROTATE, json={"algorithm": "EdDSA"})
    response = await admin.post(ROTATE, **body)
    assert response.status_code == 200, response.text
    ring = response.json()
    assert ring["algorithm"] == "EdDSA"
    assert ring["kid"] != before["kid"]
    assert before["kid"] in {key["kid"] for key in ring["verifying"]}


@pytest.mark.parametrize("algorithm", ["none", "hs256", "ES256", "", None, 1, ["EdDSA"]])
async def test_other_algorithms_are_refused(admin: Api, algorithm: object) -> None:
    """The contract names three."""
    await admin.refused(400, "POST", ROTATE, json={"algorithm": algorithm})


async def test_rotation_is_for_admins(user: Api, viewer: Api, agent: Agent, anonymous: Api) -> None:
    """Nobody else makes keys."""
    for api in (user, viewer, agent.api):
        await api.refused(403, "POST", ROTATE, json={})
    await anonymous.refused(401, "POST", ROTATE, json={})


async def test_operator_rotates_from_the_command_line(node: RunningNode, anonymous: Api) -> None:
    """`agentzero keys rotate` asks the running server with the operator's key."""
    node.directory.write_running_server(node.url)
    code, said, complaint = await _keys_rotate(node, "--algorithm", "RS256")
    assert (code, complaint) == (0, "")
    kid = said.split()[2]
    published = await anonymous.ok("GET", JWKS)
    assert {key["kid"]: key["alg"] for key in published["keys"]}[kid] == "RS256"


async def test_refusal_is_said_on_the_command_line(node: RunningNode) -> None:
    """Exit code 1 and the server's own words, when the operator's key is no longer good."""
    node.directory.write_running_server(node.url)
    good = node.directory.find_operator_key()
    assert good is not None
    node.directory.write_operator_key("azk_broken")
    try:
        code, _, complaint = await _keys_rotate(node)
    finally:
        node.directory.write_operator_key(good)
    assert code == 1
    assert "refused (401): Invalid token" in complaint


async def test_starting_server_is_not_disturbed(node: RunningNode) -> None:
    """Exit code 2, while somebody has the directory and does not listen."""
    (node.directory.path / "server.json").unlink(missing_ok=True)
    code, _, complaint = await _keys_rotate(node)
    assert code == 2
    assert "is in use by process" in complaint


async def _keys_rotate(node: RunningNode, *arguments: str) -> tuple[int | None, str, str]:
    """Exit code, output and complaints of the command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "server.cli", "keys", "rotate", *arguments),
        cwd=ROOT,
        env={"AGENTZERO_DATA_DIR": str(node.directory.path), "NO_COLOR": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        said, complaint = await process.communicate()
    return process.returncode, said.decode(), complaint.decode()
