"""The text form of opaque secrets: `azk_` API keys, `azr_` refresh tokens, `azt_` tickets.

A secret is a prefix, a fixed number of base62 digits and six base62 digits of CRC-32 over all that
stands before. The checksum proves nothing; it lets typing errors and scanners' guesses be refused
without asking a database. Only `fingerprint(secret)` is ever stored.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from dataclasses import dataclass

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_DIGITS = frozenset(BASE62)
_CHECKSUM_DIGITS = 6


@dataclass(frozen=True, slots=True)
class SecretFormat:
    """One kind of secret: its prefix and how many bytes of entropy it carries."""

    prefix: str
    entropy_bytes: int

    @property
    def digits(self) -> int:
        """How many base62 digits hold the entropy."""
        return math.ceil(8 * self.entropy_bytes / math.log2(62))

    def encode(self, entropy: bytes) -> str:
        """Write entropy as a secret. Raises ValueError unless it has exactly the right length."""
        if len(entropy) != self.entropy_bytes:
            raise ValueError(f"expected {self.entropy_bytes} bytes of entropy, got {len(entropy)}")
        body = self.prefix + _base62(int.from_bytes(entropy), self.digits)
        return body + _checksum(body)

    def is_well_formed(self, text: str) -> bool:
        """Tell whether the text has this form and its checksum is right."""
        if len(text) != len(self.prefix) + self.digits + _CHECKSUM_DIGITS:
            return False
        if not text.startswith(self.prefix) or not _DIGITS.issuperset(text[len(self.prefix) :]):
            return False
        body = text[:-_CHECKSUM_DIGITS]
        return _checksum(body) == text[-_CHECKSUM_DIGITS:]


API_KEY = SecretFormat(prefix="azk_", entropy_bytes=24)
REFRESH_TOKEN = SecretFormat(prefix="azr_", entropy_bytes=32)
WS_TICKET = SecretFormat(prefix="azt_", entropy_bytes=24)


def fingerprint(secret: str) -> str:
    """SHA-256 of a secret, in hex. Secrets carry >= 178 random bits, so no slow hash is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def visible_prefix(api_key: str) -> str:
    """The part of an API key that may be shown to tell keys apart."""
    return api_key[: len(API_KEY.prefix) + 6]


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECKSUM_DIGITS)


def _base62(number: int, width: int = 1) -> str:
    digits = []
    while number:
        number, digit = divmod(number, 62)
        digits.append(BASE62[digit])
    return "".join(reversed(digits)).rjust(width, "0")
