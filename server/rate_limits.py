"""Charges every call: whoever asks and where it comes from, in one decision (hive/rate_limits.py).

Over REST, what is no operation, or comes from somebody who can't prove who they are, is charged to
its address. Commands over a WebSocket are charged as the operation that they run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from hive.errors import HiveError, TooManyRequests, Unauthenticated, Unavailable
from hive.inner_calls import MoreThanLimit
from hive.permissions import Principal
from hive.rate_limits import (
    Charge,
    LocalRateLimiter,
    Policies,
    RateLimited,
    RateLimiter,
    Standing,
    Verdict,
    share_of,
)
from server.closing import CloseCode, Disconnect
from server.pipeline import Call

POLICY_HEADER = "RateLimit-Policy"
HEADER = "RateLimit"

log = structlog.get_logger(__name__)


class Authenticate(Protocol):
    """Who is behind a credential of a WebSocket."""

    async def __call__(self, credential: str, address: str | None = None, /) -> Principal:
        """Raise Unauthenticated, Unavailable."""


class SharedRateLimiter:
    """Decides with the other nodes while it can, and always by what this node has let through.

    A node alone never lets more through than the limit in any window, whatever becomes of the
    shared store. While that is away it lets `1/nodes` of each limit through.
    """

    def __init__(self, local: LocalRateLimiter, shared: RateLimiter, *, nodes: int = 1) -> None:
        self._local = local
        self._shared = shared
        self._nodes = nodes
        self._is_alone = False

    async def decide(self, charges: Sequence[Charge]) -> Verdict:
        """Take all charges, or none. Never raises Unavailable."""
        known = self._local.look(charges)
        if not known.allowed:
            return known
        try:
            verdict = await self._shared.decide(charges)
        except Unavailable as error:
            self._note(is_alone=True, cause=str(error))
            return self._local.decide_now(share_of(charges, self._nodes))
        self._note(is_alone=False)
        if verdict.allowed:
            self._local.take(charges, known.decided_at_us)
        return verdict

    def _note(self, *, is_alone: bool, cause: str = "") -> None:
        if is_alone is not self._is_alone:
            self._is_alone = is_alone
            if is_alone:
                log.warning("rate_limits.alone", nodes=self._nodes, cause=cause)
            else:
                log.info("rate_limits.shared")


class RateLimits:
    """The part of the pipeline that charges. `policies.replace` changes the limits at run time."""

    def __init__(self, policies: Policies, limiter: RateLimiter) -> None:
        self.policies = policies
        self._limiter = limiter

    async def charge(self, call: Call) -> None:
        """Charge the call's operation; its standing goes into the headers. Raises RateLimited."""
        call.charged = True
        if call.operation is None:
            return
        charges = self.policies.charges_of(call.operation.rate_class, call.principal, call.address)
        if charges:
            await self._decide(call, charges)

    async def charge_address(self, call: Call) -> None:
        """Charge the address alone. Raises RateLimited."""
        call.charged = True
        await self._decide(call, (self.policies.charge_of_address(call.address),))

    async def charge_more(self, call: Call, count: int) -> None:
        """Charge whoever calls so many times more. Raises RateLimited, MoreThanLimit.

        The address pays for the request alone.
        """
        if call.operation is None or call.principal is None:
            return
        charges = self.policies.charges_of(call.operation.rate_class, call.principal, call.address)
        if not charges:
            return
        who, *others = charges
        if count >= who.policy.limit:
            raise MoreThanLimit(
                f"This request counts {count + 1:,} times, and the policy {who.policy.name} allows"
                f" you {who.policy.limit:,} in {who.policy.window_seconds:g} s. Send it in parts."
            )
        verdict = await self._limiter.decide((replace(who, cost=count),))
        for header, show in ((POLICY_HEADER, _show_policy), (HEADER, _show_standing)):
            told = call.headers.get(header, "").split(", ")[1 : 1 + len(others)]
            call.headers[header] = ", ".join([*map(show, verdict.standings), *told])
        verdict.require()

    async def charge_failure(self, call: Call, error: Exception) -> Exception:
        """Charge the address for a call that was refused before it could be charged.

        Gives the error, or RateLimited in its place. What the server could not do costs nothing.
        """
        if call.charged or not isinstance(error, HiveError):
            return error
        if isinstance(error, Unavailable | TooManyRequests):
            return error
        try:
            await self.charge_address(call)
        except RateLimited as limited:
            return limited
        return error

    def guard(self, authenticate: Authenticate) -> Authenticate:
        """The same, but each failure is charged to its address. Raises Disconnect beyond that."""

        async def guarded(credential: str, address: str | None = None, /) -> Principal:
            try:
                return await authenticate(credential, address)
            except Unauthenticated:
                charge = self.policies.charge_of_address(address or "")
                if not (await self._limiter.decide((charge,))).allowed:
                    raise Disconnect(
                        CloseCode.RATE_LIMITED, "too many requests from this address"
                    ) from None
                raise

        return guarded

    async def _decide(self, call: Call, charges: Sequence[Charge]) -> None:
        verdict = await self._limiter.decide(charges)
        call.headers[POLICY_HEADER] = ", ".join(map(_show_policy, verdict.standings))
        call.headers[HEADER] = ", ".join(map(_show_standing, verdict.standings))
        verdict.require()


class Unlimited:
    """Where no limits count."""

    async def charge(self, call: Call) -> None:
        """Nothing."""

    async def charge_address(self, call: Call) -> None:
        """Nothing."""

    async def charge_more(self, call: Call, count: int) -> None:
        """Nothing."""

    async def charge_failure(self, call: Call, error: Exception) -> Exception:
        """The error."""
        del call
        return error

    def guard(self, authenticate: Authenticate) -> Authenticate:
        """The same."""
        return authenticate


def _show_policy(one: Standing) -> str:
    return f'"{one.policy.name}";q={one.policy.limit};w={math.ceil(one.policy.window_seconds)}'


def _show_standing(one: Standing) -> str:
    return f'"{one.policy.name}";r={one.remaining};t={math.ceil(one.reset_seconds)}'
