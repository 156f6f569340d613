"""openapi.yaml keeps to its own rules: what every operation says, and how schemas are written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from openapi_spec_validator import validate

from hive.permissions import PERMISSIONS
from hive.rate_limits import CLASSES
from server.contract import JSON, Operation
from server.documents import Documents, load_yaml
from server.problems import PROBLEM_JSON
from server.referee import close_responses
from server.resources import openapi_path
from tests.contracts import our_contract

CONTRACT = our_contract()
DOCUMENT: Mapping[str, Any] = CONTRACT.openapi
OPERATIONS = [pytest.param(one, id=one.operation_id) for one in CONTRACT.operations.values()]
RATE_LIMITS = CLASSES
PLACES = {"x-raw-json", "x-key-pattern", "x-open-enum"}
Place = tuple[str | int, ...]


def examples_of(media: Mapping[str, Any]) -> list[Any]:
    """The one example, or all of those that have names."""
    if "example" in media:
        return [media["example"]]
    return [follow(example)["value"] for example in media["examples"].values()]


def follow(node: Any) -> Any:
    """What a `$ref` points to, or the node."""
    while isinstance(node, dict) and "$ref" in node:
        target: Any = DOCUMENT
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def schemas_in(node: Any, at: Place = ()) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """The schema and all in it that are written in place, not those that are referred to."""
    if not isinstance(node, dict):
        return
    yield at, node
    for name, member in node.get("properties", {}).items():
        yield from schemas_in(member, (*at, "properties", name))
    for keyword in ("items", "additionalProperties", "not"):
        yield from schemas_in(node.get(keyword), (*at, keyword))
    for keyword in ("allOf", "anyOf", "oneOf"):
        for index, member in enumerate(node.get(keyword, ())):
            yield from schemas_in(member, (*at, keyword, index))


def all_schemas() -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Every schema of the document, by where it stands."""
    for name, schema in DOCUMENT["components"]["schemas"].items():
        yield from schemas_in(schema, ("components", "schemas", name))
    for kind in ("parameters", "headers", "responses"):
        for name, declared in DOCUMENT["components"][kind].items():
            yield from schemas_of(declared, ("components", kind, name))
    for operation in CONTRACT.operations.values():
        document, where = operation.document, operation.operation_id
        declared = {f"parameter {n}": one for n, one in enumerate(document.get("parameters", ()))}
        declared |= {"body": document.get("requestBody", {}), **document["responses"]}
        for name, one in declared.items():
            yield from schemas_of(one, (where, name))


def schemas_of(declared: Mapping[str, Any], at: Place) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """The schemas of a parameter, a header, a body or an answer that is written in place."""
    yield from schemas_in(declared.get("schema"), at)
    for header in declared.get("headers", {}).values():
        yield from schemas_in(header.get("schema"), at)
    for media in declared.get("content", {}).values():
        yield from schemas_in(media["schema"], at)


def reached_from(schema: Any, seen: dict[int, Mapping[str, Any]] | None = None) -> list[Any]:
    """The schema and all that it uses, referred to or not."""
    seen = {} if seen is None else seen
    for _, one in schemas_in(follow(schema)):
        target = follow(one)
        if id(target) not in seen:
            seen[id(target)] = target
            reached_from(target, seen)
    return list(seen.values())


def body_schemas() -> list[Any]:
    """Every schema that a request body uses."""
    seen: dict[int, Mapping[str, Any]] = {}
    for operation in CONTRACT.operations.values():
        if operation.body is not None:
            reached_from(operation.document["requestBody"]["content"][JSON]["schema"], seen)
    return list(seen.values())


def test_document_is_openapi() -> None:
    """Another implementation accepts it as OpenAPI 3.0.3."""
    assert DOCUMENT["openapi"] == "3.0.3"
    validate(load_yaml(openapi_path().read_bytes()))


def test_info_is_that_of_the_requirements() -> None:
    """Licence, contact and terms."""
    info = DOCUMENT["info"]
    assert info["license"] == {"name": "MIT", "url": "https://opensource.org/licenses/MIT"}
    assert info["contact"] == {"name": "AgentZero Support", "email": "support@agentzero.com"}
    assert info["termsOfService"] == "https://agentzero.com/terms"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_names_its_handler(operation: Operation) -> None:
    """`operationId` is a function's name, and the one tag is its module."""
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", operation.operation_id)
    (tag,) = operation.document["tags"]
    assert operation.controller == f"handlers.{tag}"
    assert tag in {declared["name"] for declared in DOCUMENT["tags"] if declared["description"]}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_is_described(operation: Operation) -> None:
    """A summary that is a title, a description that is a sentence, and every parameter."""
    summary, description = operation.document["summary"], operation.document["description"]
    assert summary
    assert not summary.endswith(".")
    assert description.strip().endswith(".")
    item = DOCUMENT["paths"][operation.path]
    for given in (*item.get("parameters", ()), *operation.document.get("parameters", ())):
        assert follow(given)["description"].endswith(".")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_says_who_may_and_how_often(operation: Operation) -> None:
    """Either public or one known permission, and one known rate limit."""
    assert operation.extensions["x-rate-limit"] in RATE_LIMITS
    if operation.public:
        assert operation.document["security"] == []
        assert operation.permission is None
    else:
        assert "security" not in operation.document
        assert operation.permission in PERMISSIONS


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_declares_what_the_pipeline_can_answer(operation: Operation) -> None:
    """By what it takes; what handlers raise besides, the judged client of the API tests finds."""
    needed = {400, 500}
    if not operation.public:
        needed |= {401, 403, 503}
    if operation.body is not None:
        needed |= {413, 415}
    if any(parameter.location == "path" for parameter in operation.parameters):
        needed |= {404}
    assert needed <= operation.responses.keys()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_refusals_are_problems(operation: Operation) -> None:
    """Each is a problem+json of the shared schema, with the headers that HTTP asks for."""
    for status, given in operation.document["responses"].items():
        response = follow(given)
        if int(status) < 400 or (operation.operation_id == "get_readiness" and status == "503"):
            continue
        (media_type,) = response["content"]
        assert media_type == PROBLEM_JSON
        media = response["content"][media_type]
        assert media["schema"] == {"$ref": "#/components/schemas/Problem"}
        assert {example["status"] for example in examples_of(media)} == {int(status)}
        if status in ("401", "503"):
            header = {"401": "WWW-Authenticate", "503": "Retry-After"}[status]
            assert header in response["headers"]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_creation_says_where(operation: Operation) -> None:
    """201, and the receipt of a task, have `Location`; lists have `Link`, `limit`, `cursor`."""
    answer = operation.document["responses"][str(operation.success.status)]
    if operation.success.status == 201 or operation.operation_id == "create_task":
        assert "Location" in answer["headers"]
    if operation.method == "GET" and operation.operation_id.startswith("list_"):
        assert "Link" in answer["headers"]
        assert answer["content"][JSON]["schema"]["type"] == "array"
        assert {"limit", "cursor"} <= {parameter.name for parameter in operation.parameters}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_request_example_is_valid(operation: Operation) -> None:
    """A body has an example that the server itself takes; a path parameter has one, too."""
    for given in DOCUMENT["paths"][operation.path].get("parameters", ()):
        assert isinstance(follow(given)["example"], str)
    if operation.body is not None:
        media = operation.document["requestBody"]["content"][JSON]
        assert operation.body.schemas[JSON].errors(media["example"]) == []


CLOSED = Documents({"openapi.yaml": (b"", close_responses(load_yaml(openapi_path().read_bytes())))})


@pytest.mark.parametrize("operation", OPERATIONS)
def test_response_examples_are_valid(operation: Operation) -> None:
    """Every declared answer has an example without undeclared fields."""
    for status, given in operation.document["responses"].items():
        where: Place = ("paths", operation.path, operation.method.lower(), "responses", status)
        if "$ref" in given:
            where = tuple(given["$ref"].removeprefix("#/").split("/"))
        for media_type, media in follow(given).get("content", {}).items():
            schema = CLOSED.compile("openapi.yaml", (*where, "content", media_type, "schema"))
            for example in examples_of(media):
                assert schema.errors(example) == [], (status, media_type)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_links_lead_somewhere(operation: Operation) -> None:
    """A link names an operation, and parameters and members of the body that it has."""
    for answer in operation.document["responses"].values():
        for link in follow(answer).get("links", {}).values():
            target = CONTRACT.operations[link["operationId"]]
            named = set(link.get("parameters", ()))
            assert named <= {parameter.name for parameter in target.parameters}
            if "requestBody" in link:
                body = follow(target.document["requestBody"]["content"][JSON]["schema"])
                assert set(link["requestBody"]) <= body["properties"].keys()


def test_schemas_keep_to_what_both_dialects_agree_on() -> None:
    """No `nullable`, no boolean `exclusive*`, nothing beside a `$ref`, no combined objects."""
    banned = {"nullable", "exclusiveMinimum", "exclusiveMaximum", "allOf", "discriminator"}
    for place, schema in all_schemas():
        assert not banned & schema.keys(), place
        assert "$ref" not in schema or len(schema) == 1, place
        for keyword in ("oneOf", "anyOf"):
            assert keyword not in schema or len(schema) == 1, place
        unknown = {name for name in schema if name.startswith("x-")} - PLACES
        assert not unknown, place


def test_integers_have_a_range() -> None:
    """What a language's integer can't hold is refused by the contract."""
    for place, schema in all_schemas():
        if schema.get("type") in ("integer", "number"):
            assert {"minimum", "maximum"} <= schema.keys(), place


def test_request_schemas_are_closed_and_bounded() -> None:
    """Unknown members are refused; every text, array and map that comes in has a greatest size."""
    for schema in body_schemas():
        assert "x-open-enum" not in schema, "nobody may send what is not named"
        match schema.get("type"):
            case "object" if schema.get("additionalProperties") is not False:
                assert "properties" not in schema
                assert {"maxProperties", "x-key-pattern"} <= schema.keys(), schema
                assert isinstance(schema["additionalProperties"], dict)
            case "array":
                assert "maxItems" in schema, schema
            case "string":
                assert schema.keys() & {"enum", "maxLength", "format"}, schema
            case None:
                assert schema.get("x-raw-json") is True, schema


def test_response_schemas_stay_open() -> None:
    """A field that is added later must not break a generated client."""
    incoming = {id(schema) for schema in body_schemas()}
    for place, schema in all_schemas():
        if id(schema) not in incoming:
            assert schema.get("additionalProperties") is not False, place


def test_path_identifiers_have_no_pattern() -> None:
    """An unknown identifier is 404, whatever it looks like."""
    for parameter in DOCUMENT["components"]["parameters"].values():
        if parameter["in"] == "path":
            assert parameter["schema"] == {"type": "string", "minLength": 1}


def test_patterns_are_anchored_and_linear() -> None:
    """The whole text is matched, and no repetition stands inside a repetition."""
    for place, schema in all_schemas():
        pattern = schema.get("pattern") or schema.get("x-key-pattern")
        if pattern is not None:
            assert pattern.startswith("^"), place
            assert pattern.endswith("$"), place
            assert not re.search(r"[*+}]\)[*+{]", pattern), place


def test_every_shared_schema_is_used() -> None:
    """What nothing refers to is not part of the contract; asyncapi.yaml shares some."""
    texts = openapi_path().read_text() + openapi_path().with_name("asyncapi.yaml").read_text()
    for name in DOCUMENT["components"]["schemas"]:
        assert f"#/components/schemas/{name}'" in texts, name
