"""Access tokens: JWTs (RFC 7519) of type `at+jwt` (RFC 9068), checked the strict way (RFC 8725).

We are the only issuer, so a token of ours has exactly three header fields, and everything else is
refused before any cryptography: unknown fields, `crit`, embedded keys, a foreign algorithm.
Whatever PyJWT raises on hostile input, the answer is InvalidToken.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from base64 import urlsafe_b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jwt

from hive.errors import InvalidToken, TokenExpired
from hive.permissions import Role
from server.keys import SigningKey
from server.token_ring import TokenRing

MAX_TOKEN_BYTES = 8 * 1024
MAX_HEADER_CHARACTERS = 512
LEEWAY_SECONDS = 10
TYPE = "at+jwt"
CLAIMS = ("iss", "aud", "sub", "role", "sid", "jti", "iat", "nbf", "exp")
_TIMES = ("iat", "nbf", "exp")
_LATEST = 2**53
_TEXTS = ("iss", "aud", "sub", "role", "sid", "jti")
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token and its end, in seconds of the Unix epoch."""

    encoded: str
    expires_at: int
    lifetime_seconds: int


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says. Whether it still holds is for SQL to say."""

    user_id: str
    session_id: str
    role: Role
    token_id: str
    expires_at: int


class AccessTokens:
    """Issues with the signer of the ring, verifies with any of its keys.

    A sequence of keys stands for a ring whose first key signs. `TokenRing` says what it refuses.
    """

    def __init__(
        self,
        ring: TokenRing | Sequence[SigningKey],
        *,
        issuer: str,
        audience: str = "agentzero-api",
        lifetime_seconds: int = 3600,
    ) -> None:
        self.ring = ring if isinstance(ring, TokenRing) else TokenRing.of(ring)
        self.lifetime_seconds = lifetime_seconds
        self._issuer = issuer
        self._audience = audience
        self._jwt = jwt.PyJWT(
            options={
                "require": list(CLAIMS),
                "strict_aud": True,
                "enforce_minimum_key_length": True,
            }
        )

    def use(self, ring: TokenRing) -> None:
        """Issue and verify with another ring from now on."""
        self.ring = ring

    def issue(self, user_id: str, session_id: str, role: Role) -> AccessToken:
        """Sign a token for a session."""
        now = int(time.time())
        expires_at = now + self.lifetime_seconds
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": user_id,
            "role": role.value,
            "sid": session_id,
            "jti": uuid.uuid4().hex,
            "iat": now,
            "nbf": now,
            "exp": expires_at,
        }
        signer = self.ring.signer()
        encoded = self._jwt.encode(
            claims,
            signer.private,
            algorithm=signer.algorithm,
            headers={"typ": TYPE, "kid": signer.kid},
        )
        return AccessToken(encoded, expires_at, self.lifetime_seconds)

    def verify(self, encoded: str) -> Claims:
        """Check form, header, signature and every claim. Raises TokenExpired or InvalidToken."""
        header, payload = _segments(encoded)
        key = self._key_of(_object(header))
        _object(payload)
        try:
            claims = self._jwt.decode(
                encoded,
                key.public,
                algorithms=[key.algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
            )
        except jwt.ExpiredSignatureError as error:
            raise TokenExpired from error
        except Exception as error:
            # PyJWT promises PyJWTError only; an unforeseen exception must not become an answer 500.
            raise InvalidToken(reason=repr(error)) from error
        return _claims(claims)

    def _key_of(self, header: dict[str, Any]) -> SigningKey:
        if header.keys() != {"alg", "kid", "typ"} or header["typ"] != TYPE:
            raise InvalidToken(reason="the header is not one of ours")
        key = self.ring.find(header["kid"])
        if key is None or header["alg"] != key.algorithm:
            raise InvalidToken(reason="the kid is unknown or bound to another algorithm")
        return key


def _segments(encoded: str) -> tuple[str, str]:
    if len(encoded) > MAX_TOKEN_BYTES:
        raise InvalidToken(reason="too large")
    match = _COMPACT.fullmatch(encoded)
    if match is None or len(match[1]) > MAX_HEADER_CHARACTERS:
        raise InvalidToken(reason="not a compact JWS")
    return match[1], match[2]


def _object(segment: str) -> dict[str, Any]:
    """Decode a segment. Two fields of one name would mean one thing to us and another to PyJWT."""
    try:
        # As text: of bytes, json would guess UTF-16 and UTF-32 too.
        value = json.loads(
            urlsafe_b64decode(segment + "=" * (-len(segment) % 4)).decode(),
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        raise InvalidToken(reason=repr(error)) from error
    if not isinstance(value, dict):
        raise InvalidToken(reason="not a JSON object")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("duplicate field")
    return fields


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _claims(claims: dict[str, Any]) -> Claims:
    if any(type(claims[name]) is not int or claims[name] > _LATEST for name in _TIMES):
        raise InvalidToken(reason="a time is not an integer of seconds")
    if any(not isinstance(claims[name], str) or not claims[name] for name in _TEXTS):
        raise InvalidToken(reason="a claim is not a text")
    if not claims["sub"].startswith("usr_") or not claims["sid"].startswith("ses_"):
        raise InvalidToken(reason="sub or sid is of another kind")
    if claims["role"] not in set(Role):
        raise InvalidToken(reason="unknown role")
    return Claims(
        user_id=claims["sub"],
        session_id=claims["sid"],
        role=Role(claims["role"]),
        token_id=claims["jti"],
        expires_at=claims["exp"],
    )
