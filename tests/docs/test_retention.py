"""docs/operations.md says how long things are kept, from the code."""

from __future__ import annotations

from hive.retention import RETENTIONS
from server.settings import PREFIX, Settings
from tests.docs.test_tables import read_table


def test_table_of_retentions_is_the_code() -> None:
    """What is kept, for how long, and what takes it away; every retention setting is there."""
    rows = ["| what | kept for | setting | taken away by |", "|---|---|---|---|"]
    for kept in RETENTIONS:
        name, default = "-", ""
        if kept.setting is not None:
            name = f"`{PREFIX}{kept.setting.upper()}`"
            default = f"{Settings.model_fields[kept.setting].default} "
        rows.append(f"| {kept.what} | {default}{kept.time} | {name} | {kept.removed} |")
    table = "\n".join(rows) + "\n"
    shown = read_table("operations.md", "retentions")
    assert shown == table, f"write this into docs/operations.md:\n{table}"
    listed = {kept.setting for kept in RETENTIONS}
    assert {name for name in Settings.model_fields if "retention" in name} <= listed
