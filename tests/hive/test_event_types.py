"""The vocabulary of events: types, patterns and the envelope."""

from __future__ import annotations

from typing import Any

import pytest

from hive.changes import Actor, Change
from hive.events import EVENT_TYPES, Event, check_type, envelope, matches, source_of
from storage.mongo.changes import update_pipeline
from tests.hive.worlds import EPOCH


def _event(**fields: Any) -> Event:
    usual: dict[str, Any] = {
        "seq": 9_007_199_254_740_993,
        "id": "tsk_1:7",
        "type": "task.completed",
        "subject": "tsk_1",
        "time": EPOCH,
        "data": {"task_id": "tsk_1"},
    }
    return Event(**{**usual, **fields})


@pytest.mark.parametrize(
    ("pattern", "event_type", "selected"),
    [
        ("*", "task.created", True),
        ("task.*", "task.created", True),
        ("task.*", "taskforce.created", False),
        ("task.*", "agent.updated", False),
        ("task.created", "task.created", True),
        ("task.create", "task.created", False),
        ("task", "task.created", False),
        ("task*", "task.created", False),
        ("*.created", "task.created", False),
        (".*", "task.created", False),
        ("", "task.created", False),
    ],
)
def test_patterns_select_all_a_family_or_one_type(
    pattern: str,
    event_type: str,
    selected: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """`*`, `family.*` and exact types; nothing else is a wildcard."""
    assert matches(pattern, event_type) is selected


def test_the_envelope_is_a_cloud_event() -> None:
    """`seq` is a decimal string, exact beyond what a JSON number can hold."""
    assert envelope(_event(actor="usr_1")) == {
        "specversion": "1.0",
        "id": "tsk_1:7",
        "source": "/api/v1/tasks/tsk_1",
        "type": "task.completed",
        "subject": "tsk_1",
        "time": EPOCH,
        "seq": "9007199254740993",
        "data": {"task_id": "tsk_1"},
        "actor": "usr_1",
    }
    assert "actor" not in envelope(_event())


@pytest.mark.parametrize(
    ("subject", "source"),
    [
        ("agt_1", "/api/v1/agents/agt_1"),
        ("tsk_1", "/api/v1/tasks/tsk_1"),
        ("log", "/api/v1/events"),
        ("usr_1", "/api/v1/users/usr_1"),
        ("key_1", "/api/v1/api-keys/key_1"),
        ("system", "/api/v1/system/settings"),
    ],
)
def test_the_source_is_where_the_resource_is(subject: str, source: str) -> None:
    """A path of the REST contract, or the log itself."""
    assert source_of(subject) == source


def test_an_undeclared_type_is_refused_where_it_is_made() -> None:
    """Neither the vocabulary nor an update lets an unknown type through."""
    with pytest.raises(ValueError, match=r"'task.exploded' is not declared"):
        check_type("task.exploded")
    with pytest.raises(ValueError, match=r"'task.exploded' is not declared"):
        update_pipeline(Change("task.exploded"), Actor("me"), identifier="task_id", summary=())


def test_every_type_says_what_it_means() -> None:
    """The docs are made from these texts."""
    assert all(
        text.endswith(".") and kind == kind.lower() and kind.count(".") == 1
        for kind, text in EVENT_TYPES.items()
    )
