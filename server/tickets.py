"""Tickets for WebSockets: the port `hive.tickets.Tickets`, and who is behind one that is used."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime

from hive.errors import InvalidToken, TokenExpired
from hive.permissions import Principal
from hive.secrets import WS_TICKET, fingerprint
from hive.tickets import TICKET_SECONDS, Redeemed, Ticket, Tickets, TicketStore
from server.authentication import principal_of_key, principal_of_session
from server.revocations import Revocations


class WsTickets(Tickets):
    """Issues and redeems; a ticket is worth what its credential is worth when it is used."""

    def __init__(self, store: TicketStore, revocations: Revocations) -> None:
        self._store = store
        self._revocations = revocations

    async def issue(self, principal: Principal) -> Ticket:
        """A ticket in the place of the credential that the principal came with."""
        secret = WS_TICKET.encode(secrets.token_bytes(WS_TICKET.entropy_bytes))
        await self._store.add(fingerprint(secret), principal)
        return Ticket(secret, TICKET_SECONDS)

    async def redeem(self, ticket: str, address: str | None = None) -> Principal:
        """The principal of a ticket that is used now, from the address.

        Raises InvalidToken when the ticket is none, was used or expired, or when its credential is
        revoked; TokenExpired; Forbidden for an API key that is not allowed from the address;
        Unavailable.
        """
        if not WS_TICKET.is_well_formed(ticket):
            raise InvalidToken(reason="not a ticket: the form or the checksum is wrong")
        asked_at = time.monotonic()
        redeemed = await self._store.redeem(fingerprint(ticket))
        if redeemed is None:
            raise InvalidToken(reason="the ticket is unknown, used or expired")
        principal = _principal_of(redeemed, address)
        # What changed while SQL was asked would otherwise act only after the socket is open.
        named = (principal.principal_id, principal.session_id, principal.key_id)
        subjects = [subject for subject in named if subject is not None]
        if self._revocations.changed_since(asked_at, *subjects):
            raise InvalidToken(reason="the credential changed meanwhile")
        return principal


def _principal_of(redeemed: Redeemed, address: str | None) -> Principal:
    now = datetime.now(UTC)
    if redeemed.key is not None:
        return principal_of_key(redeemed.key, redeemed.user, address, now)
    if redeemed.session is None or redeemed.expires_at is None:
        raise InvalidToken(reason="the credential of the ticket is gone")
    if redeemed.expires_at <= now:
        raise TokenExpired
    return principal_of_session(
        redeemed.session, redeemed.user, now, expires_at=redeemed.expires_at.timestamp()
    )
