"""The parts of `Idempotency-Key` that need no server: the key, the seed and the contract."""

from __future__ import annotations

import pytest
from tornado.httputil import HTTPHeaders

from server.contract import JSON
from server.idempotency import HEADER, SeededChoice, read_key
from tests.contracts import our_contract

CONTRACT = our_contract()
SUFFIX = "01m7zzcy9we6nrxfnm00kd253j"
# What makes many things, or one that only its receiver reads, has no one place to name.
PLACELESS = frozenset({"create_tasks", "send_message", "broadcast_message"})


@pytest.mark.parametrize(
    ("given", "key"),
    [("k", "k"), ('"k"', "k"), (r'"a\"b"', 'a"b'), (r'"a\\\"b"', r"a\"b"), ("a\\b", "a\\b")],
)
def test_key_is_read_in_both_forms(given: str, key: str) -> None:
    """The bare text as it is, a String without its quotes and escapes."""
    assert read_key(HTTPHeaders({HEADER: given})) == key


def test_no_key_is_none() -> None:
    """The header is optional."""
    assert read_key(HTTPHeaders()) is None


def test_one_seed_gives_the_same_each_time() -> None:
    """Identifiers in their order, and secrets; those of another nonce or key are others."""
    first, again = SeededChoice(SUFFIX, b"n", b"k"), SeededChoice(SUFFIX, b"n", b"k")
    assert [first.new_id("tsk") for _ in range(3)] == [again.new_id("tsk") for _ in range(3)]
    assert first.new_seed("key") == again.new_seed("key")
    entropies = {
        SeededChoice(SUFFIX, nonce, key).new_seed("key").entropy
        for nonce in (b"n", b"m")
        for key in (b"k", b"l")
    }
    assert len(entropies) == 4


def test_identifiers_of_one_kind_differ_and_grow() -> None:
    """The first one has the suffix of the seed."""
    choice = SeededChoice(SUFFIX, b"n", b"k")
    made = [choice.new_id("tsk") for _ in range(3)]
    assert made[0] == f"tsk_{SUFFIX}"
    assert made == sorted(set(made))
    assert choice.new_id("agt") == f"agt_{SUFFIX}"


def test_whatever_makes_something_takes_a_key() -> None:
    """Each answer with `Location` comes of an operation that is carried out once under a key."""
    for operation in CONTRACT.operations.values():
        makes = "Location" in operation.success.headers or operation.operation_id in PLACELESS
        assert operation.is_idempotent == makes, operation.operation_id
        if makes:
            assert HEADER in {one.name for one in operation.parameters if one.for_pipeline}
            assert {409, 422} <= operation.responses.keys()
            assert "Idempotency-Replayed" in operation.success.headers


def test_what_is_shown_once_is_marked() -> None:
    """A member whose description says so is a `password`, and is never kept."""
    schemas = CONTRACT.openapi["components"]["schemas"]
    for operation in (one for one in CONTRACT.operations.values() if one.is_idempotent):
        answer = operation.document["responses"][str(operation.success.status)]
        name = answer["content"][JSON]["schema"]["$ref"].rpartition("/")[2]
        shown_once = {
            member
            for member, schema in schemas[name]["properties"].items()
            if "Shown once" in schema.get("description", "")
        }
        assert operation.success.secret_members == shown_once, name
    marked = {
        name: one.success.secret_members
        for name, one in CONTRACT.operations.items()
        if one.is_idempotent and one.success.secret_members
    }
    assert marked == {
        "register_agent": {"api_key"},
        "create_api_key": {"api_key"},
        "rotate_api_key": {"api_key"},
        "create_signing_key": {"secret"},
    }
