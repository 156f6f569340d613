"""Signing requests (RFC 9421), for operations that demand it.

    signer = Signer.ed25519("sgk_...", Path("signing.pem").read_bytes())
    with Client(api_key=..., signer=signer) as client: ...

Needs the extra `agentzero-client[signing]`.
"""

from __future__ import annotations

import base64
import secrets
from typing import TYPE_CHECKING, Self

import httpx

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from http_message_signatures import HTTPMessageSigner

NONCE_BYTES = 24
RAW_KEY_BYTES = 32


class Signer:
    """Signs each request with one registered key. Safe for concurrent use.

    `keyid` is the `signing_key_id`. Each signature covers method, authority, path, query and body,
    and carries the time and a new nonce; the server accepts it once, within 300 s.
    """

    def __init__(self, keyid: str, signer: HTTPMessageSigner) -> None:
        self.keyid = keyid
        self._signer = signer

    @classmethod
    def ed25519(cls, keyid: str, private_key: bytes | Ed25519PrivateKey) -> Self:
        """Sign with a private Ed25519 key: an object of `cryptography`, its PEM, or 32 bytes.

        Raises ValueError for anything else; ImportError without the extra `signing`.
        """
        try:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415 - an extra
                Ed25519PrivateKey,
            )
            from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - an extra
                load_pem_private_key,
            )
            from http_message_signatures import (  # noqa: PLC0415 - an extra
                HTTPMessageSigner,
                MappingKeyResolver,
            )
            from http_message_signatures.algorithms import ED25519  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise _missing(error) from error
        key: object = private_key
        if isinstance(private_key, bytes):
            is_raw = len(private_key) == RAW_KEY_BYTES
            key = (
                Ed25519PrivateKey.from_private_bytes(private_key)
                if is_raw
                else load_pem_private_key(private_key, password=None)
            )
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("this is no private Ed25519 key")  # noqa: TRY004 - see the docstring
        keys = MappingKeyResolver(public_keys={}, private_keys={keyid: key})
        return cls(keyid, HTTPMessageSigner(signature_algorithm=ED25519, key_resolver=keys))

    @classmethod
    def hmac_sha256(cls, keyid: str, secret: str | bytes) -> Self:
        """Sign with the secret that registering answered: its Base64, or the bytes.

        Raises ValueError for a text that is no Base64; ImportError without the extra `signing`.
        """
        try:
            from http_message_signatures import (  # noqa: PLC0415 - an extra
                HTTPMessageSigner,
                MappingKeyResolver,
            )
            from http_message_signatures.algorithms import HMAC_SHA256  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise _missing(error) from error
        raw = base64.b64decode(secret, validate=True) if isinstance(secret, str) else secret
        keys = MappingKeyResolver(public_keys={}, private_keys={keyid: raw})
        return cls(keyid, HTTPMessageSigner(signature_algorithm=HMAC_SHA256, key_resolver=keys))

    def sign(self, request: httpx.Request) -> None:
        """Put `Signature-Input`, `Signature` and, with a body, `Content-Digest` on the request.

        Sign a request right before it is sent, and again for each time that it is sent.
        """
        components = ["@method", "@authority", "@path"]
        if request.url.query:
            components.append("@query")
        request.headers.pop("Content-Digest", None)
        self._signer.sign(
            request,
            key_id=self.keyid,
            nonce=secrets.token_urlsafe(NONCE_BYTES),
            label="sig",
            covered_component_ids=components,
            body=request.content or None,
        )


def _missing(error: ImportError) -> ImportError:
    return ImportError(
        "signing needs more packages: pip install 'agentzero-client[signing]'", name=error.name
    )
