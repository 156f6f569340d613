"""The hub: a ring, a log, and no hole between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from hive.errors import LogTrimmed, Unavailable
from hive.events import Event
from server.frames import control_frame, text_frame
from server.hub import Hub
from server.ring import Entry, Ring
from tests.realtime.fakes import FakeLog, event, payload_of


class Recorder:
    """A receiver and a listener that remember."""

    def __init__(self) -> None:
        self.seqs: list[int] = []
        self.heard: list[int] = []

    def deliver(self, entries: Sequence[Entry]) -> None:
        """Remember entries."""
        self.seqs += [entry.seq for entry in entries]

    def listen(self, events: Sequence[Event]) -> None:
        """Remember events."""
        self.heard += [event.seq for event in events]


def make_hub(log: FakeLog, **options: Any) -> tuple[Hub, Recorder]:
    """A hub with an attached receiver and a listener."""
    hub = Hub(log, **options)
    recorder = Recorder()
    hub.attach(recorder)
    hub.subscribe(recorder.listen)
    return hub, recorder


async def until(condition: Callable[[], object]) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - any condition, with a deadline
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_a_frame_has_the_header_of_its_length(size: int) -> None:
    """RFC 6455 has three forms; the payload is found again."""
    payload = b"x" * size
    assert payload_of(text_frame(payload)) == payload


def test_a_control_frame_leaves_none_out() -> None:
    """Absent, never null."""
    assert payload_of(control_frame("pong", t=None)) == b'{"type":"pong"}'


def test_the_ring_keeps_the_newest() -> None:
    """What is older is not there, and said to be not there."""
    ring = Ring(3, 10)
    for seq in range(11, 16):
        ring.append(Entry(event(seq)))
    assert (ring.first, ring.tail) == (13, 15)
    assert ring.read(11, 9) is None
    assert [entry.seq for entry in ring.read(12, 9) or ()] == [13, 14, 15]
    assert [entry.seq for entry in ring.read(12, 2) or ()] == [13, 14]
    assert ring.read(15, 9) == []


def test_the_ring_refuses_a_hole() -> None:
    """The hub has to heal first."""
    with pytest.raises(ValueError, match="expected seq 1, got 2"):
        Ring(3, 0).append(Entry(event(2)))


async def test_published_events_are_spread_once_and_in_order() -> None:
    """Repetitions and overlaps don't matter."""
    hub, recorder = make_hub(FakeLog())
    one, two, three = event(1), event(2), event(3)
    hub.publish([one])
    hub.publish([one, two])
    hub.publish([two])
    hub.publish([three])
    assert recorder.seqs == recorder.heard == [1, 2, 3]
    assert hub.tail == 3


async def test_the_hub_starts_behind_the_tail() -> None:
    """History is read on demand only."""
    log = FakeLog()
    for _ in range(3):
        log.append()
    hub, recorder = make_hub(log)
    await hub.start()
    hub.publish([log.append()])
    assert (hub.tail, recorder.seqs) == (4, [4])
    assert [entry.seq for entry in await hub.read(1)] == [2, 3, 4]
    await hub.stop()
    await hub.stop()


async def test_a_hole_is_healed_from_the_log_in_batches() -> None:
    """More than one batch is missing."""
    log = FakeLog()
    hub, recorder = make_hub(log, silence_seconds=60)
    await hub.start()
    for _ in range(1200):
        log.append()
    hub.publish([log.events[-1]])
    assert recorder.seqs == []
    await until(lambda: hub.tail == 1200)
    assert recorder.seqs == recorder.heard == list(range(1, 1201))
    await hub.stop()


async def test_an_outage_of_the_log_is_outlived() -> None:
    """The hub looks again, and nothing is lost."""
    log = FakeLog()
    hub, recorder = make_hub(log, silence_seconds=0.02)
    await hub.start()
    log.append()
    log.down = True
    await until(lambda: log.reads > 1)
    log.down = False
    await until(lambda: recorder.seqs == [1])
    await hub.stop()


async def test_an_unforeseen_fault_of_the_log_is_outlived(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The duty must not die silently."""
    log = FakeLog()
    hub, recorder = make_hub(log, silence_seconds=0.02)
    await hub.start()
    read, failed = log.read, asyncio.Event()

    async def fail(*_: Any, **__: Any) -> list[Event]:
        failed.set()
        raise ZeroDivisionError

    monkeypatch.setattr(log, "read", fail)
    log.append()
    await until(failed.is_set)
    monkeypatch.setattr(log, "read", read)
    await until(lambda: recorder.seqs == [1])
    await hub.stop()


async def test_reading_says_what_the_log_says() -> None:
    """Trimmed and unavailable go through to the connection, which knows what to do."""
    log = FakeLog()
    log.events = [event(seq) for seq in range(50, 60)]
    hub, _ = make_hub(log, ring_events=4)
    await hub.start()
    with pytest.raises(LogTrimmed):
        await hub.read(10)
    assert await hub.oldest() == 50
    log.down = True
    with pytest.raises(Unavailable):
        await hub.read(50)
    await hub.stop()


async def test_reading_from_the_log_does_not_run_ahead_of_the_tail() -> None:
    """What the hub has not spread yet comes live, not twice."""
    log = FakeLog()
    hub, _ = make_hub(log, ring_events=2, silence_seconds=60)
    await hub.start()
    for _ in range(6):
        hub.publish([log.append()])
    log.append()
    assert [entry.seq for entry in await hub.read(0)] == [1, 2, 3, 4, 5, 6]
    await hub.stop()


async def test_a_failing_listener_does_not_keep_events_from_others() -> None:
    """One duty's trouble is its own."""
    hub = Hub(FakeLog())
    hub.subscribe(lambda _: 1 / 0)  # type: ignore[arg-type]
    recorder = Recorder()
    hub.subscribe(recorder.listen)
    hub.publish([event(1)])
    assert recorder.heard == [1]


async def test_a_detached_receiver_hears_nothing() -> None:
    """Detaching twice is fine."""
    hub, recorder = make_hub(FakeLog())
    hub.detach(recorder)
    hub.detach(recorder)
    hub.publish([event(1)])
    assert recorder.seqs == []
