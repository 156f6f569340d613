"""How much a node takes on at once, altogether and from one principal.

The way of a call: `admit` before anybody is authenticated (503 `overloaded` when the node is
saturated), `seat` when the principal is known (429 `too-many-concurrent`), `park` when the
arguments say that it is going to wait, and `leave` at its end, whatever that is.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import structlog

from hive.errors import TooManyRequests, Unavailable
from hive.permissions import Role
from server.contract import Operation
from server.pipeline import Call
from server.saturation import LEAST, MOST, STALE_SECONDS, AdaptiveLimit, LoopProbe

PER_PRINCIPAL = 64
AGENT_FACTOR = 4
RETRY_SECONDS = (1, 2, 3)
REPORT_SECONDS = 1.0

log = structlog.stdlib.get_logger(__name__)


class Shed(IntEnum):
    """When an operation is refused for the node's sake (`x-shed` in the contract)."""

    NEVER = 0
    LAST = 1
    NORMAL = 2
    FIRST = 3


# The share of the limit that has to be in use before an operation is shed.
_SHARES: Mapping[Shed, float] = {Shed.LAST: 2.0, Shed.NORMAL: 1.0, Shed.FIRST: 0.75}


class Overloaded(Unavailable):
    """The node has as much to do as it can; nothing was begun (503)."""

    code = "overloaded"
    title = "Overloaded"
    default_detail = "The server has too much to do right now; nothing was done. Try again later."


class TooManyConcurrent(TooManyRequests):
    """The principal has as many requests under way as it may; nothing was begun (429)."""

    code = "too-many-concurrent"
    title = "Too many requests at once"
    default_detail = "Too many of your requests are still running. Wait for one of them to end."


@dataclass(slots=True)
class Occupancy:
    """Where a call stands: whether it counts as running, and for whom it holds a slot."""

    shed: Shed
    is_running: bool = True
    principal_id: str | None = None
    is_parked: bool = False


class Load:
    """The port `server.pipeline.Throttles`. Bound to the event loop that first admits a call.

    Without `adaptive` as many may run as `most`, however late the loop is.
    """

    def __init__(
        self,
        most: int = MOST,
        per_principal: int = PER_PRINCIPAL,
        *,
        adaptive: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._per_principal = per_principal
        self._adaptive = adaptive
        self._clock = clock
        self.limit = AdaptiveLimit(most)
        self.running = 0
        self._seats: Counter[str] = Counter()
        self._parked: Counter[str] = Counter()
        self._shed = 0
        self._reported_at = float("-inf")
        self._probe = LoopProbe(self._measured, clock)
        self._probed_at = float("-inf")
        self._quiet_since: float | None = None

    def is_full(self, operation: Operation | None) -> bool:
        """Whether a call of this operation (None: of whatever is none) would be shed now."""
        shed = Shed.NORMAL if operation is None else shed_of(operation)
        if shed is Shed.NEVER:
            return False
        return self.running >= _SHARES[shed] * self._bound

    @property
    def is_saturated(self) -> bool:
        """Whether any operation at all would be shed now."""
        return self.running >= _SHARES[Shed.FIRST] * self._bound

    @property
    def _bound(self) -> int:
        return min(self.limit.value, self._most) if self._adaptive else self._most

    def admit(self, call: Call) -> None:
        """Count the call in. Raises Overloaded; never for health, nor an agent's report on a link.

        Reports on a link are bounded there: what is not read yet waits with the agent.
        """
        operation = call.operation
        if operation is None or (shed := shed_of(operation)) is Shed.NEVER:
            return
        is_bounded = call.channel == "websocket" and shed is Shed.LAST
        if self.is_full(operation) and not is_bounded:
            raise self.refusal()
        if "x-queue" in operation.extensions:
            # It waits in a bounded queue of its own (for a thread that hashes), or for a client who
            # reads slowly: that is no reason to refuse others.
            call.place = Occupancy(shed, is_running=False)
            return
        self.running += 1
        call.place = Occupancy(shed)
        is_worth_measuring = self._adaptive and 2 * self.running >= min(LEAST, self._most)
        if is_worth_measuring and not self._probe.is_running:
            self._start_probe()

    def refusal(self) -> Overloaded:
        """What a call is refused with that is shed; it is counted, and told once a second."""
        self._shed += 1
        if (now := self._clock()) - self._reported_at >= REPORT_SECONDS:
            log.warning("load.shed", calls=self._shed, running=self.running, limit=self._bound)
            self._reported_at, self._shed = now, 0
        # Not all at the same moment again.
        return Overloaded(retry_after_seconds=random.choice(RETRY_SECONDS))  # noqa: S311  # nosec B311

    def seat(self, call: Call) -> None:
        """Take a slot of the call's principal. Raises TooManyConcurrent."""
        principal, place = call.principal, call.place
        if principal is None or place is None or place.principal_id is not None:
            return
        who = principal.principal_id
        most = self._per_principal * (AGENT_FACTOR if principal.role is Role.AGENT else 1)
        if self._seats[who] >= most:
            raise TooManyConcurrent(retry_after_seconds=1, principal_id=who)
        self._seats[who] += 1
        place.principal_id = who

    def park(self, call: Call, arguments: Mapping[str, Any]) -> None:
        """Let go of what a call holds that is going to wait (`x-long-poll`).

        As many may wait for a principal as may run. Raises TooManyConcurrent.
        """
        place, operation = call.place, call.operation
        if place is None or place.is_parked or operation is None:
            return
        waits = operation.extensions.get("x-long-poll")
        body = arguments.get("body")
        given = body if isinstance(body, dict) else arguments
        if waits is None or not given.get(waits):
            return
        who = place.principal_id
        if who is not None:
            role = call.principal.role if call.principal is not None else None
            most = self._per_principal * (AGENT_FACTOR if role is Role.AGENT else 1)
            if self._parked[who] >= most:
                raise TooManyConcurrent(retry_after_seconds=1, principal_id=who)
            _take_out(self._seats, who)
            self._parked[who] += 1
        place.is_parked = True
        self._stop_running(place)

    def leave(self, call: Call) -> None:
        """Give back all that the call holds."""
        place, call.place = call.place, None
        if place is None:
            return
        self._stop_running(place)
        if place.principal_id is not None:
            _take_out(self._parked if place.is_parked else self._seats, place.principal_id)

    def stop(self) -> None:
        """Measure no more."""
        self._probe.stop()

    def _stop_running(self, place: Occupancy) -> None:
        if place.is_running:
            place.is_running = False
            self.running -= 1

    def _start_probe(self) -> None:
        now = self._clock()
        if now - self._probed_at >= STALE_SECONDS:
            self.limit.begin(now)
        self._quiet_since = None
        self._probe.start()

    def _measured(self, now: float, delay_seconds: float) -> bool:
        """Take a measurement; whether to go on."""
        self._probed_at = now
        self.limit.observe(now, delay_seconds, self.running)
        if 2 * self.running >= min(LEAST, self._most):
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = now
        elif now - self._quiet_since >= STALE_SECONDS:
            return False
        return True


def shed_of(operation: Operation) -> Shed:
    """When the operation is shed, as the contract says."""
    return _SHED[operation.extensions.get("x-shed", "normal")]


_SHED: Mapping[str, Shed] = {one.name.lower(): one for one in Shed}


def _take_out(counts: Counter[str], who: str) -> None:
    counts[who] -= 1
    if counts[who] <= 0:
        del counts[who]


__all__ = ["Load", "Occupancy", "Overloaded", "Shed", "TooManyConcurrent", "shed_of"]
