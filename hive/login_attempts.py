"""May this login be verified? Bounds on guessing that can't be turned against the owner.

A *place* is an account and a network: an IPv4 address, or a /64 of IPv6. An account knows a place
from which its password was once proved. Guesses from all other places share one small budget;
a known place has its own, so others can't use up the owner's. Names that nobody has are accounts
like any other here: nothing is told about which exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Protocol

from hive.errors import TooManyRequests

WINDOW = timedelta(minutes=15)
GUESSES_PER_ACCOUNT = 10
GUESSES_PER_KNOWN_PLACE = 10
FAILURES_PER_NETWORK = 30
MAX_STREAK = 100
STREAK_KEPT = timedelta(days=30)
_PREFIX_BITS = 64


class TooManyAttempts(TooManyRequests):
    """Too many logins failed; this one was not tried (429)."""

    code = "too-many-attempts"
    title = "Too many attempts"
    default_detail = "Too many logins failed. Try again later, or from where you logged in before."


@dataclass(frozen=True, slots=True)
class Tally:
    """How many failures count, and since when the oldest of them does."""

    count: int = 0
    oldest: datetime | None = None


@dataclass(frozen=True, slots=True)
class History:
    """What is on record when an attempt comes, of the last `WINDOW`.

    `account` counts failures from places that the account did not know, `place` those from this
    place since it is known, `network` all from this network. `streak` is the number of failures
    since the last success, whenever they were.
    """

    known: bool = False
    streak: int = 0
    account: Tally = Tally()
    place: Tally = Tally()
    network: Tally = Tally()


@dataclass(frozen=True, slots=True)
class Attempt:
    """A login that may be verified. It stands on record as a failure until it is a success."""

    attempt_id: int
    account: str
    network: str


class LoginAttempts(Protocol):
    """The record of failed logins, shared by all nodes. Each method is one transaction.

    `account` is a keyed hash of the name tried: what people type there may be a password. All
    raise Unavailable.
    """

    async def reserve(self, account: str, network: str) -> Attempt:
        """Decide, and record the attempt as a failure: parallel guesses can't exceed a bound.

        Raises TooManyAttempts; such an attempt is not recorded.
        """
        ...

    async def succeed(self, attempt: Attempt, known_for: timedelta) -> None:
        """Take the failure back, end the streak, and know the place for so long from now on."""
        ...

    async def withdraw(self, attempt: Attempt) -> None:
        """Take the failure back: the password was never verified."""
        ...

    async def forgive(self, account: str) -> None:
        """Forget the failures and the streak of the account."""
        ...


def time_to_wait(history: History, now: datetime) -> timedelta | None:
    """How long until an attempt may be verified again; None: it may be now."""
    if history.known:
        reached = [_reached(history.place, GUESSES_PER_KNOWN_PLACE, now)]
    else:
        reached = [
            _reached(history.account, GUESSES_PER_ACCOUNT, now),
            _reached(history.network, FAILURES_PER_NETWORK, now),
            # Time does not end this one; a client needs some number to come back after.
            WINDOW if history.streak >= MAX_STREAK else None,
        ]
    return max((wait for wait in reached if wait is not None), default=None)


def network_of(address: str | None) -> str:
    """What counts as one place on the network; `unknown` for what is no address."""
    try:
        found = ip_address(address or "")
    except ValueError:
        return "unknown"
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(IPv6Network((int(found), _PREFIX_BITS), strict=False))
    return str(found)


def _reached(tally: Tally, limit: int, now: datetime) -> timedelta | None:
    if tally.count < limit or tally.oldest is None:
        return None
    return max(tally.oldest + WINDOW - now, timedelta(seconds=1))
