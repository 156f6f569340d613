"""The engine: documents in, compiled operations and messages out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hive.errors import NotFound
from hive.raw_json import RawJson
from server.contract import Contract, ContractError, ContractMismatch
from server.documents import load_yaml
from server.json_body import MalformedJson
from tests.contract.running import FIXTURES
from tests.contracts import our_contract

NO_QUERY: dict[str, list[str]] = {}


def _list(small: Contract, **query: Any) -> dict[str, Any]:
    operation = small.operations["list_things"]
    return operation.read_parameters({}, {k.rstrip("_"): v for k, v in query.items()}, NO_QUERY)


def test_operations_say_what_they_need(small: Contract) -> None:
    """Everything that the pipeline asks is on the operation."""
    operation = small.operations["create_thing"]
    assert (operation.method, operation.path) == ("POST", "/things")
    assert operation.permission == "tasks:write"
    assert operation.body is not None
    assert operation.body.required
    assert operation.body.raw_members == {"parameters"}
    assert operation.success.status == 201
    assert operation.argument_names == {"body"}
    assert small.operations["get_open"].public
    assert operation.extensions["x-permission"] == "tasks:write"


def test_parameters_take_their_types_and_defaults(small: Contract) -> None:
    """Texts become what the contract declares; what did not come is the default or None."""
    assert _list(small) == {
        "limit": 50,
        "ratio": None,
        "deep": False,
        "kind": None,
        "tag": None,
        "ids": None,
        "from_": None,
        "idempotency_key": None,
    }
    arguments = _list(
        small,
        limit=["200"],
        ratio=["1.5"],
        deep=["true"],
        kind=["small"],
        tag=["a", "b,c"],
        ids=["1,-2"],
        from_=["2026-11-21T09:00:00Z"],
    )
    assert arguments["limit"] == 200
    assert arguments["ratio"] == 1.5
    assert arguments["deep"] is True
    assert arguments["tag"] == ["a", "b,c"]
    assert arguments["ids"] == [1, -2]


def test_header_parameters_are_read(small: Contract) -> None:
    """A header is a parameter like any other; its name is case-insensitive."""
    operation = small.operations["list_things"]
    arguments = operation.read_parameters({}, {}, {"idempotency-key": ["k"]})
    assert arguments["idempotency_key"] == "k"
    with pytest.raises(ContractMismatch):
        operation.read_parameters({}, {}, {"idempotency-key": ["k" * 17]})


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        *(
            ("limit", [text])
            for text in (
                "1.0", "+1", "1_0", " 1", "1 ", "", "01", "-0", "0x1", "1e1", "\u0661", "0", "201",
                "-1", "9" * 19, "9" * 5000, "NaN", "true", '{"$gt":""}', "[1]",
            )
        ),
        *(("ratio", [text]) for text in ("nan", "inf", "1e999", ".5", "1.", "+1", "-1", "1_0", "")),
        *(("deep", [text]) for text in ("True", "1", "0", "yes", "", "on", "TRUE")),
        *(("kind", [text]) for text in ("Small", "", "small ", "medium", '{"$ne":null}')),
        ("limit", ["1", "2"]),
        ("kind", ["small", "small"]),
        ("ids", ["1", "2"]),
        ("ids", ["1,,2"]),
        ("ids", ["1,2,3,4"]),
        ("tag", ["a", "b", "c", "d"]),
        ("tag", ["123456789"]),
        ("from_", ["yesterday"]),
        ("from_", ["2026-13-01T00:00:00Z"]),
        ("limit[$gt]", ["1"]),
        ("$where", ["1"]),
        ("LIMIT", ["1"]),
        ("", [""]),
    ],
)  # fmt: skip
def test_texts_that_are_not_of_the_type_are_refused(
    small: Contract, name: str, texts: list[str]
) -> None:
    """Nothing is guessed, nothing unknown is ignored, no text is quoted at length."""
    with pytest.raises(ContractMismatch) as refusal:
        _list(small, **{name: texts})
    (error,) = refusal.value.errors
    assert error["parameter"] == name.rstrip("_")[:64]
    assert all(len(value) <= 200 for value in error.values())


def test_a_path_parameter_that_can_name_nothing_is_not_found(small: Contract) -> None:
    """An identifier that breaks the schema is unknown, as any other."""
    with pytest.raises(NotFound):
        small.operations["get_thing"].read_parameters({"thing_id": "x" * 65}, {}, {})


def test_errors_are_bounded_in_number(small: Contract) -> None:
    """A hundred unknown parameters give sixteen errors."""
    with pytest.raises(ContractMismatch) as refusal:
        _list(small, **{f"x{n}" * 100: ["1"] for n in range(100)})
    assert len(refusal.value.errors) == 16
    assert all(len(error["parameter"]) <= 64 for error in refusal.value.errors)


def test_typed_parameters_are_checked_without_reading_text(small: Contract) -> None:
    """A command over WebSocket brings values, not texts; they are held to the same schemas."""
    operation = small.operations["list_things"]
    assert operation.check_parameters({"limit": 7, "from": "2026-11-21T09:00:00Z"})["limit"] == 7
    for given in ({"limit": "7"}, {"limit": 7.0}, {"limit": True}, {"nope": 1}, {"kind": None}):
        with pytest.raises(ContractMismatch):
            operation.check_parameters(given)
    with pytest.raises(ContractMismatch):
        small.operations["get_thing"].check_parameters({})


def test_body_errors_point_to_their_places(small: Contract) -> None:
    """Each error has a JSON Pointer; values and long keys are not echoed."""
    encoded = (
        b'{"name":{"$gt":""},"size":1.0,"flag":"true","kind":"huge","when":"x",'
        b'"parts":[{"weight":1},{}],"labels":{"$a":"b"},"a/b~c":1}'
    )
    with pytest.raises(ContractMismatch) as refusal:
        small.operations["create_thing"].read_body(encoded)
    places = {error["pointer"] for error in refusal.value.errors}
    assert places == {"/name", "/size", "/flag", "/kind", "/when", "/parts/1", "/labels", ""}
    assert "$gt" not in str(refusal.value.errors)


def test_a_hostile_body_is_not_echoed(small: Contract) -> None:
    """A key of a hundred kilobytes makes a problem of less than a kilobyte."""
    with pytest.raises(ContractMismatch) as refusal:
        small.operations["create_thing"].read_body(b'{"name":"n","' + b"k" * 100_000 + b'":1}')
    assert len(str(refusal.value.errors)) < 1000


def test_raw_members_of_a_body_stay_bytes(small: Contract) -> None:
    """The handler gets the members that are declared free-form as they came."""
    body = small.operations["create_thing"].read_body(b'{"parameters": [1e5 ,9.0],"name":"n"}')
    assert body == {"name": "n", "parameters": RawJson(b"[1e5 ,9.0]")}


def test_malformed_json_is_told_from_a_mismatch(small: Contract) -> None:
    """Both are 400, under different codes."""
    with pytest.raises(MalformedJson):
        small.operations["create_thing"].read_body(b'{"name":NaN}')


def test_messages_validate_payloads_across_documents(small: Contract) -> None:
    """A payload may refer into openapi.yaml; a message knows its channels."""
    assert set(small.messages) == {"ping", "created"}
    created = small.messages["created"]
    assert created.channels == {"live"}
    thing = {"thing_id": "t", "name": "n", "created_at": "2026-11-21T09:00:00.000Z"}
    assert created.payload.is_valid({"type": "thing.created", "data": thing})
    assert not created.payload.is_valid({"type": "thing.created", "data": {}})
    assert created.payload.errors({"type": "thing.created", "data": thing | {"name": 1}}) == [
        ("/data/name", 'The value is not of type "string"')
    ]
    ping = small.messages["ping"]
    assert not ping.payload.is_valid({"type": "ping", "more": 1})
    assert all(ping.payload.is_valid(example) for example in ping.examples)


def test_documents_are_served_byte_for_byte(small: Contract) -> None:
    """The YAML as it is in the file; the JSON says the same."""
    assert small.read("openapi.yaml") == (FIXTURES / "openapi.yaml").read_bytes()
    assert load_yaml(small.read("openapi.json")) == load_yaml(small.read("openapi.yaml"))
    with pytest.raises(KeyError):
        small.read("../secret")


def test_yaml_means_what_yaml_1_2_means() -> None:
    """`no` and a date are strings; a merge key merges."""
    document = load_yaml(
        b"a: no\nb: 2026-11-21\nc: 012\nd: 1:30\ne: ~\nf: 1.5\ng: -3\nh: true\n"
        b"base: &base {x: 1}\nmore: {<<: *base, y: on}\n"
    )
    assert document == {
        "a": "no", "b": "2026-11-21", "c": "012", "d": "1:30", "e": None, "f": 1.5, "g": -3,
        "h": True, "base": {"x": 1}, "more": {"x": 1, "y": "on"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("operationId: get_thing\n", "operationId: delete_thing\n", "delete_thing stands twice"),
        ("      operationId: get_open\n", "", "GET /open has no operationId"),
        ("schemas/ThingCreate'}", "schemas/Nothing'}", "Nothing"),
        ("schema: {$ref: '#/components/schemas/Kind'}", "schema: {}", "kind"),
        ("explode: false,", "style: pipeDelimited,", "ids: style pipeDelimited"),
        ("maxLength: 40", "pattern: '(?=a)'", "ThingCreate/properties/name/pattern"),
        ("'201': {$ref", "'301': {$ref", "create_thing declares no success"),
        ("openapi: 3.0.3", "openapi: 3.1.0", "not OpenAPI 3.0"),
        ("title: Small, version", "title: Small, title: Small, version", "title"),
        ("{type: array, maxItems: 3, items: {type: integer}}", "{type: object}", "ids"),
    ],
)
def test_a_document_that_cannot_be_served_is_refused_by_name(
    tmp_path: Path, old: str, new: str, named: str
) -> None:
    """Start-up stops with a message that says where."""
    text = (FIXTURES / "openapi.yaml").read_text("utf-8")
    assert old in text
    (tmp_path / "openapi.yaml").write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(ContractError, match=r".") as refusal:
        Contract.load(tmp_path / "openapi.yaml")
    assert named in str(refusal.value)


def test_every_problem_is_listed_at_once(tmp_path: Path) -> None:
    """An author mends all in one go."""
    text = (FIXTURES / "openapi.yaml").read_text("utf-8")
    text = text.replace("openapi: 3.0.3", "openapi: 3.1.0").replace("'201': {$ref", "'301': {$ref")
    (tmp_path / "openapi.yaml").write_text(text, "utf-8")
    with pytest.raises(ContractError) as refusal:
        Contract.load(tmp_path / "openapi.yaml")
    assert len(refusal.value.problems) == 2


def test_the_product_contracts_compile() -> None:
    """Every schema of both documents, every response included."""
    contract = our_contract()
    assert contract.operations.keys() >= {"list_agents", "create_task", "cancel_task"}
    assert contract.messages
