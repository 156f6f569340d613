"""Bar L2: whatever is done to a chain of audit records, the first wrong record is named."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from hive.audit import (
    ChainPoint,
    PointKind,
    canonical,
    chain,
    first_id_at,
    genesis,
    hash_of,
    kind_of,
    sign_point,
    time_ms_of,
    verify,
)
from tests.security.audit_chains import BOOT, KEY, TAMPERS, Records, make_chain, points_of

OTHER_KEY = b"o" * 32


def check_tampering(tamper: str, count: int, indices: Iterable[int]) -> None:
    """Tamper at each of the places, one at a time, and expect the right record to be named."""
    chance = random.Random(f"{tamper}:{count}")
    whole = make_chain(count)
    points = points_of(whole, 500, PointKind.END)
    assert verify(KEY, BOOT, whole, points) is None
    for index in indices:
        records = [dict(record) for record in whole]
        wrong = TAMPERS[tamper](records, index, chance)
        broken = verify(KEY, BOOT, records, points)
        assert broken is not None, f"{tamper} at record {index + 1} was not seen"
        assert broken.n == wrong, f"{tamper} at record {index + 1}: {broken}"


@pytest.mark.parametrize("tamper", TAMPERS)
def test_tampering_names_the_first_wrong_record(tamper: str) -> None:
    """At the first, the last and forty places between of a thousand records."""
    chance = random.Random(tamper)
    check_tampering(tamper, 1_000, [0, 999, *chance.sample(range(1_000), 40)])


@pytest.mark.soak
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("tamper", TAMPERS)
def test_tampering_anywhere_names_the_first_wrong_record(tamper: str) -> None:
    """At each of ten thousand records."""
    check_tampering(tamper, 10_000, range(10_000))


def rehash(records: Records, index: int) -> Records:
    """What somebody does who knows the format: all hashes behind the change are made anew."""
    before = records[index - 1]["hash"] if index else genesis(BOOT)
    changed = [dict(record) for record in records[index:]]
    changed[0]["actor"] = "usr_forged"
    return [*records[:index], *chain(changed, boot=BOOT, n=index, last_hash=before)]


def test_new_hashes_are_seen_at_the_next_checkpoint() -> None:
    """The break is named behind the last checkpoint that is right."""
    whole = make_chain(1_200)
    broken = verify(KEY, BOOT, rehash(whole, 700), points_of(whole, 500))
    assert broken is not None
    assert broken.n == 501
    assert "501 to 1000" in broken.problem


def test_a_record_of_another_past_is_named() -> None:
    """Right in itself and in its place, but it does not follow what is before it."""
    records = make_chain(10)
    (records[5],) = chain([dict(records[5])], boot=BOOT, n=5, last_hash="0" * 64)
    broken = verify(KEY, BOOT, records, [])
    assert broken is not None
    assert (broken.n, broken.problem) == (6, "it does not follow the record before it")


def test_a_record_behind_the_signed_end_is_named() -> None:
    """Whoever can compute hashes can add records, but not behind a signed end."""
    whole = make_chain(10)
    points = points_of(whole, 500, PointKind.END)
    added = chain([dict(whole[0])], boot=BOOT, n=10, last_hash=whole[-1]["hash"])
    broken = verify(KEY, BOOT, [*whole, *added], points)
    assert broken is not None
    assert (broken.n, broken.problem) == (11, "inserted: the chain was ended at record 10")


@pytest.mark.parametrize("left", [0, 1, 499, 999])
def test_a_cut_tail_is_seen_by_its_checkpoint(left: int) -> None:
    """Even when no record of the chain is left."""
    whole = make_chain(1_000)
    broken = verify(KEY, BOOT, whole[:left], points_of(whole, 500))
    assert broken is not None
    assert broken.n == left + 1
    assert "missing" in broken.problem


def test_a_checkpoint_of_another_key_is_named() -> None:
    """A signature that this server did not make proves nothing."""
    whole = make_chain(3)
    forged = sign_point(OTHER_KEY, PointKind.CHECKPOINT, BOOT, 3, whole[-1]["hash"])
    broken = verify(KEY, BOOT, whole, [forged])
    assert broken is not None
    assert (broken.n, broken.problem) == (3, "its checkpoint was not signed by this server")


def start_at(records: Records, n: int, kind: PointKind = PointKind.START) -> ChainPoint:
    """The starting point that retention leaves when it has taken the first `n` away."""
    return sign_point(KEY, kind, BOOT, n, records[n - 1]["hash"])


@pytest.mark.parametrize("left", [300, 250, 1])
def test_a_trimmed_chain_is_whole(left: int) -> None:
    """Also while retention has not yet taken everything that its start allows."""
    whole = make_chain(600)
    points = points_of(whole, 200)
    assert verify(KEY, BOOT, whole[left:], points, start_at(whole, 300)) is None


def test_a_checkpoint_is_no_start() -> None:
    """Else whoever finds an old checkpoint could pass it off as retention."""
    whole = make_chain(600)
    start = start_at(whole, 300, PointKind.CHECKPOINT)
    broken = verify(KEY, BOOT, whole[300:], points_of(whole, 200), start)
    assert broken is not None
    assert broken.problem == "the starting point was not signed by this server"


def test_a_cut_beginning_without_a_start_is_named() -> None:
    """Only a signed start explains missing records."""
    broken = verify(KEY, BOOT, make_chain(10)[4:], [])
    assert broken is not None
    assert (broken.n, broken.problem) == (1, "missing; the next one is 5")


def test_cut_behind_the_start_is_named() -> None:
    """A start explains what is before it and nothing else."""
    whole = make_chain(10)
    broken = verify(KEY, BOOT, whole[6:], [], start_at(whole, 5))
    assert broken is not None
    assert broken.n == 6


def test_remains_before_the_start_must_lead_to_it() -> None:
    """What retention has not yet taken can't be replaced meanwhile."""
    whole = make_chain(10)
    forged = chain([{"actor": "usr_forged"}], boot=BOOT, n=4, last_hash="0" * 64)
    broken = verify(KEY, BOOT, [*forged, *whole[5:]], [], start_at(whole, 5))
    assert broken is not None
    assert (broken.n, broken.problem) == (5, "it is not the record that retention stopped at")


def test_the_kind_of_a_point_is_signed() -> None:
    """Each kind verifies as itself only."""
    for kind in PointKind:
        assert kind_of(KEY, sign_point(KEY, kind, BOOT, 7, "ab")) is kind


def test_the_canonical_form_is_that_of_rfc_8785() -> None:
    """Sorted members, no spaces, UTF-8 as it is, the short escapes, shortest numbers."""
    record = {"z": 1, "a": 'ü"\n\x1f', "m": 3.25}
    assert canonical(record) == '{"a":"ü\\"\\n\\u001f","m":3.25,"z":1}'.encode()


def test_the_hash_covers_fields_that_nobody_knows() -> None:
    """A field that was added breaks it."""
    (record,) = make_chain(1)
    assert hash_of(record) == record["hash"]
    assert hash_of({**record, "note": "added"}) != record["hash"]


def test_identifiers_carry_the_time_of_their_call() -> None:
    """A filter by time is one by identifier."""
    (record,) = make_chain(1)
    made = time_ms_of(record["record_id"])
    assert first_id_at(made) <= record["record_id"] < first_id_at(made + 1)
