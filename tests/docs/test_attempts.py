"""The tables of attempts in docs/tasks.md say what the code does."""

from __future__ import annotations

import re

from hive.task_spec import Backoff, BackoffKind
from hive.tasks import RetriesEnded
from tests.docs.test_tables import read_table

ATTEMPTS = (1, 2, 3, 4, 5, 6, 30)


def _delay(kind: BackoffKind, attempt: int, *, jitter: float = 0.0, chance: float = 0.0) -> str:
    backoff = Backoff(kind, base_seconds=2.0, max_seconds=60.0, jitter=jitter)
    return f"{backoff.delay_seconds(attempt, chance):g}"


def test_table_of_backoff_is_what_the_code_waits() -> None:
    """Each kind, its growth and its cap; jitter from its longest to its shortest."""
    kinds = " | ".join(f"`{kind}`" for kind in BackoffKind)
    rows = [f"| after attempt | {kinds} | `exponential`, `jitter: 0.5` |", "|---|---|---|---|---|"]
    for attempt in ATTEMPTS:
        delays = " | ".join(_delay(kind, attempt) for kind in BackoffKind)
        shortest = _delay(BackoffKind.EXPONENTIAL, attempt, jitter=0.5, chance=1.0)
        longest = _delay(BackoffKind.EXPONENTIAL, attempt, jitter=0.5, chance=0.0)
        rows.append(f"| {attempt} | {delays} | {shortest} to {longest} |")
    table = "\n".join(rows) + "\n"
    assert read_table("tasks.md", "backoff") == table, f"write this into docs/tasks.md:\n{table}"


def test_table_of_reasons_names_each() -> None:
    """In the order of the code; what they mean is written by hand."""
    named = re.findall(r"^\| `([a-z-]+)` \|", read_table("tasks.md", "retries ended"), re.MULTILINE)
    assert named == [reason.value for reason in RetriesEnded]
