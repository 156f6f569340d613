"""Tickets for WebSockets: single use, 30 s, each in the place of the credential that asked for it.

A browser can't send `Authorization` with a WebSocket's handshake, and what stands in an address
ends up in logs. A ticket in a log is worth nothing: it was used.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from hive.identity import ApiKey, Session, User
from hive.permissions import Principal

TICKET_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Ticket:
    """A new ticket; `secret` is shown once and kept by nobody but its holder."""

    secret: str
    expires_in: int


@dataclass(frozen=True, slots=True)
class Redeemed:
    """A ticket that was used, and the credential behind it as it is now; None where it is gone.

    `expires_at` is when the credential said that it ends.
    """

    expires_at: datetime | None
    session: Session | None = None
    key: ApiKey | None = None
    user: User | None = None


class Tickets(Protocol):
    """What handlers ask for."""

    async def issue(self, principal: Principal) -> Ticket:
        """A ticket in the place of the credential that the principal came with.

        Raises Unavailable.
        """
        ...


class TicketStore(Protocol):
    """Tickets by their SHA-256, in one database for all nodes."""

    async def add(self, ticket_hash: str, principal: Principal) -> None:
        """Keep a ticket for `TICKET_SECONDS`. Raises Unavailable."""
        ...

    async def redeem(self, ticket_hash: str) -> Redeemed | None:
        """Take a ticket away; None when it is unknown, used or expired.

        Of any number of callers at once, on all nodes, exactly one gets it; after Unavailable
        perhaps none.
        """
        ...
