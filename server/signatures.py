"""Request signatures (RFC 9421): whether one is due, and whether the one that came holds.

A signature is read, judged by `hive/signing.py`, verified by http-message-signatures and taken
once by `Nonces`, in this order: the cheap before the dear, and nothing is kept of a bad one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import http_sf
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from http_message_signatures import (
    ContentDigest,
    HTTPMessageSignaturesException,
    HTTPMessageVerifier,
    HTTPSignatureAlgorithm,
    InvalidSignature,
    MappingKeyResolver,
    VerificationKey,
)
from http_message_signatures.algorithms import ED25519, HMAC_SHA256
from tornado.httputil import HTTPHeaders, HTTPServerRequest

from hive.permissions import Principal
from hive.signing import (
    RequestSignature,
    SignatureInvalid,
    SignatureRequired,
    SigningAlgorithm,
    SigningKey,
    components_due,
    read_signature,
)
from hive.signing_ports import Nonces
from server.contract import Operation

MAX_HEADER_CHARACTERS = 1024
REGISTRATION = "create_signing_key"
_HEADERS = ("Signature-Input", "Signature")
_ALGORITHMS: Mapping[SigningAlgorithm, type[HTTPSignatureAlgorithm]] = {
    SigningAlgorithm.ED25519: ED25519,
    SigningAlgorithm.HMAC_SHA256: HMAC_SHA256,
}


class KeysOfPrincipals(Protocol):
    """Which keys count, as `server.signing_keys` knows them."""

    async def usable_by(self, principal: Principal) -> Mapping[str, SigningKey]:
        """The live keys of the principal, by identifier. Raises Unavailable."""

    def secret_of(self, key: SigningKey) -> bytes | None:
        """The secret of an HMAC key, if it can still be read."""


@dataclass(frozen=True, slots=True)
class _Message:
    """What http-message-signatures sees of a request."""

    method: str
    url: str
    headers: Mapping[str, str]


class _Verifier(HTTPMessageVerifier):
    def validate_created_and_expires(
        self, sig_input: object, max_age: timedelta | None = None
    ) -> None:
        """The clock of the database decides, in the transaction that keeps the nonce."""


class Signatures:
    """Demands a signature on operations that are `x-signed`, and verifies every one that came.

    It is due for whoever has a live signing key, and for everybody when `signing_required` says
    so; a principal without any key may register its first one unsigned.
    """

    def __init__(
        self,
        keys: KeysOfPrincipals,
        nonces: Nonces,
        *,
        signing_required: Callable[[], bool] = lambda: False,
    ) -> None:
        self._keys = keys
        self._nonces = nonces
        self._signing_required = signing_required

    async def check(
        self,
        operation: Operation,
        principal: Principal | None,
        request: HTTPServerRequest,
        body: bytes,
    ) -> bool:
        """Return when no signature is due, or a valid one is there; whether one was verified.

        Raises SignatureRequired, SignatureInvalid, SignatureReplayed; Unavailable when SQL can't
        say which keys count, or can't rule a replay out.
        """
        if not operation.signed or principal is None:
            return False
        usable = await self._keys.usable_by(principal)
        due = components_due(has_query="?" in (request.uri or ""), has_body=bool(body))
        if any(name in request.headers for name in _HEADERS):
            signature = self._verified(usable, request, body, due)
            await self._nonces.use(signature)
            return True
        if usable or (self._signing_required() and operation.operation_id != REGISTRATION):
            raise SignatureRequired(due)
        return False

    def _verified(
        self,
        usable: Mapping[str, SigningKey],
        request: HTTPServerRequest,
        body: bytes,
        due: tuple[str, ...],
    ) -> RequestSignature:
        headers = {name: _one_line(request.headers, name) for name in _HEADERS}
        components, parameters = _parse(headers["Signature-Input"], headers["Signature"])
        signature = read_signature(components, parameters, due=due)
        if (request.uri or "").endswith("?"):
            raise SignatureInvalid("An empty query can't be told from none; leave the ? away.")
        key = usable.get(signature.keyid)
        if key is None:
            raise SignatureInvalid("The keyid names no live signing key of yours.")
        if parameters.get("alg", key.algorithm.value) != key.algorithm.value:
            raise SignatureInvalid(f"The algorithm of this key is {key.algorithm.value}.")
        if "content-digest" in components:
            headers["Content-Digest"] = _one_line(request.headers, "Content-Digest")
            _check_digest(headers["Content-Digest"], body)
        message = _Message(request.method or "", _url(request), headers)
        verifier = _Verifier(
            signature_algorithm=_ALGORITHMS[key.algorithm],
            key_resolver=MappingKeyResolver(
                public_keys={signature.keyid: self._verification_key(key)}, private_keys={}
            ),
        )
        try:
            verifier.verify(message, max_age=None)
        except HTTPMessageSignaturesException as error:
            raise SignatureInvalid(keyid=signature.keyid, reason=str(error)) from error
        return signature

    def _verification_key(self, key: SigningKey) -> VerificationKey:
        if key.algorithm is SigningAlgorithm.ED25519:
            return Ed25519PublicKey.from_public_bytes(key.public_key or b"")
        secret = self._keys.secret_of(key)
        if secret is None:
            raise SignatureInvalid("This key can't be read any more. Have an admin revoke it.")
        return secret


def _one_line(headers: HTTPHeaders, name: str) -> str:
    lines = headers.get_list(name)
    if len(lines) != 1:
        raise SignatureInvalid(f"A signed request has one {name} header.")
    if len(lines[0]) > MAX_HEADER_CHARACTERS:
        raise SignatureInvalid(f"{name} is longer than {MAX_HEADER_CHARACTERS} characters.")
    return lines[0]


def _parse(signature_input: str, signature: str) -> tuple[tuple[str, ...], Mapping[str, object]]:
    """The components and the parameters of the one signature. Raises SignatureInvalid."""
    inputs = _dictionary("Signature-Input", signature_input)
    values = _dictionary("Signature", signature)
    if len(inputs) != 1 or inputs.keys() != values.keys():
        raise SignatureInvalid("A request has one signature, under one label in both headers.")
    value, unsigned = next(iter(values.values()))
    if not isinstance(value, bytes) or unsigned:
        raise SignatureInvalid("Signature is a byte sequence without parameters.")
    members, parameters = next(iter(inputs.values()))
    if not isinstance(members, list):
        raise SignatureInvalid("Signature-Input is a list of components with parameters.")
    if any(type(name) is not str or qualified for name, qualified in members):
        raise SignatureInvalid("Components are strings without parameters.")
    return tuple(name for name, _ in members), parameters


def _dictionary(name: str, value: str) -> Mapping[str, Any]:
    """A dictionary (RFC 8941), as it is written by the RFC's own rules: no spelling has a twin."""
    try:
        parsed = http_sf.parse(value.encode("ascii"), tltype="dictionary")
        canonical = http_sf.ser(parsed)
    except (ValueError, TypeError) as error:
        raise SignatureInvalid(f"{name} is no dictionary (RFC 8941).") from error
    if canonical != value or not isinstance(parsed, dict):
        raise SignatureInvalid(f"{name} is not in the canonical form of RFC 8941.")
    return parsed


def _check_digest(value: str, body: bytes) -> None:
    try:
        ContentDigest.verify(value, body)
    except InvalidSignature as error:
        raise SignatureInvalid(
            "Content-Digest is not the sha-256 or sha-512 of this body (RFC 9530).",
            reason=str(error),
        ) from error


def _url(request: HTTPServerRequest) -> str:
    """What the client addressed. The scheme is not signed; it only says which port goes unsaid."""
    host = request.headers.get("Host", "")
    scheme = "https" if host.endswith(":443") else "http"
    return f"{scheme}://{host}{request.uri}"
