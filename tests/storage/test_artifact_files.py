"""The files behind artifacts: what a kill left goes, and nothing that can still be named."""

from __future__ import annotations

from functools import partial

import pytest

from hive import task_machine as machine
from hive.artifacts import NewArtifact
from hive.attaching import attach
from hive.leases import LeaseProof
from hive.tasks import Task
from server.retention import Retention
from storage.mongo import artifacts
from storage.mongo.artifacts import CHUNK_BYTES, CHUNKS, FILES, MongoArtifactFiles
from storage.mongo.retention import MongoOldData
from tests.storage.store import ME, Store

TASK_BYTES = 10 * CHUNK_BYTES


@pytest.fixture
async def files(store: Store) -> MongoArtifactFiles:
    """The adapter, with indexes and without files."""
    files = MongoArtifactFiles(store.database)
    await files.prepare()
    for name in (FILES, CHUNKS):
        await store.database[name].delete_many({})
    return files


async def name_file(store: Store, proof: LeaseProof, file_id: str, name: str = "a.bin") -> Task:
    """Have the task name the file; `sha256` is the identifier, so that no two are the same."""
    new = NewArtifact(name, file_id, 3, file_id)
    decide = partial(attach, proof=proof, new=new, most_bytes=TASK_BYTES)
    return await store.tasks.change_leased(proof, decide, ME, agent_id=None)


async def replaced(store: Store, files: MongoArtifactFiles, *, settled: bool = False) -> Task:
    """A task that names `art_2`, before that is settled; it named `art_1` before."""
    task, proof = await store.running()
    for file_id in ("art_1", "art_2"):
        await files.write(file_id, task.task_id, proof, b"abc")
        await name_file(store, proof, file_id)
        if settled and file_id == "art_1":
            await files.settle(task.task_id, file_id)
    return task


async def stored(store: Store) -> list[str]:
    """The files that are there; each has its chunks and no other chunks are."""
    files = sorted(await store.database[FILES].distinct("_id"))
    assert sorted(await store.database[CHUNKS].distinct("files_id")) == files
    return files


async def test_a_file_comes_back_in_pieces(store: Store, files: MongoArtifactFiles) -> None:
    """More than one batch of chunks; the last is short, and behind it is nothing."""
    task, proof = await store.running()
    content = bytes(range(256)) * (5 * CHUNK_BYTES // 256) + b"end"
    await files.write("art_1", task.task_id, proof, content)
    pieces = [await files.read("art_1", number) for number in range(7)]
    assert b"".join(piece for piece in pieces if piece) == content
    assert [piece and len(piece) for piece in pieces] == [CHUNK_BYTES] * 5 + [3, None]


async def test_a_file_that_was_never_named_goes_when_its_lease_is_over(
    store: Store, files: MongoArtifactFiles
) -> None:
    """As a kill between file and task leaves it: it stays while it could still be named."""
    task, proof = await store.running()
    await files.write("art_1", task.task_id, proof, b"abc")
    assert await files.sweep(limit=1) == 0
    assert await stored(store) == ["art_1"]
    await store.complete(proof)
    assert await files.sweep(limit=1) == 1
    assert await stored(store) == []


async def test_a_half_written_file_goes_too(store: Store, files: MongoArtifactFiles) -> None:
    """Its entry comes first."""
    task, proof = await store.running()
    await files.write("art_1", task.task_id, proof, bytes(6 * CHUNK_BYTES))
    await store.database[CHUNKS].delete_many({"n": {"$gte": 4}})
    await store.complete(proof)
    await files.sweep(limit=10)
    assert await stored(store) == []


async def test_pieces_that_came_after_the_sweep_go_with_a_later_one(
    store: Store, files: MongoArtifactFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sent them lost the lease meanwhile, and was killed; other files stay whole."""
    monkeypatch.setattr(artifacts, "PIECES_A_SWEEP", 3)
    task, proof = await store.running()
    for file_id in ("art_1", "art_3"):
        await files.write(file_id, task.task_id, proof, bytes(2 * CHUNK_BYTES))
    late = [{"files_id": f"art_{n}", "n": 16, "data": b"abc"} for n in (0, 2, 4)]
    await store.database[CHUNKS].insert_many(late)
    assert [await files.sweep(limit=10) for _ in range(4)] == [1, 1, 1, 0]
    assert await store.database[CHUNKS].distinct("files_id") == ["art_1", "art_3"]
    assert await store.database[CHUNKS].count_documents({}) == 4


async def test_the_sweep_ends_what_a_kill_behind_the_naming_left(
    store: Store, files: MongoArtifactFiles
) -> None:
    """The named file stays, the one that it replaced goes, and there is nothing to sweep again."""
    await replaced(store, files, settled=True)
    assert await stored(store) == ["art_1", "art_2"]
    assert await files.sweep(limit=10) == 1
    assert await stored(store) == ["art_2"]
    assert await files.sweep(limit=10) == 0
    assert await store.database[FILES].count_documents({"pending": True}) == 0


async def test_settling_leaves_what_others_are_sending(
    store: Store, files: MongoArtifactFiles
) -> None:
    """Another upload of the same lease is under way, and is named later."""
    task, proof = await store.running()
    for file_id in ("art_1", "art_2"):
        await files.write(file_id, task.task_id, proof, b"abc")
    await name_file(store, proof, "art_1")
    await files.settle(task.task_id, "art_1")
    assert await stored(store) == ["art_1", "art_2"]
    await name_file(store, proof, "art_2", "b.bin")
    await files.settle(task.task_id, "art_2")
    assert await stored(store) == ["art_1", "art_2"]


async def test_a_file_that_is_replaced_while_it_is_settled_goes(
    store: Store, files: MongoArtifactFiles
) -> None:
    """Its sender had looked before that, and finds nothing to delete: the other one does it."""
    task = await replaced(store, files)
    await store.database[FILES].update_one({"_id": "art_1"}, {"$set": {"told": True}})
    await files.settle(task.task_id, "art_2")
    assert await stored(store) == ["art_2"]
    assert await store.database[FILES].count_documents({"pending": True}) == 0


async def test_a_file_that_lost_its_name_meanwhile_goes_when_it_is_settled(
    store: Store, files: MongoArtifactFiles
) -> None:
    """Of two uploads of one name the later one counts, whichever is settled first."""
    task = await replaced(store, files)
    await files.settle(task.task_id, "art_2")
    await files.settle(task.task_id, "art_1")
    assert await stored(store) == ["art_2"]


async def test_retention_deletes_the_files_of_a_task(
    store: Store, files: MongoArtifactFiles
) -> None:
    """With the task, and not before; those of others stay."""
    task, proof = await store.running("agt_1")
    other, others_proof = await store.running("agt_2")
    for each, held, file_id in ((task, proof, "art_1"), (other, others_proof, "art_2")):
        await files.write(file_id, each.task_id, held, b"abc")
        await name_file(store, held, file_id)
        await files.settle(each.task_id, file_id)
    await store.complete(proof)
    old = MongoOldData(store.database, retired_seconds=0.0)
    await Retention(old, task_days=30).turn()
    assert await stored(store) == ["art_1", "art_2"]
    await store.set_fields(task.task_id, {"retired_at": {"$subtract": ["$$NOW", 1000]}})
    await store.set_fields(task.task_id, {"ended_at": {"$subtract": ["$retired_at", 1000]}})
    await Retention(old, task_days=30).turn()
    assert await stored(store) == ["art_2"]
    assert await store.database["tasks"].count_documents({"_id": task.task_id}) == 0


async def test_the_duty_sweeps_files(store: Store, files: MongoArtifactFiles) -> None:
    """Also where ended tasks are kept for ever; and files of a task that is gone."""
    task, proof = await store.running()
    await files.write("art_1", task.task_id, proof, b"abc")
    await store.tasks.change_leased(
        proof, lambda held: machine.release(held, proof, None), ME, agent_id=None
    )
    await files.write("art_2", "tsk_gone", proof, b"abc")
    await Retention(MongoOldData(store.database), task_days=0).turn()
    assert await stored(store) == []
