"""How often: the policies, who is charged under which of them, and the port that decides.

A class of operations (`x-rate-limit` in the contract) has the policy of its name. The class `agent`
charges the agent alone; `auth` the address; every other class whoever asks, and the address as a
whole. Whoever could not prove who they are is charged as their address, in IPv6 the /64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Protocol

from hive.errors import TooManyRequests
from hive.login_attempts import network_of
from hive.permissions import Principal, Role

WINDOW_SECONDS: Final = 60.0
ADDRESS: Final = "address"
AGENT: Final = "agent"
AUTH: Final = "auth"
UNLIMITED: Final = "none"

PER_MINUTE: Final[Mapping[str, int]] = MappingProxyType(
    {
        "read": 100,
        "write": 20,
        "heavy": 5,
        "task-submit": 50,
        AUTH: 20,
        AGENT: 6_000,
        ADDRESS: 600,
    }
)
"""What a user may do in a minute; `auth` and `address` are of an address."""

CLASSES: Final = frozenset(PER_MINUTE) - {ADDRESS} | {UNLIMITED}
"""What `x-rate-limit` may say."""

MULTIPLIERS: Final[Mapping[Role, Fraction]] = MappingProxyType(
    {
        Role.ADMIN: Fraction(2),
        Role.USER: Fraction(1),
        Role.VIEWER: Fraction(1, 2),
        Role.AGENT: Fraction(1),
    }
)


class RateLimited(TooManyRequests):
    """A policy has nothing left; nothing was done and nothing was charged (429)."""

    code = "rate-limited"

    def __init__(self, detail: str, *, violated: Sequence[str], retry_after_seconds: int) -> None:
        super().__init__(detail, retry_after_seconds=retry_after_seconds, violated=list(violated))
        self.violated = tuple(violated)


class Kind(StrEnum):
    """How a policy counts.

    `WINDOW`: at most `limit` in any window, however it is placed. `BUCKET`: `limit` tokens that
    fill up evenly within a window, so what was saved can be spent at once.
    """

    WINDOW = "window"
    BUCKET = "bucket"


@dataclass(frozen=True, slots=True)
class Policy:
    """So many units in so many seconds."""

    name: str
    limit: int
    window_seconds: float = WINDOW_SECONDS
    kind: Kind = Kind.WINDOW

    @property
    def window_us(self) -> int:
        """The window in microseconds, the unit in which limiters count."""
        return round(self.window_seconds * 1_000_000)

    def times(self, factor: Fraction) -> Policy:
        """The policy with so many times the limit, rounded down, but never nothing at all."""
        return _times(self, factor)


# The same few policies, and the same addresses, at every request.
@lru_cache(maxsize=256)
def _times(policy: Policy, factor: Fraction) -> Policy:
    return replace(policy, limit=max(1, math.floor(policy.limit * factor)))


_place = lru_cache(maxsize=4096)(network_of)


@dataclass(frozen=True, slots=True)
class Charge:
    """Take `cost` units of a policy from whoever the key names."""

    policy: Policy
    key: str
    cost: int = 1


@dataclass(frozen=True, slots=True)
class Standing:
    """How a policy stands after a decision.

    `reset_seconds` is the time until there is one unit more; `wait_seconds` until this charge fits,
    0 when it did.
    """

    policy: Policy
    remaining: int
    reset_seconds: float
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision; `decided_at_us` is on the clock of the limiter that made it."""

    allowed: bool
    standings: tuple[Standing, ...]
    decided_at_us: int

    @property
    def violated(self) -> tuple[str, ...]:
        """The names of the policies that have too little left."""
        return tuple(one.policy.name for one in self.standings if one.wait_seconds > 0)

    @property
    def wait_seconds(self) -> float:
        """How long until the same would be allowed, if nobody else came in between."""
        return max((one.wait_seconds for one in self.standings), default=0.0)

    def require(self) -> None:
        """Raise RateLimited unless it was allowed."""
        if self.allowed:
            return
        worst = max(self.standings, key=lambda one: one.wait_seconds).policy
        raise RateLimited(
            f"More than {worst.limit:,} requests of the policy {worst.name}"
            f" in {worst.window_seconds:g} s.",
            violated=self.violated,
            retry_after_seconds=max(1, math.ceil(self.wait_seconds)),
        )


class RateLimiter(Protocol):
    """Decides by what was taken before."""

    async def decide(self, charges: Sequence[Charge]) -> Verdict:
        """Take all charges, or none when one does not fit: one atomic decision.

        Exact: of a WINDOW no more than its limit is allowed in any window, and nothing is refused
        that would fit. A unit counts for exactly one window. Keys are distinct. What was taken is
        forgotten when it counts no more. Raises Unavailable.
        """
        ...


class LocalRateLimiter(RateLimiter, Protocol):
    """A limiter in the memory of this node: it answers at once and always."""

    def look(self, charges: Sequence[Charge]) -> Verdict:
        """What `decide` would say now, without taking anything."""
        ...

    def take(self, charges: Sequence[Charge], at_us: int) -> None:
        """Take the charges as of then, whether they fit or not: somebody else decided."""
        ...

    def decide_now(self, charges: Sequence[Charge]) -> Verdict:
        """`decide`, at once."""
        ...


def default_policies(changes: Mapping[str, int] = MappingProxyType({})) -> dict[str, Policy]:
    """The policies by name, with other limits where `changes` has some."""
    limits = {**PER_MINUTE, **changes}
    return {
        name: Policy(name, limit, kind=Kind.BUCKET if name == AGENT else Kind.WINDOW)
        for name, limit in limits.items()
    }


@dataclass(slots=True)
class Policies:
    """The policies that count; `replace` takes effect with the next decision."""

    by_name: Mapping[str, Policy] = field(default_factory=default_policies)

    def replace(self, by_name: Mapping[str, Policy]) -> None:
        """Count by these from now on; what was taken before still counts. All names are needed."""
        missing = PER_MINUTE.keys() - by_name.keys()
        if missing:
            raise ValueError(f"no policy for {', '.join(sorted(missing))}")
        self.by_name = dict(by_name)

    def charges_of(
        self, rate_class: str, principal: Principal | None, address: str
    ) -> tuple[Charge, ...]:
        """Whom an operation of that class charges for what; nobody for the class `none`."""
        if rate_class == UNLIMITED:
            return ()
        policy = self.by_name[rate_class]
        if rate_class == AUTH or principal is None:
            who = Charge(policy, f"{policy.name}:{_place(address)}")
        else:
            who = Charge(
                policy.times(MULTIPLIERS[principal.role]),
                # A user's keys and sessions are one user.
                f"{policy.name}:{principal.principal_id}",
            )
        return (who,) if rate_class == AGENT else (who, self.charge_of_address(address))

    def charge_of_address(self, address: str) -> Charge:
        """What every request costs its address."""
        return Charge(self.by_name[ADDRESS], f"{ADDRESS}:{_place(address)}")


def share_of(charges: Sequence[Charge], nodes: int) -> tuple[Charge, ...]:
    """The charges against one node's part of each limit."""
    part = Fraction(1, nodes)
    return tuple(replace(one, policy=one.policy.times(part)) for one in charges)
