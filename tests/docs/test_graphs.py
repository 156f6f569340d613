"""The table of flaws in docs/tasks.md says what the code does."""

from __future__ import annotations

from hive.dag import FLAWS
from tests.docs.test_tables import read_table


def test_table_of_flaws_names_each_code() -> None:
    """With what it says."""
    rows = "".join(f"| `{code}` | {meaning} |\n" for code, meaning in FLAWS.items())
    table = f"| code | why |\n|---|---|\n{rows}"
    assert read_table("tasks.md", "flaws") == table, f"write this into docs/tasks.md:\n{table}"
