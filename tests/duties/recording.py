"""A recorder at work on a real change stream, and what must hold of the log that it writes."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from hive.duty_ports import ChangeFeed, LogWriter
from hive.events import Event
from hive.ports import EventFilter
from server.cancelling import cancel_and_wait
from server.recorder import DUTY, Recorder
from tests.servers import eventually
from tests.storage.store import Store


class Recording:
    """One recorder of one node: what it has published, and how its work ended."""

    def __init__(
        self,
        store: Store,
        *,
        node_id: str = "node-1",
        feed: ChangeFeed | None = None,
        writer: LogWriter | None = None,
        retention_days: float = 7.0,
    ) -> None:
        self.published: list[Event] = []
        self.on_publish: Callable[[Sequence[Event]], None] = lambda events: None
        self.recorder = Recorder(
            feed or store.feed,
            writer or store.events,
            store.leadership,
            self._publish,
            node_id=node_id,
            retention_days=retention_days,
        )
        self._store = store
        self._node_id = node_id
        self.task: asyncio.Task[None] | None = None

    def _publish(self, events: Sequence[Event]) -> None:
        self.on_publish(events)
        self.published += events

    async def start(self) -> None:
        """Take the duty and begin; returns once the stream is open."""
        term = await self._store.leadership.acquire(DUTY, self._node_id, 30.0)
        assert term is not None
        self.begin(term)
        await eventually(self._turns, "the stream is open")

    def begin(self, term: int) -> None:
        """Begin, whoever holds the duty."""
        self.recorder.last_turn = None
        self.task = asyncio.create_task(self.recorder.work(term))

    def _turns(self) -> bool:
        assert self.task is not None
        if self.task.done() and not self.task.cancelled():
            self.task.result()
        return self.recorder.last_turn is not None

    async def kill(self) -> None:
        """End as a kill would: nothing is saved on the way out."""
        await cancel_and_wait(self.task)

    async def until(self, events: int) -> None:
        """Wait until so many events were published since the beginning."""
        await eventually(lambda: len(self.published) >= events, f"{events} events are published")


@asynccontextmanager
async def recording(store: Store, **options: object) -> AsyncIterator[Recording]:
    """A recorder at work until the block ends."""
    recorder = Recording(store, **options)  # type: ignore[arg-type]
    await recorder.start()
    try:
        yield recorder
    finally:
        await recorder.kill()


async def whole_log(store: Store) -> list[Event]:
    """The log, after looking that it is dense, without repetition, and ordered per resource."""
    events = list(await store.events.read(EventFilter(), after=0, limit=10_000))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert len({event.id for event in events}) == len(events)
    versions: defaultdict[str, list[int]] = defaultdict(list)
    for event in events:
        versions[event.subject].append(int(event.id.rpartition(":")[2]))
    for subject, seen in versions.items():
        assert seen == sorted(seen), f"{subject} goes back: {seen}"
    return events


async def events_in_log(store: Store, wanted: int) -> list[Event]:
    """The whole log, once it has so many events."""
    tail = 0
    deadline = asyncio.get_running_loop().time() + 10
    while tail < wanted:
        assert asyncio.get_running_loop().time() < deadline, f"{tail} of {wanted} events"
        tail = await store.events.tail()
    return await whole_log(store)
