"""Cursors are opaque and signed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive.errors import MalformedCursor
from server.cursors import SignedCursors

CURSORS = SignedCursors(b"k" * 32)


@given(operation=st.text(max_size=20).filter(lambda t: "\0" not in t), position=st.text())
def test_a_cursor_gives_its_position_back(operation: str, position: str) -> None:
    """Any position, in the alphabet of URLs."""
    try:
        cursor = CURSORS.encode(operation, position)
    except UnicodeEncodeError:
        return
    assert CURSORS.decode(operation, cursor) == position
    assert cursor.replace("-", "").replace("_", "").isalnum()


@given(cursor=st.text())
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    """Any text of a client is refused, and never an internal error."""
    with pytest.raises(MalformedCursor):
        CURSORS.decode("list_tasks", cursor)


def test_a_cursor_is_good_for_its_list_and_server_only() -> None:
    """Another operation, another key and a changed position are refused."""
    cursor = CURSORS.encode("list_tasks", "tsk_1")
    with pytest.raises(MalformedCursor):
        CURSORS.decode("list_agents", cursor)
    with pytest.raises(MalformedCursor):
        SignedCursors(b"x" * 32).decode("list_tasks", cursor)
    for index in range(len(cursor) - 1):
        other = "A" if cursor[index] != "A" else "B"
        with pytest.raises(MalformedCursor):
            CURSORS.decode("list_tasks", cursor[:index] + other + cursor[index + 1 :])
