"""The tables in the docs say what the code says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from pydantic import SecretStr

from hive.events import EVENT_TYPES, is_private
from hive.tasks import LEGAL_MOVES, TaskStatus
from server.settings import PREFIX, Settings

DOCS = Path(__file__).resolve().parents[2] / "docs"


def read_table(page: str, name: str) -> str:
    """The text between the marks of a table."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.search(rf"<!-- table: {name} -->\n(.*?)<!-- end -->", text, re.DOTALL)
    assert found, f"docs/{page} has no table {name!r}"
    return found[1]


def test_table_of_moves_is_the_machine() -> None:
    """docs/tasks.md lists exactly the legal moves."""
    rows = ["| from | to |", "|---|---|"]
    for status in TaskStatus:
        targets = [target for target in TaskStatus if target in LEGAL_MOVES[status]]
        rows.append(f"| {status} | {', '.join(targets) or '-'} |")
    table = "\n".join(rows) + "\n"
    assert read_table("tasks.md", "moves") == table, f"write this into docs/tasks.md:\n{table}"


def test_table_of_events_is_the_vocabulary() -> None:
    """docs/events.md lists exactly the declared types, what they mean and who sees them."""
    rows = ["| type | when | who |", "|---|---|---|"]
    rows += [
        f"| `{event_type}` | {meaning} | {'owner, admins' if is_private(event_type) else 'all'} |"
        for event_type, meaning in EVENT_TYPES.items()
    ]
    table = "\n".join(rows) + "\n"
    assert read_table("events.md", "events") == table, f"write this into docs/events.md:\n{table}"


def test_example_of_the_envelope_is_an_event() -> None:
    """It has the members of the contract, and a type that there is."""
    found = re.search(r"```json\n(.*?)```", (DOCS / "events.md").read_text("utf-8"), re.DOTALL)
    assert found is not None
    event = json.loads(found[1])
    contract = yaml.safe_load((DOCS.parent / "openapi.yaml").read_text("utf-8"))
    schema = contract["components"]["schemas"]["Event"]
    assert set(schema["required"]) <= set(event) <= set(schema["properties"])
    assert event["type"] in EVENT_TYPES
    assert event["data"]["task_id"] == event["subject"]


def test_table_of_settings_names_every_variable_with_its_default() -> None:
    """docs/operations.md lists exactly the settings; what they mean is written by hand."""
    rows = [line.split("|")[1:3] for line in read_table("operations.md", "settings").split("\n")]
    listed = {name.strip(): default.strip() for name, default in (r for r in rows[2:] if r)}
    expected = {
        f"`{PREFIX}{name.upper()}`": _shown(field.default)
        for name, field in Settings.model_fields.items()
    }
    assert listed == expected


def _shown(default: object) -> str:
    value = default.get_secret_value() if isinstance(default, SecretStr) else default
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    if value in ("", None):
        return "-"
    return str(value)
