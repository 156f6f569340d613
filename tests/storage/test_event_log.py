"""The event log on MongoDB: dense, read in pages, trimmed without a hole."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hive.duty_ports import LogTail, Recorded, SeqTaken
from hive.errors import LogTrimmed
from hive.events import WHOLE_LOG, Audience, Event
from hive.ports import EventFilter
from tests.storage.store import Store

TOKEN = {"_data": "82AA"}


def _entry(number: int, **fields: Any) -> Recorded:
    usual: dict[str, Any] = {
        "id": f"tsk_1:{number}",
        "type": "task.progress",
        "subject": "tsk_1",
        "time": datetime.now(UTC),
        "version": number,
        "data": {"percent": number},
        "actor": "agt_1",
        "request_id": "req_1",
        "token": TOKEN,
    }
    return Recorded(**{**usual, **fields})


def _seqs(events: Sequence[Event]) -> list[int]:
    return [event.seq for event in events]


async def test_events_are_appended_in_order_behind_the_end(store: Store) -> None:
    """The sequence starts at 1 and has no hole; the end has the token to go on from."""
    assert await store.events.read_tail() == LogTail(0, None)
    first = await store.events.append(0, [_entry(1), _entry(2)])
    second = await store.events.append(2, [_entry(3, token=None)])
    assert _seqs([*first, *second]) == [1, 2, 3]
    assert await store.events.read_tail() == LogTail(3, None)
    assert (await store.events.tail(), await store.events.oldest()) == (3, 1)


async def test_two_writers_can_not_both_have_a_place(store: Store) -> None:
    """The second one is told, and nothing of the first is touched."""
    await store.events.append(0, [_entry(1)])
    with pytest.raises(SeqTaken):
        await store.events.append(0, [_entry(2), _entry(3)])
    assert await store.events.tail() == 1
    [event] = await store.events.read(EventFilter(), after=0, limit=10)
    assert event.id == "tsk_1:1"


async def test_what_is_in_the_log_already_is_passed_over(store: Store) -> None:
    """Reading a piece of the stream again writes only what is new, without a hole."""
    await store.events.append(0, [_entry(1), _entry(2), _entry(3)])
    again = [_entry(2), _entry(4), _entry(3), _entry(1), _entry(5)]
    written = await store.events.append(3, again)
    assert [(event.seq, event.id) for event in written] == [(4, "tsk_1:4"), (5, "tsk_1:5")]
    assert await store.events.append(5, [_entry(1), _entry(5)]) == []
    events = await store.events.read(EventFilter(), after=0, limit=10)
    assert [(event.seq, event.id) for event in events] == [(n, f"tsk_1:{n}") for n in range(1, 6)]


@pytest.mark.parametrize(
    ("wanted", "after", "newest_first", "seqs"),
    [
        ({}, 0, False, [1, 2, 3, 4]),
        ({}, 2, False, [3, 4]),
        ({}, 4, False, []),
        ({}, 99, False, []),
        ({}, 0, True, [4, 3, 2, 1]),
        ({}, 3, True, [2, 1]),
        ({"pattern": "*"}, 0, False, [1, 2, 3, 4]),
        ({"pattern": "task.*"}, 0, False, [1, 2]),
        ({"pattern": "agent.updated"}, 0, False, [3]),
        ({"subject": "agt_1"}, 0, True, [4, 3]),
        ({"pattern": "$regex"}, 0, False, []),
        ({"subject": "agt_1", "pattern": "task.*"}, 0, False, []),
    ],
    ids=str,
)
async def test_history_is_read_in_both_directions(
    store: Store,
    wanted: dict[str, Any],
    after: int,
    newest_first: bool,  # noqa: FBT001 - a column of the table
    seqs: list[int],
) -> None:
    """Filters are exact; `after` is exclusive in both directions."""
    agent = {"subject": "agt_1"}
    await store.events.append(
        0,
        [
            _entry(1),
            _entry(2, type="task.completed"),
            _entry(3, type="agent.updated", **agent),
            _entry(4, type="agent.unregistered", **agent),
        ],
    )
    events = await store.events.read(
        EventFilter(**wanted), after=after, limit=10, newest_first=newest_first
    )
    assert _seqs(events) == seqs


PRIVATE = [
    ("task.created", None),
    ("user.updated", "usr_1"),
    ("session.opened", "usr_2"),
    ("api_key.created", "usr_1"),
    ("signing_key.created", "usr_2"),
    ("system.settings_updated", None),
    ("agent.registered", None),
    ("api_key.created", "agt_1"),
]


@pytest.mark.parametrize(
    ("audience", "seqs"),
    [
        (WHOLE_LOG, [1, 2, 3, 4, 5, 6, 7, 8]),
        (Audience("usr_9", sees_all=True), [1, 2, 3, 4, 5, 6, 7, 8]),
        (Audience("usr_1"), [1, 2, 4, 7]),
        (Audience("usr_2"), [1, 3, 5, 7]),
        (Audience("agt_1"), [1, 7, 8]),
        (Audience("usr_9"), [1, 7]),
        (Audience(), [1, 7]),
    ],
    ids=str,
)
@pytest.mark.parametrize("newest_first", [False, True])
async def test_private_events_are_for_their_owner_and_admins(
    store: Store,
    audience: Audience,
    newest_first: bool,  # noqa: FBT001 - a column of the table
    seqs: list[int],
) -> None:
    """The database leaves the others out: a page is full of what may be seen."""
    entries = [
        _entry(number, type=event_type, owner=owner)
        for number, (event_type, owner) in enumerate(PRIVATE, start=1)
    ]
    await store.events.append(0, entries)
    for limit in (1, 3, 10):
        events = await store.events.read(
            EventFilter(audience=audience), after=0, limit=limit, newest_first=newest_first
        )
        assert _seqs(events) == (seqs[::-1] if newest_first else seqs)[:limit]
    own = EventFilter("api_key.*", audience=audience)
    expected = [seq for seq in seqs if seq in {4, 8}]
    assert _seqs(await store.events.read(own, after=0, limit=10)) == expected
    nobody_s = await store.events.read(EventFilter(), after=0, limit=10)
    assert _seqs(nobody_s) == [1, 7], "whoever names no audience sees what is public"


async def test_reading_keeps_what_is_for_the_recorder_to_itself(store: Store) -> None:
    """Times carry their zone; tokens stay inside."""
    written = await store.events.append(0, [_entry(1)])
    [event] = await store.events.read(EventFilter(), after=0, limit=1)
    assert event.actor == "agt_1"
    assert event.time.tzinfo is not None
    assert event.data == written[0].data


async def test_retention_takes_the_old_ones_and_leaves_no_hole(store: Store) -> None:
    """By sequence, up to the first young event, although an older clock stands behind it."""
    old = datetime.now(UTC) - timedelta(days=8)
    ages = [old, old, datetime.now(UTC), old, datetime.now(UTC)]
    await store.events.append(0, [_entry(n, time=time) for n, time in enumerate(ages, 1)])
    assert await store.events.trim(7, at_most=100) == 2
    assert _seqs(await store.events.read(EventFilter(), after=0, limit=10)) == [3, 4, 5]


async def test_retention_never_takes_the_newest_event(store: Store) -> None:
    """The next sequence number and the token come from it. An empty log is left alone."""
    assert await store.events.trim(7, at_most=100) == 0
    old = datetime.now(UTC) - timedelta(days=8)
    await store.events.append(0, [_entry(n, time=old) for n in range(1, 8)])
    assert await store.events.trim(7, at_most=4) == 4
    assert await store.events.oldest() == 5
    assert await store.events.trim(7, at_most=4) == 2
    assert await store.events.trim(7, at_most=4) == 0
    assert await store.events.read_tail() == LogTail(7, TOKEN)


async def test_reading_behind_what_was_taken_says_so(store: Store) -> None:
    """A gap is never silent; the oldest kept event may be asked for, and so may the beginning."""
    await store.events.append(0, [_entry(n) for n in range(1, 8)])
    await store.database["events"].delete_many({"_id": {"$lt": 5}})
    with pytest.raises(LogTrimmed, match="starts at seq 5"):
        await store.events.read(EventFilter(), after=3, limit=10)
    for after in (0, 4):
        assert _seqs(await store.events.read(EventFilter(), after=after, limit=10)) == [5, 6, 7]
    descending = await store.events.read(EventFilter(), after=3, limit=10, newest_first=True)
    assert descending == []
