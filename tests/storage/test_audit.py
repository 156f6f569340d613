"""The audit log in MongoDB and its checkpoints in SQL: places, repeats, filters, ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from hive.audit import (
    AuditOutcome,
    AuditRecordNotFound,
    PointKind,
    chain,
    genesis,
    kind_of,
    sign_point,
    time_ms_of,
)
from hive.audit_ports import AuditFilter, RecordExists
from server.audit_retention import AuditRetention
from server.audit_verification import AuditVerification
from storage.mongo.audit import MongoAudit
from storage.mongo.client import Database as MongoDatabase
from storage.mongo.client import open_client, open_database
from storage.sql.audit_checkpoints import SqlCheckpoints
from storage.sql.database import Database
from tests.security.audit_chains import BOOT, KEY, make_chain, points_of

OTHER = "boo_01m7zzcy9we6nrxfnm00kd253w"


@pytest.fixture
async def mongo(mongodb_uri: str, database_name: str) -> AsyncIterator[MongoDatabase]:
    """A database of the test's own."""
    client = open_client(mongodb_uri)
    yield open_database(client, database_name)
    await client.close()


@pytest.fixture
async def audit(mongo: MongoDatabase) -> MongoAudit:
    """An empty audit log."""
    log = MongoAudit(mongo)
    await log.prepare()
    return log


@pytest.fixture
async def checkpoints(tmp_path: Path) -> AsyncIterator[SqlCheckpoints]:
    """No checkpoints."""
    database = Database(f"sqlite:///{tmp_path / 'identities.sqlite3'}")
    database.migrate()
    yield SqlCheckpoints(database)
    database.close()


async def test_records_come_back_as_they_were(audit: MongoAudit) -> None:
    """Each field, and a hash that still fits."""
    records = make_chain(5)
    await audit.append(records)
    assert [dict(one) async for one in audit.records(BOOT)] == records
    assert await audit.get(records[2]["record_id"]) == records[2]
    with pytest.raises(AuditRecordNotFound):
        await audit.get("aud_nobody")


async def test_append_again_adds_nothing(audit: MongoAudit) -> None:
    """A batch of which the outcome was unknown, with and without new records behind it."""
    records = make_chain(6)
    await audit.append(records[:3])
    await audit.append(records[:3])
    await audit.append(records)
    assert [dict(one) async for one in audit.records(BOOT)] == records


async def test_append_tells_which_call_has_its_record_elsewhere(audit: MongoAudit) -> None:
    """Those before it are kept, those behind it are not: their place depends on it."""
    records = make_chain(4)
    (elsewhere,) = chain([dict(records[2])], boot=OTHER, n=0, last_hash=genesis(OTHER))
    await audit.append([elsewhere])
    with pytest.raises(RecordExists) as raised:
        await audit.append(records)
    assert raised.value.index == 2
    assert [one["n"] async for one in audit.records(BOOT)] == [1, 2]


async def test_missing_names_calls_without_a_record(audit: MongoAudit) -> None:
    """Of those that are asked for."""
    records = make_chain(2)
    await audit.append(records)
    assert await audit.missing([records[0]["record_id"], "aud_lost"]) == {"aud_lost"}


async def test_list_filters_and_pages_newest_first(audit: MongoAudit) -> None:
    """Each filter alone, two together, and a page behind an identifier."""
    records = make_chain(9)
    for number, record in enumerate(records):
        record["actor"] = f"usr_{number % 3}"
        record["outcome"] = "refused" if number == 4 else "success"
    await audit.append(records)
    ids = [record["record_id"] for record in reversed(records)]

    async def listed(**fields: Any) -> list[str]:
        found = await audit.list(AuditFilter(**fields), before=None, limit=100)
        return [record["record_id"] for record in found]

    assert await listed() == sorted(ids, reverse=True)
    assert set(await listed(actor="usr_1")) == {records[n]["record_id"] for n in (1, 4, 7)}
    assert await listed(outcome=AuditOutcome.REFUSED) == [records[4]["record_id"]]
    assert await listed(outcome=AuditOutcome.REFUSED, actor="usr_0") == []
    middle = datetime.fromtimestamp(time_ms_of(ids[4]) / 1000, UTC)
    later, earlier = await listed(since=middle), await listed(until=middle)
    assert sorted(later + earlier) == sorted(ids)
    assert ids[4] in later
    page = await audit.list(AuditFilter(), before=sorted(ids)[4], limit=2)
    assert [record["record_id"] for record in page] == sorted(ids)[3:1:-1]


async def test_export_goes_along_the_chains(audit: MongoAudit) -> None:
    """One chain behind the other, each in its order, from any place."""
    await audit.append(make_chain(3, OTHER))
    await audit.append(make_chain(3))
    found = await audit.export(AuditFilter(), after=None, limit=10)
    assert [(one["boot"], one["n"]) for one in found] == [
        (boot, n) for boot in (BOOT, OTHER) for n in (1, 2, 3)
    ]
    rest = await audit.export(AuditFilter(), after=(BOOT, 2), limit=2)
    assert [(one["boot"], one["n"]) for one in rest] == [(BOOT, 3), (OTHER, 1)]


async def test_boots_are_those_noted_and_those_with_records(audit: MongoAudit) -> None:
    """A chain does not vanish because its note was taken away."""
    await audit.open_boot(OTHER, "nod_1")
    await audit.append(make_chain(2))
    assert [(one.boot, one.node_id) for one in await audit.boots()] == [
        (BOOT, None),
        (OTHER, "nod_1"),
    ]
    assert (await audit.last(BOOT) or {})["n"] == 2
    assert await audit.last(OTHER) is None


async def test_checkpoints_come_back_as_they_were(checkpoints: SqlCheckpoints) -> None:
    """In order, in pages, with signatures that still verify; a later one replaces."""
    points = points_of(make_chain(30), 10, PointKind.END)
    for point in (*points_of(make_chain(30), 10), *points):
        await checkpoints.add(point)
    found = await checkpoints.page(BOOT, after=0, limit=2)
    assert [point.n for point in found] == [10, 20]
    assert all(kind_of(KEY, point) is PointKind.CHECKPOINT for point in found)
    last = await checkpoints.last(BOOT)
    assert last == points[-1]
    assert last is not None
    assert kind_of(KEY, last) is PointKind.END
    assert await checkpoints.boots() == [BOOT]
    await checkpoints.delete(BOOT, below=20)
    assert [point.n for point in await checkpoints.page(BOOT, after=0, limit=9)] == [20, 30]
    await checkpoints.delete(BOOT)
    assert await checkpoints.boots() == []


async def _breaks(audit: MongoAudit, checkpoints: SqlCheckpoints) -> list[tuple[str, int]]:
    verdict = await AuditVerification(audit, checkpoints, KEY).run()
    return [(one.boot, one.n) for one in verdict.breaks]


async def test_verification_of_the_stores(
    audit: MongoAudit, mongo: MongoDatabase, checkpoints: SqlCheckpoints
) -> None:
    """Whole; with one field changed; with the tail cut off; with something that is in no chain."""
    records = make_chain(1_200)
    await audit.append(records)
    await audit.append(make_chain(3, OTHER))
    for point in points_of(records, 500):
        await checkpoints.add(point)
    verdict = await AuditVerification(audit, checkpoints, KEY).run()
    assert (verdict.chains, verdict.records, verdict.checkpoints) == (2, 1_203, 2)
    assert verdict.breaks == []
    place = {"_id": {"boot": OTHER, "n": 2}}
    await mongo["audit"].update_one(place, {"$set": {"actor": "usr_other"}})
    assert await _breaks(audit, checkpoints) == [(OTHER, 2)]
    await mongo["audit"].delete_many({"_id.n": {"$gt": 990}})
    assert await _breaks(audit, checkpoints) == [(BOOT, 991), (OTHER, 2)]
    await mongo["audit"].delete_many({})
    await mongo["audit_boots"].delete_many({})
    assert await _breaks(audit, checkpoints) == [(BOOT, 1)]
    for stray in (ObjectId(), {"no": "chain"}, {"boot": 7, "n": 1}):
        await mongo["audit"].insert_one({"_id": stray, "record_id": str(stray)})
        assert ("none", 0) in await _breaks(audit, checkpoints), stray
        await mongo["audit"].delete_one({"_id": stray})


@pytest.mark.parametrize("n", [2.0, "2", None, 2.5])
async def test_a_number_that_is_none_does_not_hide(
    audit: MongoAudit, mongo: MongoDatabase, checkpoints: SqlCheckpoints, n: Any
) -> None:
    """A document whose number is of another type is found in its chain."""
    records = make_chain(3)
    await audit.append([records[0], records[2]])
    document = {**records[1], "_id": {"boot": BOOT, "n": n}}
    del document["boot"], document["n"]
    await mongo["audit"].insert_one(document)
    assert len(await _breaks(audit, checkpoints)) == 1


async def test_retention_leaves_a_chain_that_verifies(
    audit: MongoAudit, mongo: MongoDatabase, checkpoints: SqlCheckpoints
) -> None:
    """Old records go block by block, with their checkpoints; an empty old chain is forgotten."""
    old = [{**one, "record_id": f"aud_0{number:025d}"} for number, one in enumerate(make_chain(7))]
    entries = old + [dict(one) for one in make_chain(5)]
    records = chain(entries, boot=BOOT, n=0, last_hash=genesis(BOOT))
    await audit.append(records[:7])
    await audit.append(records[7:])
    for point in points_of(records, 3):
        await checkpoints.add(point)
    retention = AuditRetention(audit, checkpoints, KEY, days=90, boot=OTHER)
    assert await retention.turn() == 0, "the block has young ones in it"
    last = records[6]
    await audit.trim(sign_point(KEY, PointKind.START, BOOT, last["n"], last["hash"]))
    await checkpoints.delete(BOOT, below=7)
    assert [one["n"] async for one in audit.records(BOOT)] == [8, 9, 10, 11, 12]
    assert await _breaks(audit, checkpoints) == []
    await mongo["audit"].delete_one({"_id": {"boot": BOOT, "n": 8}})
    assert await _breaks(audit, checkpoints) == [(BOOT, 8)]


async def test_retention_takes_whole_old_chains(
    audit: MongoAudit, checkpoints: SqlCheckpoints
) -> None:
    """And the note of a chain, once nothing of it is left."""
    ancient = "boo_00000000000000000000000001"
    entries: list[dict[str, Any]] = [{"record_id": f"aud_0{number:025d}"} for number in range(600)]
    records = chain(entries, boot=ancient, n=0, last_hash=genesis(ancient))
    await audit.open_boot(ancient, "nod_1")
    await audit.append(records)
    for point in points_of(records, 200, PointKind.END):
        await checkpoints.add(point)
    assert await _breaks(audit, checkpoints) == []
    retention = AuditRetention(audit, checkpoints, KEY, days=90, boot=BOOT)
    assert await retention.turn() == 600
    assert await audit.boots() == []
    assert await checkpoints.boots() == []
    assert await _breaks(audit, checkpoints) == []
