"""Signed requests (RFC 9421): keys, what a signature has to cover, and for how long it is good.

A signature covers `@method`, `@authority` and `@path`, `@query` when the target has a query, and
`content-digest` (RFC 9530) when there is a body; nothing else. Its parameters are `created`,
`keyid` and `nonce`, and, where the signer wants them, `expires`, `alg` and `tag`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from hive.ed25519 import KEY_BYTES, is_public_key
from hive.errors import Conflict, Invalid, NotFound, Unauthenticated

WINDOW = timedelta(seconds=300)
"""How far `created` may be from the server's clock, and how long a signature may be good."""
NONCE_KEPT = 2 * WINDOW
"""How long after `created` a nonce is remembered: the window, and as much for clocks set back."""
MOST_KEYS = 10
TAG = "agentzero"
HMAC_BYTES = 32
_MOST_KEYID = 64
_NONCE = re.compile(r"[\x20-\x7e]{16,128}")
_ALWAYS = ("@method", "@authority", "@path")
_COMPONENTS = frozenset({*_ALWAYS, "@query", "content-digest"})
_PARAMETERS = frozenset({"created", "expires", "nonce", "keyid", "alg", "tag"})
_SPKI = bytes.fromhex("302a300506032b6570032100")


class SigningAlgorithm(StrEnum):
    """What requests can be signed with, by its name in the registry of RFC 9421."""

    ED25519 = "ed25519"
    HMAC_SHA256 = "hmac-sha256"


class SignatureRequired(Unauthenticated):
    """The operation demands a signature of this principal, and the request has none."""

    code = "signature-required"
    title = "Signature required"

    def __init__(self, components: Sequence[str]) -> None:
        self.components = tuple(components)
        super().__init__(
            f"Sign this request (RFC 9421): cover {', '.join(components)}, with created, keyid and"
            " a nonce of 16 to 128 characters."
        )


class SignatureInvalid(Unauthenticated):
    """The request has a signature, and it does not hold."""

    code = "signature-invalid"
    title = "Invalid signature"
    default_detail = "The signature does not fit this request and this key."


class SignatureReplayed(Unauthenticated):
    """The nonce was used before with this key."""

    code = "signature-replayed"
    title = "Signature replayed"
    default_detail = "This nonce was used before. Sign each request with a new one."


class SigningKeyNotFound(NotFound):
    """No signing key of this identifier exists, or not for this principal."""

    code = "signing-key-not-found"
    title = "Signing key not found"
    default_detail = "Signing key not found"


class TooManySigningKeys(Conflict):
    """The owner has as many live signing keys as are allowed."""

    code = "too-many-signing-keys"
    title = "Too many signing keys"
    default_detail = f"You have {MOST_KEYS} live signing keys. Revoke one first."


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A registered key. With `key_id` it signs the requests of that API key of the owner only.

    `public_key` is raw Ed25519; an HMAC key is `sealed`, for it has to be known to verify.
    """

    signing_key_id: str
    owner_id: str
    name: str
    algorithm: SigningAlgorithm
    created_at: datetime
    key_id: str | None = None
    public_key: bytes | None = None
    sealed: bytes | None = field(default=None, repr=False)
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RequestSignature:
    """What a signature says of itself. `created` and `expires` are seconds of the Unix epoch."""

    keyid: str
    nonce: str
    created: int
    expires: int | None = None

    @property
    def nonce_hash(self) -> str:
        """The nonce under its key, as it is remembered: SHA-256, in hex."""
        return hashlib.sha256(f"{self.keyid}\n{self.nonce}".encode()).hexdigest()


def components_due(*, has_query: bool, has_body: bool) -> tuple[str, ...]:
    """What a signature of such a request has to cover."""
    query = ("@query",) if has_query else ()
    return _ALWAYS + query + (("content-digest",) if has_body else ())


def read_signature(
    components: Sequence[str], parameters: Mapping[str, object], *, due: Sequence[str]
) -> RequestSignature:
    """Judge what is covered and said, before any cryptography. Raises SignatureInvalid."""
    if unknown := sorted(set(components) - _COMPONENTS):
        raise SignatureInvalid(f"Cover only {', '.join(sorted(_COMPONENTS))}.", unknown=unknown)
    if len(set(components)) != len(components):
        raise SignatureInvalid("A component is covered twice.")
    if missing := [name for name in due if name not in components]:
        raise SignatureInvalid(f"The signature does not cover {', '.join(missing)}.")
    if unknown := sorted(set(parameters) - _PARAMETERS):
        raise SignatureInvalid(f"Use only {', '.join(sorted(_PARAMETERS))}.", unknown=unknown)
    if parameters.get("tag", TAG) != TAG:
        raise SignatureInvalid(f'The tag, when there is one, is "{TAG}".')
    return RequestSignature(
        keyid=_text(parameters, "keyid", _MOST_KEYID),
        nonce=_nonce(parameters),
        created=_seconds(parameters, "created"),
        expires=_seconds(parameters, "expires") if "expires" in parameters else None,
    )


def require_current(signature: RequestSignature, now: datetime) -> None:
    """Raise SignatureInvalid unless the signature is good at this time."""
    created, expires, at = signature.created, signature.expires, now.timestamp()
    most = WINDOW.total_seconds()
    if abs(at - created) > most:
        raise SignatureInvalid(f"created is more than {most:.0f} s from the server's clock.")
    if expires is None:
        return
    if not created < expires <= created + most:
        raise SignatureInvalid(f"expires is within {most:.0f} s after created.")
    if at > expires:
        raise SignatureInvalid("The signature has expired.")


def nonce_expiry(signature: RequestSignature) -> datetime:
    """Until when the nonce has to be remembered; the signature must be current."""
    return datetime.fromtimestamp(signature.created, UTC) + NONCE_KEPT


def read_public_key(text: str) -> bytes:
    """The raw key in Base64 of 32 bytes or of a DER SubjectPublicKeyInfo (RFC 8410).

    Raises Invalid, also for points of small order and for encodings that are not canonical.
    """
    try:
        given = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise Invalid("This is not Base64.", pointer="/public_key") from None
    raw = given.removeprefix(_SPKI) if len(given) == len(_SPKI) + KEY_BYTES else given
    if not is_public_key(raw):
        raise Invalid("This is no public Ed25519 key.", pointer="/public_key")
    return raw


def _text(parameters: Mapping[str, object], name: str, most: int) -> str:
    value = parameters.get(name)
    if type(value) is not str or not 0 < len(value) <= most:
        raise SignatureInvalid(f"The parameter {name} is a string of 1 to {most} characters.")
    return value


def _nonce(parameters: Mapping[str, object]) -> str:
    value = parameters.get("nonce")
    if type(value) is not str or not _NONCE.fullmatch(value):
        raise SignatureInvalid("The parameter nonce is a string of 16 to 128 ASCII characters.")
    return value


def _seconds(parameters: Mapping[str, object], name: str) -> int:
    value = parameters.get(name)
    # A Boolean is an int to Python.
    if type(value) is not int:
        raise SignatureInvalid(f"The parameter {name} is a whole number of seconds since 1970.")
    return value
