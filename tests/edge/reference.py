"""An exact limiter that is too slow to use: what should have been decided, from a log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

from hive.rate_limits import Kind, Policy


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of a log: when (microseconds), who was charged for what, and the verdict."""

    at_us: int
    charges: tuple[tuple[str, Policy], ...]
    allowed: bool


@dataclass(slots=True)
class Reference:
    """Decides as the definition says, and counts what it finds.

    `wrong` has the decisions that came out otherwise; `excess` is by how many the busiest window of
    all keys exceeded its limit, counted over what was really allowed.
    """

    wrong: list[Decision] = field(default_factory=list)
    allowed: int = 0
    refused: int = 0
    excess: int = 0
    _taken: dict[str, list[int]] = field(default_factory=dict)
    _levels: dict[str, tuple[Fraction, int]] = field(default_factory=dict)

    @classmethod
    def replay(cls, log: Iterable[Decision]) -> Reference:
        """Go through a log. Decisions of the same microsecond are taken in the log's order."""
        reference = cls()
        for one in sorted(log, key=lambda decision: decision.at_us):
            reference.look_at(one)
        return reference

    def look_at(self, one: Decision) -> None:
        """Judge a decision by those before it that were really allowed."""
        right = all(self._fits(key, policy, one.at_us) for key, policy in one.charges)
        if right is not one.allowed:
            self.wrong.append(one)
        if not one.allowed:
            self.refused += 1
            return
        self.allowed += 1
        for key, policy in one.charges:
            if policy.kind is Kind.BUCKET:
                self._levels[key] = (self._level(key, policy, one.at_us) - 1, one.at_us)
                continue
            taken = self._taken.setdefault(key, [])
            taken.append(one.at_us)
            self.excess = max(self.excess, self._count(taken, policy, one.at_us) - policy.limit)

    def _fits(self, key: str, policy: Policy, now: int) -> bool:
        if policy.kind is Kind.WINDOW:
            return self._count(self._taken.get(key, []), policy, now) < policy.limit
        return self._level(key, policy, now) >= 1

    @staticmethod
    def _count(taken: list[int], policy: Policy, now: int) -> int:
        count = 0
        for at in reversed(taken):
            if at <= now - policy.window_us:
                break
            count += 1
        return count

    def _level(self, key: str, policy: Policy, now: int) -> Fraction:
        """The tokens now; a bucket is full before its first."""
        level, since = self._levels.get(key, (Fraction(policy.limit), now))
        grown = level + Fraction((now - since) * policy.limit, policy.window_us)
        return min(Fraction(policy.limit), grown)
