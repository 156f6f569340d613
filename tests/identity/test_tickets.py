"""Tickets for WebSockets, on both databases."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from hive.errors import InvalidToken, TokenExpired
from hive.permissions import Principal
from hive.secrets import WS_TICKET, fingerprint
from hive.tickets import TICKET_SECONDS
from server.tickets import WsTickets
from storage.sql.database import Database
from storage.sql.models import TicketRow
from storage.sql.tickets import EXPIRED_BATCH, SqlTickets
from tests.identity.node import PASSWORD, Clock, Node

AT_ONCE = 50


def tickets_of(node: Node, database: Database | None = None) -> WsTickets:
    """The tickets of a node, on its own database or through a pool of another node."""
    return WsTickets(SqlTickets(database or node.database), node.revocations)


async def log_in(node: Node) -> Principal:
    """A user with a new session."""
    await node.add_user()
    pair = await node.accounts.login("ann", PASSWORD)
    return await node.authenticator.authenticate(pair.access_token)


async def test_ticket_stands_for_its_session(node: Node) -> None:
    """The same principal comes out, with the end of the access token that asked."""
    principal = await log_in(node)
    tickets = tickets_of(node)
    ticket = await tickets.issue(principal)
    assert WS_TICKET.is_well_formed(ticket.secret)
    assert await tickets.redeem(ticket.secret, "192.0.2.1") == principal
    with pytest.raises(InvalidToken):
        await tickets.redeem(ticket.secret, "192.0.2.1")


async def test_one_of_many_uses_wins_over_two_pools(node: Node, url: str) -> None:
    """Whichever node the uses come to, the DELETE of one finds the row."""
    principal = await log_in(node)
    other = Database(url)
    try:
        both = (tickets_of(node), tickets_of(node, other))
        for _ in range(5):
            secret = (await both[0].issue(principal)).secret
            outcomes = await asyncio.gather(
                *(both[n % 2].redeem(secret, None) for n in range(AT_ONCE)),
                return_exceptions=True,
            )
            assert outcomes.count(principal) == 1
            assert sum(isinstance(one, InvalidToken) for one in outcomes) == AT_ONCE - 1
    finally:
        other.close()


async def test_ticket_ends(node: Node, clock: Clock) -> None:
    """After 30 s by the time of the database."""
    principal = await log_in(node)
    tickets = tickets_of(node)
    kept, late = [await tickets.issue(principal) for _ in range(2)]
    clock.advance(seconds=TICKET_SECONDS - 1)
    await tickets.redeem(kept.secret)
    clock.advance(seconds=2)
    with pytest.raises(InvalidToken):
        await tickets.redeem(late.secret)


async def test_ticket_is_worth_what_its_session_is_now(node: Node) -> None:
    """A session that was revoked through another node opens nothing, although nobody was told."""
    principal = await log_in(node)
    tickets = tickets_of(node)
    ticket = await tickets.issue(principal)
    assert principal.session_id is not None
    await node.store.revoke_session(principal.session_id)
    with pytest.raises(InvalidToken):
        await tickets.redeem(ticket.secret)


async def test_change_that_is_announced_meanwhile_refuses(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What SQL said before the change is not believed after it."""
    principal = await log_in(node)
    store = SqlTickets(node.database)
    tickets = WsTickets(store, node.revocations)
    ticket = await tickets.issue(principal)
    redeem = store.redeem

    async def overtaken(ticket_hash: str) -> object:
        redeemed = await redeem(ticket_hash)
        node.revocations.announce(principal.principal_id)
        return redeemed

    monkeypatch.setattr(store, "redeem", overtaken)
    with pytest.raises(InvalidToken):
        await tickets.redeem(ticket.secret)


async def test_ticket_is_no_way_past_the_end_of_its_token(node: Node) -> None:
    """An access token that ended since is over for its tickets, too."""
    principal = await log_in(node)
    ended = Principal(
        principal.principal_id,
        principal.name,
        principal.role,
        principal.permissions,
        session_id=principal.session_id,
        expires_at=1.0,
    )
    tickets = tickets_of(node)
    ticket = await tickets.issue(ended)
    with pytest.raises(TokenExpired):
        await tickets.redeem(ticket.secret)


async def test_expired_tickets_go_in_batches(node: Node, clock: Clock) -> None:
    """A new one takes some of them away, never all at once."""
    principal = await log_in(node)
    store = SqlTickets(node.database)

    async def count() -> int:
        return await node.database.read(
            lambda sql: sql.scalar(select(func.count()).select_from(TicketRow)) or 0
        )

    ended = clock() - timedelta(seconds=1)
    rows = [
        TicketRow(ticket_hash=f"h{n}", session_id="ses_1", expires_at=ended)
        for n in range(2 * EXPIRED_BATCH + 10)
    ]
    await node.database.write(lambda sql: sql.add_all(rows))
    left = []
    for n in range(4):
        await store.add(f"new-{n}", principal)
        left.append(await count() - n - 1)
    assert left == [EXPIRED_BATCH + 10, 10, 0, 0]


async def test_only_the_hash_is_kept(node: Node) -> None:
    """Nothing in the database opens a socket."""
    ticket = await tickets_of(node).issue(await log_in(node))
    kept = await node.database.read(
        lambda sql: [
            [str(value) for value in row] for row in sql.execute(select(TicketRow.__table__))
        ]
    )
    assert kept[0][0] == fingerprint(ticket.secret)
    assert ticket.secret not in str(kept)
