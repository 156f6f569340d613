"""Rate limits of a node that is alone: exact, in memory, on the monotonic clock.

A window is the log of what was taken, a bucket its level at a time; both count in whole
microseconds, as the script of Redis does, so that both give the same verdicts.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from hive.rate_limits import Charge, Kind, Policy, Standing, Verdict

MAX_KEYS: Final = 100_000
_MICRO: Final = 1_000_000


def _monotonic_us() -> int:
    return time.monotonic_ns() // 1_000


@dataclass(slots=True)
class _Log:
    """When each unit was taken, oldest first."""

    taken: deque[int] = field(default_factory=deque)
    ends_at: int = 0

    def wait(self, policy: Policy, cost: int, now: int) -> int:
        """Microseconds until `cost` fits; 0 when it does."""
        taken, window = self.taken, policy.window_us
        while taken and taken[0] <= now - window:
            taken.popleft()
        excess = len(taken) + cost - policy.limit
        if excess <= 0:
            return 0
        # What never fits waits for as long as anything else can.
        return taken[excess - 1] + window - now if excess <= len(taken) else window

    def take(self, policy: Policy, cost: int, now: int) -> None:
        """Count `cost` from now on."""
        # What was taken in between has the order of the log; it is later by no more than a call.
        now = max(now, self.taken[-1]) if self.taken else now
        self.taken.extend([now] * cost)
        self.ends_at = now + policy.window_us

    def standing(self, policy: Policy, now: int, wait: int) -> Standing:
        """How it stands."""
        count = len(self.taken)
        reset = (
            self.taken[max(0, count - policy.limit)] + policy.window_us - now if self.taken else 0
        )
        return Standing(policy, max(0, policy.limit - count), reset / _MICRO, wait / _MICRO)


@dataclass(slots=True)
class _Bucket:
    """`level` is in tokens times the window in microseconds: whole numbers only."""

    level: int = -1
    at: int = 0
    ends_at: int = 0

    def wait(self, policy: Policy, cost: int, now: int) -> int:
        """Microseconds until `cost` fits; 0 when it does."""
        full = policy.limit * policy.window_us
        grown = self.level + max(0, now - self.at) * policy.limit
        self.level = full if self.level < 0 else min(full, grown)
        self.at = max(now, self.at)
        lacking = cost * policy.window_us - self.level
        if cost > policy.limit:
            return policy.window_us
        return max(0, -(-lacking // policy.limit))

    def take(self, policy: Policy, cost: int, now: int) -> None:
        """Count `cost` from now on."""
        self.level = max(0, self.level - cost * policy.window_us)
        self.ends_at = now + policy.window_us

    def standing(self, policy: Policy, _now: int, wait: int) -> Standing:
        """How it stands."""
        window = policy.window_us
        remaining, part = divmod(self.level, window)
        reset = 0 if remaining >= policy.limit else -((part - window) // policy.limit)
        return Standing(policy, remaining, reset / _MICRO, wait / _MICRO)


class MemoryRateLimiter:
    """Keeps what counts, at most for `max_keys` keys: beyond, the one that was quiet longest goes.

    `clock` gives microseconds and never goes back.
    """

    def __init__(
        self, *, clock: Callable[[], int] = _monotonic_us, max_keys: int = MAX_KEYS
    ) -> None:
        self._clock = clock
        self._max_keys = max_keys
        # In the order in which they were charged last.
        self._states: dict[str, _Log | _Bucket] = {}

    def __len__(self) -> int:
        """How many keys it remembers."""
        return len(self._states)

    async def decide(self, charges: Sequence[Charge]) -> Verdict:
        return self.decide_now(charges)

    def decide_now(self, charges: Sequence[Charge]) -> Verdict:
        now = self._clock()
        states = [self._find(one) for one in charges]
        waits = self._waits(charges, states, now)
        allowed = not any(waits)
        if allowed:
            self._take(charges, states, now)
        return self._verdict(charges, states, waits, now)

    def look(self, charges: Sequence[Charge]) -> Verdict:
        now = self._clock()
        states = [self._find(one) for one in charges]
        return self._verdict(charges, states, self._waits(charges, states, now), now)

    def take(self, charges: Sequence[Charge], at_us: int) -> None:
        states = [self._find(one) for one in charges]
        self._waits(charges, states, at_us)
        self._take(charges, states, at_us)

    def _find(self, charge: Charge) -> _Log | _Bucket:
        kind = _Bucket if charge.policy.kind is Kind.BUCKET else _Log
        found = self._states.get(charge.key)
        return found if isinstance(found, kind) else kind()

    @staticmethod
    def _waits(charges: Sequence[Charge], states: Sequence[_Log | _Bucket], now: int) -> list[int]:
        return [
            state.wait(one.policy, one.cost, now)
            for one, state in zip(charges, states, strict=True)
        ]

    def _take(self, charges: Sequence[Charge], states: Sequence[_Log | _Bucket], now: int) -> None:
        for one, state in zip(charges, states, strict=True):
            state.take(one.policy, one.cost, now)
            self._states.pop(one.key, None)
            self._states[one.key] = state
        self._forget(now)

    def _forget(self, now: int) -> None:
        """Drop what counts no more: a few at each charge, more of them than a charge adds."""
        for _ in range(4):
            key = next(iter(self._states))
            if self._states[key].ends_at > now and len(self._states) <= self._max_keys:
                return
            del self._states[key]

    @staticmethod
    def _verdict(
        charges: Sequence[Charge],
        states: Sequence[_Log | _Bucket],
        waits: Sequence[int],
        now: int,
    ) -> Verdict:
        standings = tuple(
            state.standing(one.policy, now, wait)
            for one, state, wait in zip(charges, states, waits, strict=True)
        )
        return Verdict(not any(waits), standings, now)
