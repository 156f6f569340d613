"""Log lines on MongoDB: numbered without holes, and told of once a second at most."""

from __future__ import annotations

import asyncio

import pytest

from hive import task_machine as machine
from hive.errors import LeaseLost
from hive.leases import LeaseProof
from tests.storage.store import ME, Store


def _lines(*messages: str) -> list[dict[str, str]]:
    return [{"level": "info", "message": message} for message in messages]


async def _append(store: Store, proof: LeaseProof, *messages: str) -> int:
    task = await store.logs.append(proof, _lines(*messages), ME, agent_id="agt_1")
    return task.log_count


async def test_lines_are_numbered_without_holes_by_many_writers(store: Store) -> None:
    """Thirty concurrent appends of one to three lines: 1, 2, 3 ... and each append in one piece."""
    task, proof = await store.running("agt_1")
    batches = [[f"{n}.{i}" for i in range(1 + n % 3)] for n in range(30)]
    counts = await asyncio.gather(*(_append(store, proof, *batch) for batch in batches))
    lines = await store.logs.read(task.task_id, after=0, limit=200)
    total = sum(len(batch) for batch in batches)
    assert [line.line for line in lines] == list(range(1, total + 1))
    assert max(counts) == total
    for batch in batches:
        first = next(line.line for line in lines if line.message == batch[0])
        assert [line.message for line in lines[first - 1 : first - 1 + len(batch)]] == batch


async def test_many_appends_within_a_second_are_one_event(store: Store) -> None:
    """The first is told at once, the others are held back and counted."""
    task, proof = await store.running("agt_1")
    for n in range(10):
        await _append(store, proof, str(n))
    document = await store.document(task.task_id)
    assert document["version"] == task.version + 1
    assert document["logs_held"] is True
    assert document["log_count"] == 10
    [event] = document["event"].values()
    assert (event["type"], event["data"]["log_count"]) == ("task.log", 1)


async def test_what_was_held_back_is_told_once_its_second_is_over(store: Store) -> None:
    """Not earlier, and not twice."""
    task, proof = await store.running("agt_1")
    await _append(store, proof, "told")
    await _append(store, proof, "held", "held")
    assert await store.sweeps.announce_logs(ME, limit=10) == 0
    await store.set_fields(task.task_id, {"logged_at": {"$subtract": ["$$NOW", 1100]}})
    assert await store.sweeps.announce_logs(ME, limit=10) == 1
    assert await store.sweeps.announce_logs(ME, limit=10) == 0
    [event] = (await store.document(task.task_id))["event"].values()
    assert (event["type"], event["data"]["log_count"]) == ("task.log", 3)


async def test_the_end_of_a_task_tells_what_was_held_back(store: Store) -> None:
    """No `task.log` follows the end; the end carries the count."""
    task, proof = await store.running("agt_1")
    await _append(store, proof, "told")
    await _append(store, proof, "held")
    await store.tasks.change(task.task_id, lambda t: machine.complete(t, proof, None), ME)
    await store.set_fields(task.task_id, {"logged_at": {"$subtract": ["$$NOW", 1100]}})
    assert await store.sweeps.announce_logs(ME, limit=10) == 0
    [event] = (await store.document(task.task_id))["event"].values()
    assert (event["type"], event["data"]["log_count"]) == ("task.completed", 2)


async def test_a_lost_lease_writes_no_line(store: Store) -> None:
    """Neither a line nor a number is spent."""
    task, proof = await store.running("agt_1")
    await store.tasks.change(task.task_id, lambda t: machine.expire(t, 0.0), ME)
    with pytest.raises(LeaseLost):
        await _append(store, proof, "late")
    assert await store.logs.read(task.task_id, after=0, limit=10) == []
    assert (await store.tasks.get(task.task_id)).log_count == 0


async def test_reading_gives_the_last_lines_or_those_behind_a_number(store: Store) -> None:
    """Ascending in both cases; numbers go on over attempts."""
    task, proof = await store.running("agt_1")
    await _append(store, proof, "1", "2", "3")
    await store.tasks.change(task.task_id, lambda t: machine.expire(t, 0.0), ME)
    again = await store.claim("agt_1")
    assert again is not None
    assert again.lease is not None
    await _append(store, LeaseProof(again.lease.lease_id, 2), "4", "5")

    async def read(after: int | None, limit: int) -> list[tuple[int, str, int]]:
        found = await store.logs.read(task.task_id, after=after, limit=limit)
        return [(line.line, line.message, line.attempt) for line in found]

    assert await read(None, 2) == [(4, "4", 2), (5, "5", 2)]
    assert await read(0, 2) == [(1, "1", 1), (2, "2", 1)]
    assert await read(3, 10) == [(4, "4", 2), (5, "5", 2)]
    assert await read(5, 10) == []
