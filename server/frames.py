"""The bytes of a server's text frame. A frame is made once and written to any number of sockets."""

from __future__ import annotations

import struct
from typing import Any

from server.answers import encode_json

_FINAL_TEXT = 0x81
_SHORT = 126
_MEDIUM = 1 << 16


def text_frame(payload: bytes) -> bytes:
    """One unmasked, final text frame (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < _SHORT:
        return bytes((_FINAL_TEXT, size)) + payload
    if size < _MEDIUM:
        return struct.pack("!BBH", _FINAL_TEXT, 126, size) + payload
    return struct.pack("!BBQ", _FINAL_TEXT, 127, size) + payload


def control_frame(frame_type: str, /, **fields: Any) -> bytes:
    """A frame of the type; fields that are None are left out."""
    present = {name: value for name, value in fields.items() if value is not None}
    return text_frame(encode_json({"type": frame_type, **present}))
