"""Bar L1: without an audit store nothing is changed, reads are answered, and nothing gets lost."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hive.audit import verify
from hive.audit_ports import RecordExists
from hive.errors import Unavailable
from server.audit import Audit
from server.audit_checkpoints import CheckpointSigner
from server.audit_records import AuditRecords, CallIdentifiers, Entry
from server.audit_writer import AuditUnavailable, AuditWriter
from server.embedded import EmbeddedMongo
from server.pipeline import Call
from tests.api.running import RunningNode, found, running_node
from tests.security.audit_chains import BOOT, KEY
from tests.servers import eventually

IDENTIFIERS = CallIdentifiers("nod_1")


class FakeStore:
    """Keeps records in memory; does what the test says instead."""

    def __init__(self) -> None:
        self.records: list[Mapping[str, Any]] = []
        self.batches: list[int] = []
        self.problem: Exception | None = None
        self.keeps_before_problem = 0
        self.elsewhere: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.touched = 0

    async def touch_boot(self, boot: str) -> None:
        """Fail as `append` does."""
        self.touched += 1
        if self.problem is not None:
            raise self.problem

    async def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Keep them under their places."""
        await self.gate.wait()
        self.batches.append(len(records))
        kept = {record["n"] for record in self.records}
        if self.problem is not None:
            records = records[: self.keeps_before_problem]
        for index, record in enumerate(records):
            if record["n"] in kept:
                continue
            if record["record_id"] in self.elsewhere:
                raise RecordExists(index)
            self.records.append(record)
        if self.problem is not None:
            raise self.problem


class NoCheckpoints:
    """Checkpoints that nobody keeps."""

    def __init__(self) -> None:
        self.points: list[Any] = []

    async def add(self, point: Any) -> None:
        """Keep it here."""
        self.points.append(point)


@pytest.fixture
def store() -> FakeStore:
    """A store that is there."""
    return FakeStore()


@pytest.fixture
async def writer(store: FakeStore) -> AsyncIterator[AuditWriter]:
    """A writer of a chain, at work."""
    signer = CheckpointSigner(NoCheckpoints(), KEY, BOOT)  # type: ignore[arg-type]
    made = AuditWriter(store, AuditRecords(), signer, boot=BOOT, max_waiting=20)  # type: ignore[arg-type]
    made.start()
    yield made
    store.gate.set()
    await made.stop()


def entry() -> Entry:
    """A call that ended well."""
    call = Call(IDENTIFIERS.new(), f"req_{uuid.uuid4().hex}", "rest", "192.0.2.7", path="/x")
    return Entry(call, 200, None, time.monotonic())


async def test_records_that_come_together_share_a_batch(
    store: FakeStore, writer: AuditWriter
) -> None:
    """What comes while a batch is on its way goes into the next one."""
    store.gate.clear()
    waiting = [asyncio.create_task(writer.commit(entry()))]
    await eventually(lambda: store.gate._waiters, "the first batch is on its way")
    await asyncio.sleep(0)
    waiting += [asyncio.create_task(writer.commit(entry())) for _ in range(10)]
    await asyncio.sleep(0)
    store.gate.set()
    await asyncio.gather(*waiting)
    assert sum(store.batches) == 11
    assert len(store.batches) <= 2
    assert verify(KEY, BOOT, store.records, []) is None


async def test_an_unknown_outcome_is_repeated_under_the_same_places(
    store: FakeStore, writer: AuditWriter
) -> None:
    """Half of a batch was written when the answer was lost: none is missing, none is double."""
    store.problem, store.keeps_before_problem = Unavailable(), 2
    waiting = [asyncio.create_task(writer.commit(entry())) for _ in range(4)]
    told = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(one, AuditUnavailable) for one in told)
    with pytest.raises(AuditUnavailable):
        await writer.confirm()
    store.problem = None
    await eventually(lambda: len(store.records) == 4, "the batch is repeated")
    await eventually(lambda: not writer.is_down, "the store is known to be back")
    await writer.commit(entry())
    assert [record["n"] for record in store.records] == [1, 2, 3, 4, 5]
    assert verify(KEY, BOOT, store.records, []) is None


async def test_a_call_that_can_not_be_described_is_recorded_all_the_same(
    store: FakeStore, writer: AuditWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its record says little, those of its batch say everything, and somebody is told."""
    strange, plain = entry(), entry()
    strange.call.address = None  # type: ignore[assignment]
    await asyncio.gather(*(writer.commit(one) for one in (strange, plain)))
    bare, full = store.records
    assert (bare["record_id"], bare["status"]) == (strange.call.call_id, 200)
    assert "address" not in bare
    assert full["address"] == "192.0.2.7"
    assert verify(KEY, BOOT, store.records, []) is None
    assert "audit.not_described" in capsys.readouterr().out


async def test_a_call_that_has_its_record_elsewhere_leaves_no_hole(
    store: FakeStore, writer: AuditWriter
) -> None:
    """Another node completed it meanwhile: the chain goes on without it."""
    entries = [entry() for _ in range(4)]
    store.elsewhere = {entries[1].call.call_id}
    await asyncio.gather(*(writer.commit(one) for one in entries))
    assert [record["n"] for record in store.records] == [1, 2, 3]
    assert verify(KEY, BOOT, store.records, []) is None


async def test_without_room_calls_are_refused(store: FakeStore, writer: AuditWriter) -> None:
    """The bound holds, also for reads; what was taken is written when the store is back."""
    store.problem = Unavailable()
    for _ in range(20):
        writer.note(entry())
    with pytest.raises(AuditUnavailable):
        writer.note(entry())
    call = entry().call
    with pytest.raises(AuditUnavailable):
        await Audit(writer).admit(call)
    store.problem = None
    await eventually(lambda: len(store.records) == 20, "everything that was taken is written")
    await Audit(writer).admit(call)


async def test_confirm_asks_once_for_many_and_not_again_within_a_second(
    store: FakeStore, writer: AuditWriter
) -> None:
    """A rush of mutations costs one write."""
    await asyncio.gather(*(writer.confirm() for _ in range(20)))
    await writer.confirm()
    assert store.touched == 1


async def test_the_end_of_a_chain_is_signed(store: FakeStore) -> None:
    """A stop writes what waits and signs the end."""
    checkpoints = NoCheckpoints()
    signer = CheckpointSigner(checkpoints, KEY, BOOT)  # type: ignore[arg-type]
    writer = AuditWriter(store, AuditRecords(), signer, boot=BOOT)  # type: ignore[arg-type]
    writer.start()
    writer.note(entry())
    await writer.stop()
    assert [point.n for point in checkpoints.points] == [1]
    assert verify(KEY, BOOT, store.records, checkpoints.points) is None


async def test_many_records_are_signed_on_the_way(store: FakeStore) -> None:
    """A checkpoint comes before a thousand records are without one."""
    checkpoints = NoCheckpoints()
    signer = CheckpointSigner(checkpoints, KEY, BOOT)  # type: ignore[arg-type]
    writer = AuditWriter(store, AuditRecords(), signer, boot=BOOT)  # type: ignore[arg-type]
    writer.start()
    for _ in range(4):
        for _ in range(500):
            writer.note(entry())
        await writer.commit(entry())
        await asyncio.sleep(0)
    await writer.stop()
    numbers = [0, *(point.n for point in checkpoints.points)]
    assert max(later - one for one, later in itertools.pairwise(numbers)) < 1_000
    assert verify(KEY, BOOT, store.records, checkpoints.points) is None


@pytest.fixture
async def stopped_node(tmp_path: Path) -> AsyncIterator[tuple[RunningNode, EmbeddedMongo]]:
    """A node with a mongod of its own, which the test may stop."""
    mongo = EmbeddedMongo(tmp_path / "mongo", tmp_path / "mongod.log")
    uri = await mongo.start()
    try:
        async with running_node(tmp_path / "node", uri) as node:
            yield node, mongo
            assert mongo.pid is not None
            os.kill(mongo.pid, signal.SIGCONT)
            await found(
                node.node.services.readiness, lambda seen: seen["status"] == "ready", "ready", 30
            )
    finally:
        await mongo.stop()


async def test_without_the_audit_store_nothing_is_changed(
    stopped_node: tuple[RunningNode, EmbeddedMongo],
) -> None:
    """Mongod hangs: mutations of SQL are refused, reads of SQL are answered; then all is well."""
    node, mongo = stopped_node
    admin = await node.log_in("admin")
    keys = await admin.ok("GET", "/api/v1/api-keys")
    audit = node.node.app.pipeline.audit
    assert isinstance(audit, Audit)
    # What was written less than a second ago would still count.
    await eventually(
        lambda: time.monotonic() - audit._writer._confirmed_at > 1.0, "the last write is old"
    )
    assert mongo.pid is not None
    os.kill(mongo.pid, signal.SIGSTOP)
    began = time.monotonic()
    for number in range(5):
        problem = await admin.refused(
            503, "POST", "/api/v1/api-keys", json={"name": f"refused {number}"}
        )
        assert problem["code"] == "unavailable"
    credentials = {"username": "admin", "password": "wrong password"}
    await node.client().refused(503, "POST", "/api/v1/auth/login", json=credentials)
    assert time.monotonic() - began < 5, "only the first one waits for the store"
    assert await admin.ok("GET", "/api/v1/api-keys") == keys
    assert (await admin.get("/api/v1/auth/me")).status_code == 200
    os.kill(mongo.pid, signal.SIGCONT)
    made = await found(
        lambda: admin.post("/api/v1/api-keys", json={"name": "made"}),
        lambda answer: answer.status_code == 201,
        "mutations are let in again",
        20,
    )
    assert made.status_code == 201

    async def refused() -> list[dict[str, Any]]:
        path = "/api/v1/audit?operation=create_api_key&outcome=failed&limit=200"
        return list(await admin.ok("GET", path))

    records = await found(refused, lambda seen: len(seen) >= 5, "the refused ones are recorded")
    assert all(one["status"] == 503 and one["code"] == "unavailable" for one in records)
