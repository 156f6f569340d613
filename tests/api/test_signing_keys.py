"""Signing keys over the wire: registering, looking, revoking, and when a signature is due."""

from __future__ import annotations

import base64
import uuid
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hive.permissions import Role
from tests.api.running import Api, RunningNode, found
from tests.security.signing import KEYS, register, request

API_KEYS = "/api/v1/api-keys"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def signer(node: RunningNode) -> Api:
    """A new user without keys."""
    name = f"signer-{uuid.uuid4().hex[:8]}"
    await node.add_user(name, Role.USER)
    return await node.log_in(name)


def public_key() -> str:
    """A new public key."""
    raw = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    return base64.b64encode(raw).decode()


async def test_the_first_key_is_registered_unsigned_and_all_else_is_signed(signer: Api) -> None:
    """Signing is on from the first key to the revocation of the last one."""
    first = await register(signer, "ed25519")
    body = {"name": "second", "algorithm": "ed25519", "public_key": public_key()}
    refused = await signer.refused(401, "POST", KEYS, json=body)
    assert refused["code"] == "signature-required"
    second = await register(signer, "hmac-sha256", signed_by=first)
    refused = await signer.refused(401, "DELETE", f"{KEYS}/{first.keyid}")
    assert refused["code"] == "signature-required"
    for revoked, by in ((first, second), (second, second)):
        answer = await request(signer, "DELETE", f"{KEYS}/{revoked.keyid}", key=by)
        assert (answer.status_code, answer.json()) == (200, {"message": "Signing key revoked"})
    await register(signer, "ed25519")


async def test_a_refusal_says_what_to_cover(signer: Api) -> None:
    """Detail for people, Accept-Signature (RFC 9421, section 5) for programs."""
    await register(signer, "ed25519")
    answer = await signer.post(f"{KEYS}?a=b", json={"name": "n", "algorithm": "hmac-sha256"})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    components = '"@method" "@authority" "@path" "@query" "content-digest"'
    assert answer.headers["Accept-Signature"] == f"sig=({components});created"
    assert "@query, content-digest" in answer.json()["detail"]


async def test_a_key_is_shown_without_its_secret(signer: Api) -> None:
    """The secret of an HMAC key is in one answer; a public key always is."""
    hmac_key = await register(signer, "hmac-sha256", name="machine")
    assert isinstance(hmac_key.private, bytes)
    assert len(hmac_key.private) == 32
    shown = await signer.ok("GET", f"{KEYS}/{hmac_key.keyid}")
    assert (shown["name"], shown["algorithm"]) == ("machine", "hmac-sha256")
    assert not {"secret", "sealed", "public_key", "revoked_at"} & shown.keys()
    key = await register(signer, "ed25519", signed_by=hmac_key)
    listed = await signer.pages(f"{KEYS}?limit=1")
    assert [one["signing_key_id"] for one in listed] == [key.keyid, hmac_key.keyid]
    assert isinstance(key.private, Ed25519PrivateKey)
    raw = key.private.public_key().public_bytes_raw()
    assert base64.b64decode(listed[0]["public_key"]) == raw
    assert "last_used_at" in listed[1], "it signed the registration of the other one"


async def test_a_public_key_comes_raw_or_as_der_and_is_shown_raw(signer: Api) -> None:
    """Tools give DER, libraries 32 bytes; both name the same key."""
    public = Ed25519PrivateKey.generate().public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    body = {
        "name": "der",
        "algorithm": "ed25519",
        "public_key": base64.b64encode(der).decode(),
    }
    made = await signer.ok("POST", KEYS, json=body)
    assert base64.b64decode(made["public_key"]) == public.public_bytes_raw()


SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
]
NOT_CANONICAL = [
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "0100000000000000000000000000000000000000000000000000000000000080",
]
NO_POINT = ["0200000000000000000000000000000000000000000000000000000000000000"]


@pytest.mark.parametrize("encoded", [*SMALL_ORDER, *NOT_CANONICAL, *NO_POINT, "00" * 33, "00" * 44])
async def test_what_is_no_key_of_prime_order_is_refused(signer: Api, encoded: str) -> None:
    """With a point of small order anybody's signature would hold."""
    text = base64.b64encode(bytes.fromhex(encoded)).decode()
    body = {"name": "n", "algorithm": "ed25519", "public_key": text}
    problem = await signer.refused(422, "POST", KEYS, json=body)
    assert problem["errors"][0]["pointer"] == "/public_key"


@pytest.mark.parametrize(
    "members",
    [
        {"algorithm": "ed25519"},
        {"algorithm": "hmac-sha256", "public_key": "A" * 44},
        {"algorithm": "ed25519", "public_key": "=" * 44},
        {"algorithm": "ed25519", "public_key": "A" * 45},
    ],
)
async def test_a_key_that_does_not_fit_its_algorithm_is_refused(
    signer: Api, members: dict[str, Any]
) -> None:
    """Ed25519 comes with a public key in Base64, HMAC with none."""
    await signer.refused(422, "POST", KEYS, json={"name": "n", **members})


async def test_a_key_may_be_bound_to_an_own_api_key_only(signer: Api, user: Api) -> None:
    """Another's API key, a revoked one and one that never was are the same: not found."""
    own = await signer.ok("POST", API_KEYS, json={"name": "ci"})
    foreign = await user.ok("POST", API_KEYS, json={"name": "ci"})
    revoked = await signer.ok("POST", API_KEYS, json={"name": "old"})
    await signer.ok("DELETE", f"{API_KEYS}/{revoked['key_id']}")
    for key_id in (foreign["key_id"], revoked["key_id"], "key_nobody"):
        body = {"name": "n", "algorithm": "hmac-sha256", "key_id": key_id}
        await signer.refused(404, "POST", KEYS, json=body)
    bound = await register(signer, "hmac-sha256", key_id=own["key_id"])
    assert (await signer.ok("GET", f"{KEYS}/{bound.keyid}"))["key_id"] == own["key_id"]


async def test_a_bound_key_signs_for_its_api_key_only(node: RunningNode, signer: Api) -> None:
    """And where there is one, the user's own keys don't count."""
    own = await signer.ok("POST", API_KEYS, json={"name": "ci"})
    bound = await register(signer, "hmac-sha256", key_id=own["key_id"])
    program = node.client(own["api_key"])
    refused = await program.refused(401, "DELETE", f"{KEYS}/{bound.keyid}")
    assert refused["code"] == "signature-required"
    own_key = await register(signer, "ed25519")
    answer = await request(signer, "DELETE", f"{KEYS}/{own_key.keyid}", key=bound)
    assert answer.json()["code"] == "signature-invalid"
    answer = await request(program, "DELETE", f"{KEYS}/{own_key.keyid}", key=own_key)
    assert answer.json()["code"] == "signature-invalid"
    answer = await request(program, "DELETE", f"{KEYS}/{bound.keyid}", key=bound)
    assert answer.status_code == 200
    answer = await request(program, "DELETE", f"{KEYS}/{own_key.keyid}", key=own_key)
    assert answer.status_code == 200, "without a bound key the user's own ones count"


async def test_rotating_an_api_key_takes_no_signature_away(node: RunningNode, signer: Api) -> None:
    """The successor needs the signing keys that its predecessor needed."""
    first = await signer.ok("POST", API_KEYS, json={"name": "ci"})
    bound = await register(signer, "hmac-sha256", key_id=first["key_id"])
    second = await signer.ok("POST", f"{API_KEYS}/{first['key_id']}/rotate", json={})
    third = await signer.ok("POST", f"{API_KEYS}/{second['key_id']}/rotate", json={})
    program = node.client(third["api_key"])
    refused = await program.refused(401, "DELETE", f"{KEYS}/{bound.keyid}")
    assert refused["code"] == "signature-required"
    answer = await request(program, "DELETE", f"{KEYS}/{bound.keyid}", key=bound)
    assert answer.status_code == 200


async def test_an_owner_has_at_most_ten_live_keys(signer: Api) -> None:
    """The eleventh is refused until one is revoked."""
    first = await register(signer, "hmac-sha256")
    others = [await register(signer, "hmac-sha256", signed_by=first) for _ in range(9)]
    body = {"name": "n", "algorithm": "hmac-sha256"}
    answer = await request(signer, "POST", KEYS, body, key=first)
    assert (answer.status_code, answer.json()["code"]) == (409, "too-many-signing-keys")
    assert (
        await request(signer, "DELETE", f"{KEYS}/{others[-1].keyid}", key=first)
    ).status_code == 200
    assert (await request(signer, "POST", KEYS, body, key=first)).status_code == 201


async def test_others_keys_do_not_exist_but_for_an_admin(
    node: RunningNode, signer: Api, other_user: Api, admin: Api
) -> None:
    """An admin helps who has lost the last key."""
    key = await register(signer, "ed25519")
    owner = (await signer.ok("GET", f"{KEYS}/{key.keyid}"))["owner"]
    hidden = await other_user.refused(404, "GET", f"{KEYS}/{key.keyid}")
    never = await other_user.refused(404, "GET", f"{KEYS}/sgk_nobody")
    differs = {"instance", "request_id"}
    assert {k: v for k, v in hidden.items() if k not in differs} == {
        k: v for k, v in never.items() if k not in differs
    }
    await other_user.refused(404, "DELETE", f"{KEYS}/{key.keyid}")
    assert await other_user.ok("GET", f"{KEYS}?owner={owner}") == []
    assert [k["owner"] for k in await admin.ok("GET", f"{KEYS}?owner={owner}")] == [owner]
    await admin.ok("DELETE", f"{KEYS}/{key.keyid}")
    assert "revoked_at" in await signer.ok("GET", f"{KEYS}/{key.keyid}")
    await admin.ok("DELETE", f"{KEYS}/{key.keyid}")
    await register(signer, "ed25519")


async def test_owner_and_admins_see_the_events_of_a_key(signer: Api, other_user: Api) -> None:
    """Created and revoked, with a summary and no secret."""
    key = await register(signer, "hmac-sha256", name="machine")
    assert (await request(signer, "DELETE", f"{KEYS}/{key.keyid}", key=key)).status_code == 200
    path = f"/api/v1/events?subject={key.keyid}"
    events = await found(
        lambda: signer.ok("GET", path), lambda seen: len(seen) == 2, "both events are in the log"
    )
    assert [event["type"] for event in events] == ["signing_key.created", "signing_key.revoked"]
    owner = events[0]["actor"]
    summary = {
        "signing_key_id": key.keyid,
        "name": "machine",
        "owner_id": owner,
        "algorithm": "hmac-sha256",
    }
    assert [event["data"] for event in events] == [summary, summary]
    assert await other_user.ok("GET", path) == []


async def test_a_system_that_requires_signatures_lets_the_first_key_in(
    node: RunningNode, signer: Api
) -> None:
    """Whoever has no key can register one, and do nothing else that is signed."""
    signatures: Any = node.node.app.pipeline.signatures
    required = signatures._signing_required
    signatures._signing_required = lambda: True
    try:
        problem = await signer.refused(401, "DELETE", f"{KEYS}/sgk_nobody")
        assert problem["code"] == "signature-required"
        key = await register(signer, "ed25519")
        answer = await request(signer, "DELETE", f"{KEYS}/{key.keyid}", key=key)
        assert answer.status_code == 200
    finally:
        signatures._signing_required = required
