"""Opaque, signed positions in lists: a client can't make one, nor use it in another list."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from hive.errors import MalformedCursor

TAG_BYTES = 12


class SignedCursors:
    """The port `hive.ports.Cursors`."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encode(self, operation: str, position: str) -> str:
        """Base64url of the position and a truncated HMAC-SHA-256 over both."""
        raw = position.encode()
        return base64.urlsafe_b64encode(self._tag(operation, raw) + raw).decode().rstrip("=")

    def decode(self, operation: str, cursor: str) -> str:
        """The position. Raises MalformedCursor."""
        try:
            padded = cursor + "=" * (-len(cursor) % 4)
            sealed = base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True)
            tag, raw = sealed[:TAG_BYTES], sealed[TAG_BYTES:]
            if hmac.compare_digest(tag, self._tag(operation, raw)):
                return raw.decode()
        except (ValueError, binascii.Error):
            pass
        raise MalformedCursor

    def _tag(self, operation: str, raw: bytes) -> bytes:
        message = operation.encode() + b"\0" + raw
        return hmac.digest(self._key, message, hashlib.sha256)[:TAG_BYTES]
