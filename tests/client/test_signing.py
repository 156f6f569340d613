"""The client signs its requests, each attempt anew; verified here by hand, without the library."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import pytest
import tornado.web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.testing import bind_unused_port

from agentzero_client import (
    AsyncClient,
    AuthenticationError,
    Client,
    RetryPolicy,
    Signer,
    UnexpectedAnswerError,
)

SECRET = bytes(range(32))
INPUT = re.compile(
    r"sig=(?P<params>\((?P<components>[^)]*)\);created=(?P<created>\d+);"
    r'keyid="sgk_1";alg="(?P<alg>[a-z0-9-]+)";nonce="(?P<nonce>[A-Za-z0-9_-]{16,128})")'
)


@dataclass
class Server:
    """Keeps every request, and answers with the statuses that the test wants, then 200."""

    url: str
    requests: list[HTTPServerRequest] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    code: str = "unavailable"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server on the loopback."""
    socket, port = bind_unused_port()
    kept = Server(f"http://127.0.0.1:{port}")

    class Handler(tornado.web.RequestHandler):
        def handle(self) -> None:
            kept.requests.append(self.request)
            if kept.statuses:
                self.set_status(kept.statuses.pop(0))
                self.set_header("Content-Type", "application/problem+json")
                self.finish({"code": kept.code, "detail": "Not now."})
                return
            self.finish(
                {
                    "access_token": "t",
                    "refresh_token": "r",
                    "token_type": "bearer",
                    "expires_in": 3600,
                }
            )

        get = post = put = delete = handle

    http = HTTPServer(tornado.web.Application([(r".*", Handler)]))
    http.add_socket(socket)
    yield kept
    http.stop()
    await http.close_all_connections()


def verified(request: HTTPServerRequest, key: Ed25519PrivateKey | bytes) -> re.Match[str]:
    """The parts of a signature that holds; an assertion fails for any other."""
    found = INPUT.fullmatch(request.headers["Signature-Input"])
    assert found, request.headers["Signature-Input"]
    values = {
        '"@method"': request.method,
        '"@authority"': request.headers["Host"],
        '"@path"': request.path,
        '"@query"': f"?{request.query}",
        '"content-digest"': request.headers.get("Content-Digest"),
    }
    lines = [f"{name}: {values[name]}" for name in found["components"].split(" ")]
    base = "\n".join([*lines, f'"@signature-params": {found["params"]}']).encode()
    signature = base64.b64decode(request.headers["Signature"].removeprefix("sig=:")[:-1])
    if isinstance(key, bytes):
        assert hmac.compare_digest(signature, hmac.digest(key, base, "sha256"))
    else:
        key.public_key().verify(signature, base)
    if request.body:
        digest = base64.b64encode(hashlib.sha256(request.body).digest()).decode()
        assert request.headers["Content-Digest"] == f"sha-256=:{digest}:"
    assert abs(int(found["created"]) - time.time()) < 60
    return found


async def test_every_request_is_signed_over_its_method_target_and_body(server: Server) -> None:
    """Ed25519: with a query, with a body, with neither."""
    key = Ed25519PrivateKey.generate()
    async with AsyncClient(server.url, api_key="k", signer=Signer.ed25519("sgk_1", key)) as client:
        await client.http.request("GET", "/a", params={"q": "x y"})
        await client.http.request("PUT", "/b%20c", body={"role": "viewer"})
        await client.http.request("DELETE", "/d")
    covered = [verified(request, key)["components"] for request in server.requests]
    target = '"@method" "@authority" "@path"'
    assert covered == [f'{target} "@query"', f'{target} "content-digest"', target]


def pem(key: Ed25519PrivateKey) -> bytes:
    """The key as a file has it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


async def test_keys_come_as_objects_pem_raw_bytes_or_base64(server: Server) -> None:
    """Each form of a key signs alike."""
    key = Ed25519PrivateKey.generate()
    signers: list[tuple[Signer, Ed25519PrivateKey | bytes]] = [
        (Signer.ed25519("sgk_1", pem(key)), key),
        (Signer.ed25519("sgk_1", key.private_bytes_raw()), key),
        (Signer.hmac_sha256("sgk_1", SECRET), SECRET),
        (Signer.hmac_sha256("sgk_1", base64.b64encode(SECRET).decode()), SECRET),
    ]
    for signer, _ in signers:
        async with AsyncClient(server.url, api_key="k", signer=signer) as client:
            await client.http.request("POST", "/a", body={})
    for request, (_, verifying) in zip(server.requests, signers, strict=True):
        verified(request, verifying)


async def test_an_attempt_is_signed_anew(server: Server) -> None:
    """A nonce is good once, so a repeated request must not carry the first one's."""
    server.statuses = [503, 503]
    signer = Signer.hmac_sha256("sgk_1", SECRET)
    retries = RetryPolicy(base_seconds=0.001, cap_seconds=0.001)
    async with AsyncClient(server.url, api_key="k", signer=signer, retries=retries) as client:
        await client.http.request("DELETE", "/a")
    nonces = [verified(request, SECRET)["nonce"] for request in server.requests]
    assert len(nonces) == len(set(nonces)) == 3


async def test_a_refused_signature_ends_no_session(server: Server) -> None:
    """The credential is good; logging in again would change nothing."""
    server.code = "signature-invalid"
    signer = Signer.hmac_sha256("sgk_1", SECRET)
    async with AsyncClient(server.url, username="ann", password="secret", signer=signer) as client:
        await client.http.request("GET", "/a")
        server.statuses = [401]
        with pytest.raises(AuthenticationError, match="signature-invalid"):
            await client.http.request("DELETE", "/a")
    assert [request.path for request in server.requests] == ["/api/v1/auth/login", "/a", "/a"]
    assert "Signature" not in server.requests[0].headers, "nobody's keyid before the login"


async def test_the_blocking_client_signs_too(server: Server) -> None:
    """One option, the same for both."""

    def ask() -> None:
        with (
            Client(server.url, api_key="k", signer=Signer.hmac_sha256("sgk_1", SECRET)) as client,
            pytest.raises(UnexpectedAnswerError),
        ):
            client.hive.status()

    await asyncio.to_thread(ask)
    verified(server.requests[0], SECRET)


@pytest.mark.parametrize("key", [b"x" * 31, b"-----BEGIN PRIVATE KEY-----\n", b""])
def test_what_is_no_private_key_is_refused_at_once(key: bytes) -> None:
    """A wrong file is named where it is given, not by the server."""
    with pytest.raises(ValueError, match=r".+"):
        Signer.ed25519("sgk_1", key)


def test_signing_twice_leaves_one_digest_and_one_signature() -> None:
    """A request object that is sent again is signed again."""
    signer = Signer.hmac_sha256("sgk_1", SECRET)
    request = httpx.Request("POST", "http://127.0.0.1/a", content=b"{}")
    signer.sign(request)
    first = request.headers["Signature-Input"]
    signer.sign(request)
    names = [name.lower() for name, _ in request.headers.multi_items()]
    assert [names.count(n) for n in ("signature", "signature-input", "content-digest")] == [1, 1, 1]
    assert request.headers["Signature-Input"] != first
