"""Signed requests (RFC 9421) made by hand, so that each part of one can be bent."""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.api.running import Api

KEYS = "/api/v1/signing-keys"


@dataclass(frozen=True)
class Key:
    """A registered signing key, and how to sign with it."""

    keyid: str
    algorithm: str
    private: Ed25519PrivateKey | bytes = field(repr=False)

    def sign(self, base: bytes) -> bytes:
        """The raw signature."""
        if isinstance(self.private, bytes):
            return hmac.digest(self.private, base, "sha256")
        return self.private.sign(base)


@dataclass(frozen=True)
class Draft:
    """A request as it goes over the wire; `target` is path and query."""

    method: str
    target: str
    authority: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def having(self, **headers: str) -> Draft:
        """The same with other headers; `signature_input` stands for `Signature-Input`."""
        named = {name.replace("_", "-").title(): value for name, value in headers.items()}
        return replace(self, headers={**self.headers, **named})

    async def send(self, client: httpx.AsyncClient, credential: str) -> httpx.Response:
        """Send it as it is, with the credential."""
        return await client.request(
            self.method,
            self.target,
            content=self.body or None,
            headers={
                "Authorization": f"Bearer {credential}",
                "Host": self.authority,
                **({"Content-Type": "application/json"} if self.body else {}),
                **self.headers,
            },
        )


@dataclass(frozen=True)
class Plan:
    """How a draft is to be signed. None of `components` stands for those that are due."""

    components: Sequence[str] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    without: frozenset[str] = frozenset()
    digest: str = "sha-256"

    def saying(self, **parameters: Any) -> Self:
        """The same with other parameters."""
        return replace(self, parameters={**self.parameters, **parameters})

    def omitting(self, *names: str) -> Self:
        """The same without parameters."""
        return replace(self, without=self.without | set(names))


PLAN = Plan()


def digest_of(body: bytes, algorithm: str = "sha-256") -> str:
    """Content-Digest (RFC 9530)."""
    digest = hashlib.new(algorithm.replace("-", ""), body).digest()
    return f"{algorithm}=:{base64.b64encode(digest).decode()}:"


def due(draft: Draft) -> list[str]:
    """What a signature of the draft has to cover."""
    query = ["@query"] if "?" in draft.target else []
    return ["@method", "@authority", "@path", *query, *(["content-digest"] if draft.body else [])]


def now() -> int:
    """Seconds since 1970, whole, rounded up: as late as any clock of this machine can say."""
    return math.ceil(time.time())


def sign(draft: Draft, key: Key, plan: Plan = PLAN) -> Draft:
    """The draft with its digest, its signature and what the signature says of itself."""
    if draft.body:
        draft = draft.having(content_digest=digest_of(draft.body, plan.digest))
    parts = urlsplit(draft.target)
    values = {
        "@method": draft.method,
        "@authority": draft.authority.lower(),
        "@path": parts.path,
        "@query": f"?{parts.query}",
        "@target-uri": f"http://{draft.authority}{draft.target}",
        "@scheme": "http",
        "@request-target": draft.target,
        "content-digest": draft.headers.get("Content-Digest", ""),
        "host": draft.authority,
    }
    listed = due(draft) if plan.components is None else plan.components
    # A component may come with parameters: `"@method";req`.
    quoted = [name if name.startswith('"') else f'"{name}"' for name in listed]
    said = {
        "created": int(time.time()),
        "keyid": key.keyid,
        "nonce": secrets.token_urlsafe(18),
        **plan.parameters,
    }
    shown = "".join(
        f";{name}={_bare(value)}" for name, value in said.items() if name not in plan.without
    )
    parameters = f"({' '.join(quoted)}){shown}"
    lines = [f"{name}: {values.get(name.split(';')[0].strip(chr(34)), '')}" for name in quoted]
    base = "\n".join([*lines, f'"@signature-params": {parameters}'])
    signature = base64.b64encode(key.sign(base.encode())).decode()
    return draft.having(signature_input=f"sig={parameters}", signature=f"sig=:{signature}:")


def _bare(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


async def register(
    api: Api, algorithm: str, *, signed_by: Key | None = None, **members: Any
) -> Key:
    """Register a key for the client's principal, signed when it has one already."""
    private: Ed25519PrivateKey | bytes = Ed25519PrivateKey.generate()
    body: dict[str, Any] = {"name": "test", "algorithm": algorithm, **members}
    if isinstance(private, Ed25519PrivateKey) and algorithm == "ed25519":
        public = private.public_key().public_bytes_raw()
        body.setdefault("public_key", base64.b64encode(public).decode())
    answer = await request(api, "POST", KEYS, body, key=signed_by)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    if algorithm == "hmac-sha256":
        private = base64.b64decode(made["secret"])
    return Key(made["signing_key_id"], algorithm, private)


async def request(
    api: Api, method: str, target: str, body: Any = None, *, key: Key | None = None
) -> httpx.Response:
    """Send with the client's credential, signed when there is a key."""
    content = b"" if body is None else httpx.Request("POST", "http://x", json=body).content
    draft = Draft(method, target, urlsplit(str(api.base_url)).netloc, body=content)
    draft = draft.having(if_match="*")
    if key is not None:
        draft = sign(draft, key)
    assert api.credential is not None
    return await draft.send(api, api.credential)
