"""The ways back in, from the server's machine, beside a running server and without one.

For somebody who lost the only signing key, and for admins whom the allowlist keeps out.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from hive.changes import Actor
from hive.permissions import Role
from hive.system_settings import SystemSettings
from server.system_settings import LiveSettings
from tests.api.running import Api, RunningNode, found, running_node
from tests.security.signing import KEYS, register, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = "/api/v1/system/settings"
ELSEWHERE = SystemSettings(admin_allowlist=("192.0.2.0/24",))
NEXT = "The next one can be registered without a signature.\n"
STOP = "Stop the server and run this command again"


async def agentzero(directory: Path, *arguments: str) -> tuple[int | None, str]:
    """Exit code of the command, and all that it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "server.cli", *arguments),
        cwd=ROOT,
        env={"AGENTZERO_DATA_DIR": str(directory), "NO_COLOR": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    return process.returncode, said.decode()


async def live_keys(api: Api, owner: str) -> list[str]:
    """The identifiers of the owner's live signing keys, newest first."""
    keys = await api.pages(f"{KEYS}?owner={owner}")
    return [key["signing_key_id"] for key in keys if "revoked_at" not in key]


async def keep_out(api: Api, node: RunningNode) -> None:
    """Store a list without this machine; return once it counts."""
    await _store(node, ELSEWHERE)
    await found(
        lambda: api.get(SETTINGS), lambda answer: answer.status_code == 403, "locked out", 5
    )


async def _store(node: RunningNode, settings: SystemSettings) -> None:
    system = node.node.services.system
    assert isinstance(system, LiveSettings)
    await system._store.change(
        lambda stored: SystemSettings(settings.admin_allowlist, stored.signing_required),
        Actor("usr_1"),
    )


async def test_all_keys_of_a_user_are_revoked_by_the_running_server(
    node: RunningNode, admin: Api
) -> None:
    """Those of the user's API keys, too; the next one is registered unsigned, at once."""
    node.directory.write_running_server(node.url)
    name = f"ann-{uuid.uuid4().hex[:8]}"
    owner = await node.add_user(name, Role.USER)
    ann = await node.log_in(name)
    machine = await ann.ok("POST", "/api/v1/api-keys", json={"name": "machine"})
    bound = await register(ann, "hmac-sha256", key_id=machine["key_id"])
    own = await register(ann, "ed25519")
    assert await live_keys(admin, owner) == [own.keyid, bound.keyid]
    said = f"User `{name}` has no signing key any more: 2 revoked. {NEXT}"
    assert await agentzero(node.directory.path, "user", "reset-signing", name.upper()) == (0, said)
    assert await live_keys(admin, owner) == []
    await register(ann, "ed25519")
    assert len(await live_keys(admin, owner)) == 1
    code, said = await agentzero(node.directory.path, "user", "reset-signing", "nobody")
    assert (code, said) == (1, "There is no user `nobody`.\n")


async def test_command_that_had_to_be_signed_says_what_to_do(node: RunningNode, admin: Api) -> None:
    """Exit code 1; nothing is done. Without a server each of them changes the database itself."""
    node.directory.write_running_server(node.url)
    me = (await admin.ok("GET", "/api/v1/auth/me"))["principal_id"]
    key = await register(admin, "ed25519")
    commands = (
        ("user", "reset-signing", "admin"),
        ("user", "reset-password", "admin"),
        ("user", "disable", "admin"),
        ("keys", "rotate"),
    )
    ended = [agentzero(node.directory.path, *arguments) for arguments in commands]
    for code, said in await asyncio.gather(*ended):
        assert (code, "refused (401): Sign this request" in said) == (1, True), said
        assert STOP in said
    assert await live_keys(admin, me) == [key.keyid]
    answer = await request(admin, "DELETE", f"{KEYS}/{key.keyid}", key=key)
    assert answer.status_code == 200, answer.text


async def test_command_that_is_kept_out_says_what_to_do(node: RunningNode, admin: Api) -> None:
    """The allowlist counts for the operator's key as well."""
    node.directory.write_running_server(node.url)
    await keep_out(admin, node)
    try:
        refused, held = await asyncio.gather(
            agentzero(node.directory.path, "user", "list"),
            agentzero(node.directory.path, "system", "reset-allowlist"),
        )
    finally:
        await _store(node, SystemSettings())
    assert (refused[0], "refused (403)" in refused[1], STOP in refused[1]) == (1, True, True)
    assert (held[0], "is in use by process" in held[1]) == (2, True)


async def test_lone_admin_gets_in_again(tmp_path: Path, mongodb_uri: str) -> None:
    """Kept out by the allowlist, without the only key, while signatures are due of everybody."""
    async with running_node(tmp_path, mongodb_uri) as node:
        admin = await node.log_in("admin")
        lost = await register(admin, "ed25519")
        answer = await request(admin, "PATCH", SETTINGS, {"signing_required": True}, key=lost)
        assert answer.status_code == 200, answer.text
        await keep_out(admin, node)
    said = "The stored allowlist is empty now. It was: 192.0.2.0/24\n"
    assert await agentzero(tmp_path, "system", "reset-allowlist") == (0, said)
    said = f"User `admin` has no signing key any more: 1 revoked. {NEXT}"
    assert await agentzero(tmp_path, "user", "reset-signing", "admin") == (0, said)
    async with running_node(tmp_path, mongodb_uri) as node:
        admin = await node.log_in("admin")
        wanted = {"signing_required": False}
        problem = await admin.refused(
            401, "PATCH", SETTINGS, headers={"If-Match": "*"}, json=wanted
        )
        assert problem["code"] == "signature-required"
        answer = await request(admin, "PATCH", SETTINGS, wanted, key=lost)
        assert (answer.status_code, answer.json()["code"]) == (401, "signature-invalid")
        key = await register(admin, "ed25519")
        answer = await request(admin, "PATCH", SETTINGS, wanted, key=key)
        assert (answer.status_code, answer.json()["signing_required"]) == (200, False)

        async def told() -> list[dict[str, Any]]:
            return list(await admin.ok("GET", "/api/v1/events?type=signing_key.revoked"))

        (event,) = await found(told, lambda events: events, "the event of the command")
        assert (event["subject"], event["actor"]) == (lost.keyid, "system:operator")
