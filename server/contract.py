"""The contracts as the server keeps them: REST operations and WebSocket messages, compiled once.

`Contract.load` reads `openapi.yaml` into `Operation`s and `asyncapi.yaml` into `Message`s, and
raises `ContractError` that lists every problem.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jsonschema_rs
import orjson

from hive.ports import ItemFields
from server.documents import ContractError, Documents
from server.operations import (
    JSON,
    SUCCESS,
    Body,
    ContractMismatch,
    Message,
    Operation,
    Response,
)
from server.parameters import Parameter, build_parameter

METHODS = ("get", "put", "post", "delete", "patch", "head", "options", "trace")
OCTETS = "application/octet-stream"
MAX_RAW_DEPTH = 4
"""How many levels inside a body free-form values may be declared."""
_OPENAPI = "openapi.yaml"
_ASYNCAPI = "asyncapi.yaml"


class Contract:
    """Both contracts.

    `operations` is by operationId, `messages` by the key under `components.messages`.
    """

    def __init__(self, documents: Documents) -> None:
        problems: list[str] = []
        self.openapi = documents[_OPENAPI]
        self.asyncapi = documents.get(_ASYNCAPI)
        self.operations: dict[str, Operation] = {}
        for operation in _read_operations(documents, problems):
            if operation.operation_id in self.operations:
                problems.append(f"operationId {operation.operation_id} stands twice")
            self.operations[operation.operation_id] = operation
        self.messages = {message.name: message for message in _read_messages(documents, problems)}
        self._texts = {
            name: documents.source(name) for name in (_OPENAPI, _ASYNCAPI) if name in documents
        }
        self._texts |= {
            name.replace(".yaml", ".json"): orjson.dumps(documents[name]) for name in self._texts
        }
        if problems:
            raise ContractError(problems)

    @classmethod
    def load(cls, openapi: Path, asyncapi: Path | None = None) -> Contract:
        """Read `openapi.yaml` and `asyncapi.yaml`. Raise ContractError, OSError."""
        return cls(Documents.read(*filter(None, (openapi, asyncapi))))

    def read(self, name: str) -> bytes:
        """One of `openapi.yaml|json`, `asyncapi.yaml|json`; the YAML byte for byte."""
        return self._texts[name]


def _read_operations(documents: Documents, problems: list[str]) -> Iterator[Operation]:
    document = documents[_OPENAPI]
    if not str(document.get("openapi", "")).startswith("3.0."):
        problems.append("openapi.yaml is not OpenAPI 3.0")
    for path, item in document.get("paths", {}).items():
        for method in METHODS:
            if method in item:
                try:
                    yield _read_operation(documents, path, method, item)
                except ContractError as error:
                    problems.extend(error.problems)
                except (KeyError, TypeError, ValueError) as error:
                    problems.append(f"{method.upper()} {path}: {error!r}")


def _read_operation(
    documents: Documents, path: str, method: str, item: Mapping[str, Any]
) -> Operation:
    declared = item[method]
    where = ("paths", path, method)
    operation_id = declared.get("operationId")
    if not operation_id:
        raise ContractError([f"{method.upper()} {path} has no operationId"])
    responses = {
        int(status): _read_response(documents, int(status), (*where, "responses", status), answer)
        for status, answer in declared["responses"].items()
    }
    if SUCCESS.isdisjoint(responses):
        raise ContractError([f"{operation_id} declares no success"])
    parameters: dict[tuple[str, str], Parameter] = {}
    for base, owner in ((("paths", path), item), (where, declared)):
        for index, given in enumerate(owner.get("parameters", ())):
            parameter = _read_parameter(
                documents, operation_id, (*base, "parameters", index), given
            )
            parameters[parameter.location, parameter.name] = parameter
    return Operation(
        operation_id=operation_id,
        method=method.upper(),
        path=path,
        controller=declared.get("x-openapi-router-controller"),
        tag=next(iter(declared.get("tags", ())), None),
        permission=declared.get("x-permission"),
        public=declared.get("security", documents[_OPENAPI].get("security")) == [],
        parameters=tuple(parameters.values()),
        body=_read_request_body(documents, (*where, "requestBody"), declared.get("requestBody")),
        content_type=_read_content_type(documents, declared.get("requestBody")),
        responses=MappingProxyType(responses),
        extensions=MappingProxyType({k: v for k, v in declared.items() if k.startswith("x-")}),
        document=declared,
        item_fields=_read_item_fields(documents, declared["responses"]),
    )


def _read_item_fields(documents: Documents, responses: Mapping[str, Any]) -> ItemFields | None:
    _, answer = documents.follow(_OPENAPI, responses.get("200", {}))
    listed = answer.get("content", {}).get(JSON, {}).get("schema", {})
    _, schema = documents.follow(_OPENAPI, listed)
    _, item = documents.follow(_OPENAPI, schema.get("items", {}))
    if not item.get("properties"):
        return None
    return ItemFields(tuple(item["properties"]), frozenset(item.get("required", ())))


def _read_parameter(
    documents: Documents, operation_id: str, path: tuple[str | int, ...], given: Any
) -> Parameter:
    _, declared = documents.follow(_OPENAPI, given)
    name = declared["name"]
    if "schema" not in declared:
        raise ContractError([f"{operation_id}: parameter {name} has no schema"])
    place = _place(given, path)
    _, schema = documents.follow(_OPENAPI, declared["schema"])
    _, items = documents.follow(_OPENAPI, schema.get("items", {}))
    compiled = documents.compile(_OPENAPI, (*place, "schema"))
    try:
        return build_parameter(declared, schema, items, compiled)
    except ValueError as error:
        raise ContractError([f"{operation_id}: parameter {name}: {error}"]) from error


def _read_request_body(
    documents: Documents, path: tuple[str | int, ...], given: Any
) -> Body | None:
    if given is None:
        return None
    _, declared = documents.follow(_OPENAPI, given)
    if OCTETS in declared["content"]:
        return None
    if JSON not in declared["content"]:
        raise ContractError([f"{path[1]} {path[2]}: a body that is not {JSON} is not supported"])
    _, schema = documents.follow(_OPENAPI, declared["content"][JSON]["schema"])
    raw = set(_raw_paths(documents, schema))
    place = _place(given, path)
    return Body(
        required=declared.get("required", False),
        schemas={
            content_type: documents.compile(_OPENAPI, (*place, "content", content_type, "schema"))
            for content_type in declared["content"]
        },
        raw_members=frozenset(path[0] for path in raw if len(path) == 1),
        raw_paths=frozenset(path for path in raw if len(path) > 1),
    )


def _read_content_type(documents: Documents, given: Any) -> str | None:
    """The media type of a body that is taken as it is."""
    if given is None:
        return None
    _, declared = documents.follow(_OPENAPI, given)
    if OCTETS not in declared["content"]:
        return None
    if len(declared["content"]) > 1 or declared.get("required"):
        raise ContractError([f"a body of {OCTETS} has no other types, and may be empty"])
    return OCTETS


def _raw_paths(
    documents: Documents, schema: Mapping[str, Any], depth: int = MAX_RAW_DEPTH
) -> Iterator[tuple[str, ...]]:
    """Where the values of the schema are free-form: members, and `*` for the items of arrays."""
    inside = dict(schema.get("properties", {}))
    if "items" in schema:
        inside["*"] = schema["items"]
    for step, member in inside.items():
        _, followed = documents.follow(_OPENAPI, member)
        if followed.get("x-raw-json") is True:
            yield (step,)
        elif depth > 1:
            yield from ((step, *path) for path in _raw_paths(documents, followed, depth - 1))


def _read_response(
    documents: Documents, status: int, path: tuple[str | int, ...], given: Any
) -> Response:
    _, declared = documents.follow(_OPENAPI, given)
    place = _place(given, path)
    return Response(
        status=status,
        description=declared["description"],
        schemas={
            content_type: documents.compile(_OPENAPI, (*place, "content", content_type, "schema"))
            for content_type, media in declared.get("content", {}).items()
            if "schema" in media
        },
        headers=frozenset(declared.get("headers", ())),
        secret_members=_secret_members(documents, declared),
    )


def _secret_members(documents: Documents, declared: Mapping[str, Any]) -> frozenset[str]:
    shown = declared.get("content", {}).get(JSON, {}).get("schema", {})
    _, schema = documents.follow(_OPENAPI, shown)
    return frozenset(
        name
        for name, member in schema.get("properties", {}).items()
        if documents.follow(_OPENAPI, member)[1].get("format") == "password"
    )


def _place(given: Any, path: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Where a declaration stands: at its own path, or where its `$ref` points."""
    if "$ref" not in given:
        return path
    return tuple(
        part.replace("~1", "/").replace("~0", "~")
        for part in given["$ref"].removeprefix("#/").split("/")
    )


def _read_messages(documents: Documents, problems: list[str]) -> Iterator[Message]:
    if _ASYNCAPI not in documents:
        return
    document = documents[_ASYNCAPI]
    declared = document.get("components", {}).get("messages", {})
    carried: dict[str, set[str]] = {name: set() for name in declared}
    for channel, item in document.get("channels", {}).items():
        for key, given in item.get("messages", {}).items():
            name = str(given.get("$ref", "")).removeprefix("#/components/messages/")
            if name not in declared:
                problems.append(
                    f"channel {channel}: message {key} is not a $ref to components.messages"
                )
            else:
                carried[name].add(channel)
    for name, message in declared.items():
        path: tuple[str, ...] = ("components", "messages", name, "payload")
        if "schemaFormat" in message.get("payload", {}):
            path = (*path, "schema")
        try:
            payload = documents.compile(_ASYNCAPI, path, draft=jsonschema_rs.Draft7)
        except ContractError as error:
            problems.extend(error.problems)
            continue
        examples = tuple(
            example["payload"] for example in message.get("examples", ()) if "payload" in example
        )
        yield Message(name, payload, frozenset(carried[name]), examples, message)


__all__ = [
    "JSON",
    "Body",
    "Contract",
    "ContractError",
    "ContractMismatch",
    "Message",
    "Operation",
    "Response",
]
