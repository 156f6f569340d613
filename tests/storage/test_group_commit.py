"""Writes that share a command: each is told of its own outcome, and of no other's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError, ExecutionTimeout

from hive import task_machine as machine
from hive.changes import Change
from hive.errors import SlotTaken, Unavailable
from hive.leases import LeaseProof, NewLease
from hive.raw_json import RawJson
from hive.submission import DuplicateTask
from hive.task_spec import Deduplication
from hive.tasks import Task, TaskStatus
from storage.mongo import group_commit
from storage.mongo.group_commit import GroupCommit
from tests.storage.store import ME, Store

AT_ONCE = 40


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many writes each command carried."""
    carried: list[int] = []
    carry_out = GroupCommit._carry_out

    async def counted(self: GroupCommit, group: Sequence[Any]) -> None:
        carried.append(len(group))
        await carry_out(self, group)

    monkeypatch.setattr(GroupCommit, "_carry_out", counted)
    return carried


async def test_what_comes_together_goes_out_together(store: Store, sizes: list[int]) -> None:
    """Forty submissions cost a few commands, and each gets its own task back."""
    made = await asyncio.gather(*(store.submit(name=f"n{n}") for n in range(AT_ONCE)))
    assert [task.spec.name for task in made] == [f"n{n}" for n in range(AT_ONCE)]
    assert {task.version for task in made} == {1}
    assert sum(sizes) == AT_ONCE
    assert len(sizes) < AT_ONCE / 4
    events = [(await store.document(task.task_id))["event"]["v1"]["id"] for task in made]
    assert events == [f"{task.task_id}:1" for task in made]


async def test_a_write_that_does_not_match_is_told_so(store: Store, sizes: list[int]) -> None:
    """Of a group in which every second task has changed meanwhile, the others are written."""
    made = [await store.submit(parameters=RawJson(b"1")) for _ in range(AT_ONCE)]
    for task in made[::2]:
        await store.tasks.change(task.task_id, machine.cancel, ME)
    sizes.clear()
    resources = store.tasks.resources
    saved = await asyncio.gather(
        *(
            resources.save(
                {"_id": task.task_id, "version": task.version}, Change("task.updated"), ME
            )
            for task in made
        )
    )
    assert max(sizes) > AT_ONCE / 2
    assert saved[::2] == [None] * (AT_ONCE // 2)
    assert [task.task_id for task in saved[1::2] if task] == [task.task_id for task in made[1::2]]
    assert {task.version for task in saved[1::2] if task} == {2}


async def test_a_failure_is_its_own_only(store: Store, sizes: list[int]) -> None:
    """One deduplication key among many submissions: one task has it, nobody else hears of it."""
    only_one = Deduplication("nightly")
    outcomes = await asyncio.gather(
        *(store.submit(deduplication=only_one if n % 4 == 0 else None) for n in range(AT_ONCE)),
        return_exceptions=True,
    )
    assert max(sizes) > 1
    assert all(isinstance(one, Task) for n, one in enumerate(outcomes) if n % 4)
    keyed = outcomes[::4]
    assert len([one for one in keyed if isinstance(one, Task)]) == 1
    assert all(isinstance(one, Task | DuplicateTask) for one in keyed)


async def test_of_two_writes_to_one_task_one_holds(store: Store, sizes: list[int]) -> None:
    """Also within a command: the second one finds another version."""
    tasks = [await store.submit() for _ in range(4)]
    sizes.clear()
    saved = await asyncio.gather(
        *(
            store.tasks.resources.save(
                {"_id": task.task_id, "version": 1}, Change("task.updated", {"reason": why}), ME
            )
            for why in ("one", "two", "three")
            for task in tasks
        )
    )
    assert [task is not None for task in saved].count(True) == len(tasks)
    assert {(await store.tasks.get(task.task_id)).version for task in tasks} == {2}


async def test_what_was_written_over_since_is_known_to_be_ours(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another write of the same task slips in before the group is read again."""
    tasks = [await store.submit() for _ in range(6)]
    await store.tasks.change(tasks[5].task_id, machine.cancel, ME)
    collection, resources = store.tasks.collection, store.tasks.resources
    bulk_write, group = collection.bulk_write, resources._group
    assert group is not None

    def write_of(task: Task, version: int) -> group_commit._Write:
        return group_commit._Write(
            {"_id": task.task_id, "version": version},
            resources._pipeline(Change("task.updated"), ME),
            upsert=False,
            weight=0,
            done=asyncio.get_running_loop().create_future(),
        )

    async def overtaken(*args: Any, **options: Any) -> Any:
        done = await bulk_write(*args, **options)
        await group._write_one(write_of(tasks[0], 2))
        return done

    monkeypatch.setattr(collection, "bulk_write", overtaken)
    outcomes = await group._write_all([write_of(task, 1) for task in tasks])
    assert [isinstance(one, dict) and one["version"] for one in outcomes] == [3, 2, 2, 2, 2, False]
    assert outcomes[5] is None


async def test_who_leaves_takes_nobody_along(store: Store) -> None:
    """A caller that is cancelled leaves its write to go on, and the others hear of theirs."""
    submitting = [asyncio.create_task(store.submit(name=f"n{n}")) for n in range(AT_ONCE)]
    await asyncio.sleep(0)
    for one in submitting[::3]:
        one.cancel()
    outcomes = await asyncio.gather(*submitting, return_exceptions=True)
    assert all(isinstance(one, Task) for n, one in enumerate(outcomes) if n % 3)
    assert await store.database["tasks"].count_documents({}) >= AT_ONCE * 2 // 3


async def test_what_concerns_all_is_told_to_all(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that does not answer: everybody is told that it is not known."""

    async def fails(*_: Any, **__: Any) -> Any:
        raise ExecutionTimeout("operation exceeded time limit", 50)

    monkeypatch.setattr(store.tasks.collection, "bulk_write", fails)
    monkeypatch.setattr(store.tasks.collection, "find_one_and_update", fails)
    outcomes = await asyncio.gather(
        *(store.submit() for _ in range(AT_ONCE)), return_exceptions=True
    )
    assert all(isinstance(one, Unavailable) for one in outcomes)


async def test_large_results_do_not_share_a_command(store: Store, sizes: list[int]) -> None:
    """A command has to end within the time of one operation: a mebibyte of results at most."""
    agents = [f"agt_{n}" for n in range(8)]
    running = [await store.running(agent) for agent in agents]
    sizes.clear()
    large = RawJson(b'"' + b"x" * 400_000 + b'"')

    async def complete(proof: LeaseProof) -> Task:
        return await store.tasks.change_leased(
            proof, lambda task: machine.complete(task, proof, large), ME, agent_id=None
        )

    ended = await asyncio.gather(*(complete(proof) for _, proof in running))
    assert {task.status for task in ended} == {TaskStatus.COMPLETED}
    assert max(sizes) <= 2


def _leases(store: Store, agent_id: str, *slots: int) -> list[NewLease]:
    return [NewLease(store.new("lse"), agent_id, slot, 30.0) for slot in slots]


async def test_many_leases_go_to_the_head_of_the_queue(store: Store) -> None:
    """The oldest tasks, one a lease, each with its first fence; fewer when there are fewer."""
    made = [await store.submit() for _ in range(5)]
    queue = store.tasks.queue
    first = await queue.claim_many(_leases(store, "agt_1", 1, 2, 3), [""], machine.start, ME)
    assert [task.task_id for task in first] == [task.task_id for task in made[:3]]
    assert [task.lease.slot for task in first if task.lease] == [1, 2, 3]
    assert {task.fence for task in first} == {1}
    rest = await queue.claim_many(_leases(store, "agt_2", 1, 2, 3), [""], machine.start, ME)
    assert [task.task_id for task in rest] == [task.task_id for task in made[3:]]
    assert await queue.claim_many(_leases(store, "agt_3", 1, 2), [""], machine.start, ME) == []


async def test_claimers_of_many_never_share_a_task(store: Store, mongodb_uri: str) -> None:
    """Ten agents claim six each out of forty tasks, at once: each task is leased once."""
    made = {(await store.submit()).task_id for _ in range(AT_ONCE)}
    claims = await asyncio.gather(
        *(
            store.tasks.queue.claim_many(
                _leases(store, f"agt_{n}", *range(1, 7)), [""], machine.start, ME
            )
            for n in range(10)
        ),
        return_exceptions=True,
    )
    claimed = [task.task_id for some in claims if isinstance(some, list) for task in some]
    assert sorted(claimed) == sorted(made)


async def test_a_lease_that_was_lost_before_it_was_read_is_nobodys(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that stood still reads what another one was granted since: it gives that to nobody."""
    made = [(await store.submit()).task_id for _ in range(6)]
    bulk_write = AsyncCollection.bulk_write
    stranger = {"lease_id": {"$concat": ["other ", "$_id"]}, "fence": 2}

    async def slow(self: AsyncCollection[Any], *args: Any, **named: Any) -> Any:
        result = await bulk_write(self, *args, **named)
        for task_id in made:
            if "lease" in await store.document(task_id):
                await store.set_fields(task_id, {"lease": stranger, "fence": 2})
        return result

    with monkeypatch.context() as patched:
        patched.setattr(AsyncCollection, "bulk_write", slow)
        leases = _leases(store, "agt_1", *range(1, 7))
        claimed = await store.tasks.queue.claim_many(leases, [""], machine.start, ME)
    assert claimed
    mine = {lease.lease_id for lease in leases}
    assert {task.lease.lease_id for task in claimed if task.lease} <= mine
    assert all(task.lease for task in claimed)


async def test_a_slot_in_use_costs_its_own_lease_only(store: Store) -> None:
    """The other leases get their tasks; with all slots in use the claimer is told."""
    await store.running("agt_1")
    for _ in range(3):
        await store.submit()
    queue = store.tasks.queue
    some = await queue.claim_many(_leases(store, "agt_1", 1, 2), [""], machine.start, ME)
    assert [task.lease.slot for task in some if task.lease] == [2]
    with pytest.raises(SlotTaken):
        await queue.claim_many(_leases(store, "agt_1", 1, 2), [""], machine.start, ME)


async def test_a_report_reads_nothing_that_this_node_knows(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a lease is one write; with an older view of the task it is read again."""
    _, proof = await store.running()
    other, second = await store.running()
    reads: list[str] = []
    find_leased = store.tasks.find_leased

    async def counted(*args: Any) -> Any:
        reads.append("read")
        return await find_leased(*args)

    monkeypatch.setattr(store.tasks, "find_leased", counted)
    assert (await store.complete(proof)).status is TaskStatus.COMPLETED
    assert reads == []
    # Another node asks it to stop: this one has not heard of it.
    await store.database["tasks"].update_one(
        {"_id": other.task_id}, {"$set": {"cancel_requested": True}, "$inc": {"version": 1}}
    )
    released = await store.tasks.change_leased(
        second, lambda task: machine.release(task, second, None), ME, agent_id=None
    )
    assert reads == ["read"]
    assert released.status is TaskStatus.CANCELLED


async def test_a_lease_of_somebody_else_is_not_known(store: Store) -> None:
    """What is remembered opens no way around the holder and the fence."""
    _, proof = await store.running("agt_1")
    known = store.tasks._known
    assert known.find(proof, "agt_1") is not None
    assert known.find(proof, None) is not None
    assert known.find(proof, "agt_2") is None
    assert known.find(type(proof)(proof.lease_id, proof.fence + 1), "agt_1") is None
    task = await store.complete(proof)
    assert known.find(proof_of_ended(task), None) is None


def proof_of_ended(task: Task) -> Any:
    """What the holder showed when the task ended."""
    assert task.ended_by is not None
    return task.ended_by


async def test_a_duplicate_key_is_what_a_single_write_raises(store: Store) -> None:
    """With its key pattern, which says which index it was."""
    await store.running("agt_1")
    queued = [await store.submit() for _ in range(4)]
    resources = store.tasks.resources
    outcomes = await asyncio.gather(
        *(
            resources.save({"_id": task.task_id, "version": 1}, machine.start(lease), ME)
            for task in queued
            for lease in _leases(store, "agt_1", 1)
        ),
        return_exceptions=True,
    )
    assert all(isinstance(one, DuplicateKeyError) for one in outcomes)
    patterns = [
        one.details["keyPattern"]
        for one in outcomes
        if isinstance(one, DuplicateKeyError) and one.details
    ]
    assert patterns == [{"lease.agent_id": 1, "lease.slot": 1}] * 4
