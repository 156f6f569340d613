"""The table of causes is made of the code."""

from __future__ import annotations

from hive.diagnosis import CAUSES
from server.resources import openapi_path


def test_the_causes_are_those_of_the_code() -> None:
    """In the order in which they are looked at."""
    page = openapi_path().with_name("docs") / "coordination.md"
    rows = [f"| `{cause}` | {what} | {remedy} |" for cause, (what, remedy) in CAUSES.items()]
    assert "\n".join(rows) in page.read_text()
