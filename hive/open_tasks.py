"""How many tasks an owner may have that have not ended, kept by a node without counting each time.

A node counts in the store, then takes what it admits itself off what was left. It counts again
after `STEP_SHARE` of the bound, and when nothing is left: at most once in `COUNTED_SECONDS` then.

One node never admits more than the bound. It refuses too early by at most what is under way at
that moment, and is at most `COUNTED_SECONDS` behind the ends of tasks. Several nodes admit at most
`STEP_SHARE` of the bound too many for each node but one: what the others had left to take when the
last one counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hive.errors import TooManyRequests

STEP_SHARE: Final = 0.01
COUNTED_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 5


class TooManyTasks(TooManyRequests):
    """The owner has as many tasks that have not ended as anybody may (429)."""

    code = "too-many-tasks"
    title = "Too many open tasks"


@dataclass(slots=True)
class OwnerRoom:
    """What a node knows of one owner. Nothing is taken while a count is under way."""

    most: int
    counted: int | None = None
    counted_at: float = 0.0
    spent: int = 0
    in_flight: int = 0
    doubtful: int = 0

    @property
    def step(self) -> int:
        """How many tasks are admitted by one count."""
        return max(1, int(self.most * STEP_SHARE))

    def needs_count(self, now: float, tasks: int = 1) -> bool:
        """Whether to count before taking; `now` is of a monotonic clock, in seconds."""
        if self.counted is None:
            return True
        if self.counted + self.spent + tasks > self.most:
            # Counted twice, perhaps: what was under way then.
            in_doubt = self.doubtful > 0 and self.in_flight == 0
            return in_doubt or now - self.counted_at >= COUNTED_SECONDS
        return self.spent + tasks > max(self.step, tasks)

    def begin_count(self) -> None:
        """From here on a count sees all that was taken and is there; what is under way, perhaps."""
        self.counted = None
        self.spent = self.doubtful = self.in_flight

    def end_count(self, counted: int, now: float) -> None:
        """Take what was counted."""
        self.counted, self.counted_at = counted, now

    def take(self, tasks: int = 1) -> None:
        """Hold room for new tasks. Raises TooManyTasks."""
        if self.counted is None or self.counted + self.spent + tasks > self.most:
            raise TooManyTasks(
                f"You have {self.most} tasks that have not ended, or would have more."
                " Wait for some of them to end.",
                retry_after_seconds=RETRY_SECONDS,
            )
        self.spent += tasks
        self.in_flight += tasks

    def settle(self, taken: int, made: int) -> None:
        """What was taken is not under way any more; `made` of them came to be."""
        self.in_flight -= taken
        self.spent -= taken - made
