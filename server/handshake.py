"""What the upgrade request of a WebSocket says: subprotocols and credential.

The credential is the first that is present of `Authorization`, `?ticket=`, the subprotocol
`agentzero.bearer.` and `?token=`. Cookies are none.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

SUBPROTOCOL: Final = "agentzero.v1"
BEARER_SUBPROTOCOL: Final = "agentzero.bearer."
DEFAULT_ORIGINS: Final = ("http://localhost:3000",)
MAX_CREDENTIAL: Final = 8192
NO_CREDENTIAL: Final = ""
"""What an unreadable credential is taken for: one that nobody issued."""

_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +(\S+)")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Offer:
    """The offered subprotocols: which one is selected, and whether none of them is known."""

    selected: str | None
    is_unknown: bool
    credential: str | None


@dataclass(frozen=True, slots=True)
class Credential:
    """What came with the handshake. A ticket is no bearer token, and the other way round."""

    text: str = field(repr=False)
    is_ticket: bool = False


def read_offer(header: str) -> Offer:
    """Read `Sec-WebSocket-Protocol`."""
    offered = [name for part in header.split(",") if (name := part.strip())]
    bearers = [name for name in offered if name.startswith(BEARER_SUBPROTOCOL)]
    others = [name for name in offered if not name.startswith(BEARER_SUBPROTOCOL)]
    credential = None
    if bearers:
        encoded = bearers[0].removeprefix(BEARER_SUBPROTOCOL)
        credential = _decode(encoded) if len(bearers) == 1 else NO_CREDENTIAL
    selected = SUBPROTOCOL if SUBPROTOCOL in others else None
    return Offer(selected, bool(others) and selected is None, credential)


def read_credential(
    authorization: Sequence[str],
    tickets: Sequence[str],
    offered: str | None,
    tokens: Sequence[str],
) -> Credential | None:
    """The first that is present of header, ticket, subprotocol and token.

    None: a frame has to bring it.
    """
    bearers = [match[1] for text in authorization if (match := _BEARER.fullmatch(text.strip()))]
    if bearers:
        return _credential(bearers[0] if len(authorization) == 1 else NO_CREDENTIAL)
    if tickets:
        return _credential(_only(tickets), is_ticket=True)
    if offered is not None:
        return _credential(offered)
    return _credential(_only(tokens)) if tokens else None


def _only(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else NO_CREDENTIAL


def _credential(text: str, *, is_ticket: bool = False) -> Credential:
    return Credential(NO_CREDENTIAL if len(text) > MAX_CREDENTIAL else text, is_ticket)


def _decode(encoded: str) -> str:
    if not _BASE64URL.fullmatch(encoded) or len(encoded) > 2 * MAX_CREDENTIAL:
        return NO_CREDENTIAL
    try:
        return urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode("ascii")
    except ValueError:
        return NO_CREDENTIAL
