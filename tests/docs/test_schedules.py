"""docs/schedules.md says what the code says."""

from __future__ import annotations

from hive.schedules import OVERLAP_MEANINGS, Overlap
from tests.docs.test_tables import read_table


def test_table_of_overlaps_is_the_code() -> None:
    """Each policy, and what it means."""
    rows = ["| policy | what becomes of the time |", "|---|---|"]
    rows += [f"| `{overlap}` | {OVERLAP_MEANINGS[overlap]} |" for overlap in Overlap]
    table = "\n".join(rows) + "\n"
    shown = read_table("schedules.md", "overlaps")
    assert shown == table, f"write this into docs/schedules.md:\n{table}"
