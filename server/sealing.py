"""Keeping secrets that have to be read again: AES-256-GCM under a key of the server's own."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12


class UnsealError(Exception):
    """Sealed under another secret, for another purpose, or damaged."""


class Seal:
    """Seals bytes for one place: `purpose` is authenticated, so nothing can be moved elsewhere."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, secret: bytes, purpose: str) -> bytes:
        """Encrypt and authenticate."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret, purpose.encode())

    def unseal(self, sealed: bytes, purpose: str) -> bytes:
        """Give the secret back. Raises UnsealError."""
        try:
            return self._cipher.decrypt(
                sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], purpose.encode()
            )
        except (InvalidTag, ValueError) as error:
            raise UnsealError(purpose) from error
