"""From a transaction in SQL to the event log: once, in order, whatever happens in between."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from hive.changes import Actor
from hive.duty_ports import Recorded
from hive.errors import Unavailable
from hive.events import WHOLE_LOG, Event, envelope
from hive.ports import EventFilter
from server import duties
from server.cancelling import cancel_and_wait
from server.duties import Duty
from server.outbox import BATCH, DUTY, OutboxRelay
from server.recorder import DUTY as RECORDER
from storage.sql.database import Database
from storage.sql.models import OutboxRow, RevocationCounterRow
from storage.sql.outbox import SqlOutbox, record
from tests.api.running import found
from tests.duties import relay_process
from tests.duties.recording import recording
from tests.servers import ROOT
from tests.storage.store import Store

ADMIN = Actor("usr_admin", "req_9", "aud_9")
POLL_SECONDS = 0.05
AHEAD = 20
WAITING = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
EVERYTHING = EventFilter(audience=WHOLE_LOG)


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """An empty SQL database of each kind."""
    opened = Database(url)
    await asyncio.to_thread(opened.migrate)
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
async def sqlite(sqlite_url: str) -> AsyncIterator[Database]:
    """SQLite, for what does not depend on the kind."""
    opened = Database(sqlite_url)
    await asyncio.to_thread(opened.migrate)
    try:
        yield opened
    finally:
        opened.close()


def _record(sql: Session, number: int, subject: str = "usr_1") -> None:
    record(
        sql,
        "user.updated",
        subject,
        now=datetime.now(UTC),
        actor=ADMIN,
        owner=subject,
        data={"user_id": subject, "version": number},
    )


async def _write(database: Database, *numbers: int, subject: str = "usr_1") -> None:
    for number in numbers:
        await database.write(lambda sql, number=number: _record(sql, number, subject))  # type: ignore[misc]


async def _rows(database: Database) -> int:
    return await database.read(
        lambda sql: sql.scalar(select(func.count()).select_from(OutboxRow)) or 0
    )


@asynccontextmanager
async def relaying(relay: OutboxRelay, term: int = 1) -> AsyncIterator[None]:
    """The relay at work until the block ends."""
    work = asyncio.create_task(relay.work(term))
    try:
        yield
        if work.done():
            work.result()
    finally:
        await cancel_and_wait(work)


async def _log(store: Store) -> list[Event]:
    events = list(await store.events.read(EVERYTHING, after=0, limit=10_000))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert len({event.id for event in events}) == len(events)
    return events


async def _all_arrived(store: Store, database: Database, count: int) -> list[Event]:
    """The log, once it has so many events and nothing is left on the way."""

    async def settled() -> bool:
        return (
            await store.events.tail() >= count
            and await _rows(database) == 0
            and await store.database["notices"].count_documents({}) == 0
        )

    await found(settled, bool, "everything is in the log and nowhere else")
    return await _log(store)


def _numbers(events: Sequence[Event]) -> list[int]:
    return [event.data["version"] for event in events]


async def test_a_change_in_sql_is_an_event_with_everything(
    store: Store, database: Database
) -> None:
    """Who did it and whose it is travel along; what is hidden stays hidden."""
    async with recording(store), relaying(OutboxRelay(SqlOutbox(database), store.notices)):
        await _write(database, 1)
        [event] = await _all_arrived(store, database, 1)
    stored = await store.database["events"].find_one({"_id": 1})
    assert stored is not None
    assert (stored["request_id"], stored["call_id"], stored["owner"]) == (
        "req_9",
        "aud_9",
        "usr_1",
    )
    assert (event.type, event.subject, event.actor) == ("user.updated", "usr_1", "usr_admin")
    assert event.id.startswith("usr_1:")
    assert event.time.tzinfo is not None
    assert envelope(event).keys() == {
        *("specversion", "id", "source", "type", "subject", "time", "seq", "data", "actor")
    }
    assert envelope(event)["data"] == {"user_id": "usr_1", "version": 1}


async def test_a_transaction_that_did_not_happen_is_no_event(
    store: Store, database: Database
) -> None:
    """The row is rolled back with the change."""

    def fail(sql: Session) -> None:
        _record(sql, 1)
        raise RuntimeError("the change fails")

    with pytest.raises(RuntimeError):
        await database.write(fail)
    async with recording(store), relaying(OutboxRelay(SqlOutbox(database), store.notices)):
        await _write(database, 2)
        assert _numbers(await _all_arrived(store, database, 1)) == [2]


async def test_a_backlog_comes_in_its_order(store: Store, database: Database) -> None:
    """Several batches of several subjects, written while nobody relayed."""
    count = BATCH * 2 + 10

    def many(sql: Session) -> None:
        for number in range(count):
            _record(sql, number, f"usr_{number % 3}")

    await database.write(many)
    async with recording(store), relaying(OutboxRelay(SqlOutbox(database), store.notices)):
        events = await _all_arrived(store, database, count)
    assert _numbers(events) == list(range(count))


async def test_events_of_a_subject_are_in_the_order_of_the_commits(
    store: Store, database: Database
) -> None:
    """The row is numbered behind the lock on the subject's row, whoever waits for it."""
    locked = threading.Event()

    def first(sql: Session) -> None:
        row = sql.get(RevocationCounterRow, 1, with_for_update=True)
        assert row is not None
        locked.set()
        deadline = time.monotonic() + 1.5
        # SQLite does not even let the second one begin.
        while not database.is_sqlite and not sql.scalar(WAITING) and time.monotonic() < deadline:
            pass
        row.position += 1
        _record(sql, 1)

    def second(sql: Session) -> None:
        row = sql.get(RevocationCounterRow, 1)
        assert row is not None
        # The ORM would write this behind the row of the outbox, which it got a number for.
        row.position = RevocationCounterRow.position + 1
        _record(sql, 2)

    holder = asyncio.create_task(database.write(first))
    await asyncio.to_thread(locked.wait, 5)
    await asyncio.gather(holder, database.write(second))
    async with recording(store), relaying(OutboxRelay(SqlOutbox(database), store.notices)):
        assert _numbers(await _all_arrived(store, database, 2)) == [1, 2]


async def test_a_commit_wakes_the_relay(store: Store, sqlite: Database) -> None:
    """On the node that committed nobody waits for the next look."""
    outbox = SqlOutbox(sqlite)
    relay = OutboxRelay(outbox, store.notices, poll_seconds=3600)
    outbox.on_commit(relay.wake)
    async with recording(store) as recorder, relaying(relay):
        await _write(sqlite, 1)
        await recorder.until(1)
        await _write(sqlite, 2)
        await recorder.until(2)
        silent = asyncio.Event()
        outbox.on_commit(silent.set)
        await sqlite.write(lambda sql: sql.execute(update(RevocationCounterRow).values(position=7)))
        await asyncio.sleep(0)
        assert not silent.is_set(), "a commit without events wakes nobody"


async def test_what_another_node_commits_is_found(store: Store, sqlite: Database) -> None:
    """Nobody told this node; it looks twice a second."""
    relay = OutboxRelay(SqlOutbox(sqlite), store.notices, poll_seconds=POLL_SECONDS)
    async with recording(store) as recorder, relaying(relay):
        for number in range(3):
            await _write(sqlite, number)
            await recorder.until(number + 1)


class Failing:
    """A port whose chosen method dies at its n-th call, before or after it did its work."""

    def __init__(self, inner: Any, method: str, call: int, *, after: bool) -> None:
        self._inner = inner
        self._method = method
        self._call = call
        self._after = after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name != self._method:
            return method

        async def run(*args: Any, **kwargs: Any) -> Any:
            self._call -= 1
            if self._call == 0 and not self._after:
                raise Unavailable(reason="killed")
            result = await method(*args, **kwargs)
            if self._call == 0:
                raise Unavailable(reason="killed")
            return result

        return run


STEPS = [("read", 1), ("put", 1), ("put", 3), ("put", 5), ("delete", 1), ("clear", 1), ("clear", 2)]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("step", "call"), STEPS, ids=[f"{step}-{call}" for step, call in STEPS])
async def test_a_kill_between_any_two_steps_neither_loses_nor_doubles(
    store: Store,
    sqlite: Database,
    step: str,
    call: int,
    after: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """The next holder of the duty repeats what is not known to have happened."""
    await _write(sqlite, 1, 2, 3, 4, 5)
    outbox, notices = SqlOutbox(sqlite), store.notices
    dying = OutboxRelay(
        Failing(outbox, step, call, after=after),
        Failing(notices, step, call, after=after),
        poll_seconds=POLL_SECONDS,
    )
    async with recording(store):
        with pytest.raises(Unavailable):
            await asyncio.wait_for(dying.work(1), 10)
        await _write(sqlite, 6)
        async with relaying(OutboxRelay(outbox, notices, poll_seconds=POLL_SECONDS), term=2):
            events = await _all_arrived(store, sqlite, 6)
    assert _numbers(events) == [1, 2, 3, 4, 5, 6]


class Paused:
    """An outbox whose reader is stopped behind its first read, as a process can be."""

    def __init__(self, inner: SqlOutbox) -> None:
        self._inner = inner
        self.has_read, self.goes_on = asyncio.Event(), asyncio.Event()
        self.delete = inner.delete

    async def read(self, *, limit: int) -> Sequence[Recorded]:
        """As the port says, and then nothing for a while."""
        entries = await self._inner.read(limit=limit)
        self.has_read.set()
        await self.goes_on.wait()
        return entries


async def test_a_holder_that_wakes_up_late_does_no_harm(store: Store, sqlite: Database) -> None:
    """Its rows are in the log and gone, and their positions in SQLite belong to others by then."""
    await _write(sqlite, 1, 2)
    outbox = SqlOutbox(sqlite)
    paused = Paused(outbox)
    async with recording(store):
        late = asyncio.create_task(OutboxRelay(paused, store.notices).work(1))
        await paused.has_read.wait()
        async with relaying(OutboxRelay(outbox, store.notices, poll_seconds=POLL_SECONDS), term=2):
            await _all_arrived(store, sqlite, 2)
        await _write(sqlite, 3, 4)
        deleted = asyncio.Event()
        paused.delete = _told(outbox.delete, deleted)
        paused.goes_on.set()
        await asyncio.wait_for(deleted.wait(), 10)
        await cancel_and_wait(late)
        assert await _rows(sqlite) == 2
        async with relaying(OutboxRelay(outbox, store.notices, poll_seconds=POLL_SECONDS), term=3):
            assert _numbers(await _all_arrived(store, sqlite, 4)) == [1, 2, 3, 4]


def _told(method: Callable[..., Awaitable[None]], done: asyncio.Event) -> Any:
    async def run(*args: Any) -> None:
        await method(*args)
        done.set()

    return run


class Switched:
    """A port that can be out of order."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.is_down = True
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        async def run(*args: Any, **kwargs: Any) -> Any:
            self.asked += 1
            if self.is_down:
                raise Unavailable(reason="down")
            return await getattr(self._inner, name)(*args, **kwargs)

        return run


@pytest.mark.parametrize("which", ["sql", "mongodb"])
async def test_it_waits_for_a_database_that_is_down(
    store: Store, sqlite: Database, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The duty is taken up again until both answer; then everything arrives."""
    monkeypatch.setattr(duties, "RETRY_SECONDS", 0.01)
    outbox, notices = Switched(SqlOutbox(sqlite)), Switched(store.notices)
    broken, sound = (outbox, notices) if which == "sql" else (notices, outbox)
    sound.is_down = False
    relay = OutboxRelay(outbox, notices, poll_seconds=POLL_SECONDS)
    duty = Duty(DUTY, store.leadership, "node-1", relay.work)
    await _write(sqlite, 1, 2, 3)
    async with recording(store):
        duty.start()
        try:
            await found(lambda: _asked(broken, 3), bool, "it was tried again and again")
            assert await store.events.tail() == 0
            broken.is_down = False
            assert _numbers(await _all_arrived(store, sqlite, 3)) == [1, 2, 3]
        finally:
            await duty.stop()


async def _asked(port: Switched, times: int) -> bool:
    return port.asked >= times


async def test_notices_outlive_a_lost_history(store: Store, sqlite: Database) -> None:
    """What the stream no longer has is read from the notices, in their order, and nothing twice."""
    relay = OutboxRelay(SqlOutbox(sqlite), store.notices, poll_seconds=POLL_SECONDS)
    kept = [
        Recorded("usr_9:1", "user.created", "usr_9", datetime.now(UTC), 7, {}, "me", None, None)
    ]
    async with recording(store) as recorder:
        await store.notices.put(kept[0])
        await recorder.until(1)
    await store.database["events"].update_one({"_id": 1}, {"$set": {"token": {"_data": "zz"}}})
    await _write(sqlite, *range(1, 6))
    async with relaying(relay, term=2):
        await found(lambda: _is_empty(sqlite), bool, "the rows are notices")
    async with recording(store), relaying(relay, term=3):
        events = await _all_arrived(store, sqlite, 7)
    assert [event.type for event in events] == ["user.created", "log.reset", *["user.updated"] * 5]
    assert _numbers(events[2:]) == [1, 2, 3, 4, 5]


async def _is_empty(database: Database) -> bool:
    return await _rows(database) == 0


async def test_a_notice_stays_until_its_event_is_in_the_log(store: Store, sqlite: Database) -> None:
    """Nothing is taken away while nobody records."""
    relay = OutboxRelay(SqlOutbox(sqlite), store.notices, poll_seconds=POLL_SECONDS)
    await _write(sqlite, 1, 2, 3)
    async with relaying(relay):
        await found(lambda: _is_empty(sqlite), bool, "the rows are notices")
        assert await store.notices.clear(limit=2)
        assert await store.database["notices"].count_documents({}) == 3
        async with recording(store):
            assert len(await _all_arrived(store, sqlite, 3)) == 3
        assert not await store.notices.clear(limit=2)


@asynccontextmanager
async def _process(store: Store, sql_url: str, number: int) -> AsyncIterator[None]:
    """A process that relays and records, and is killed at the end of the block."""
    arguments = (store.uri, store.database.name, sql_url, f"node-{number}")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", relay_process.__name__, *arguments, cwd=ROOT
    )
    try:
        yield
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize(
    "kills", [1, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)
async def test_killed_processes_neither_lose_nor_double(
    store: Store, sqlite_url: str, sqlite: Database, kills: int
) -> None:
    """SIGKILL in the middle of work, again and again, while transactions go on."""
    written = 0
    dice = random.Random(kills)
    for number in range(kills):
        tail = await store.events.tail()
        async with _process(store, sqlite_url, number):
            stop_at = tail + dice.randint(1, 25)
            while (tail := await store.events.tail()) < stop_at:
                # Never without work, and no more than a test has time for.
                if written < tail + AHEAD:
                    await _write(sqlite, written)
                    written += 1
    # The duty is free when the lease of the killed one is over.
    await found(
        lambda: store.leadership.acquire(RECORDER, "node-0", 30.0), bool, "the duty is free"
    )
    relay = OutboxRelay(SqlOutbox(sqlite), store.notices, poll_seconds=POLL_SECONDS)
    async with recording(store, node_id="node-0"), relaying(relay, term=1000):
        assert _numbers(await _all_arrived(store, sqlite, written)) == list(range(written))
