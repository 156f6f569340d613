"""The contracts as the server keeps them: REST operations and WebSocket messages, compiled once.

`Contract.load` reads `openapi.yaml` into `Operation`s and `asyncapi.yaml` into `Message`s, and
raises `ContractError` that lists every problem. An operation then turns raw text and bytes into
typed arguments, or raises `ContractMismatch` with a bounded list of what does not match.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jsonschema_rs
import orjson

from hive.errors import HiveError, NotFound
from server.documents import MAX_ERRORS, ContractError, Documents, Schema, shorten
from server.json_body import cut_raw_members, decode_json
from server.parameters import NotOfType, Parameter, argument_name, build_parameter

METHODS = ("get", "put", "post", "delete", "patch", "head", "options", "trace")
JSON = "application/json"
SUCCESS = frozenset(range(200, 300))
_OPENAPI = "openapi.yaml"
_ASYNCAPI = "asyncapi.yaml"


class ContractMismatch(HiveError):
    """The request does not match the contract (400). `errors` become the problem's `errors`."""

    code = "contract-mismatch"
    title = "Request does not match the contract"
    default_detail = "The request does not match the contract."

    def __init__(
        self, detail: str | None = None, *, errors: Sequence[Mapping[str, str]] = ()
    ) -> None:
        super().__init__(detail)
        self.errors = tuple(errors)[:MAX_ERRORS]


@dataclass(frozen=True, slots=True)
class Body:
    """What an operation takes as its body."""

    required: bool
    schemas: Mapping[str, Schema]
    raw_members: frozenset[str]


@dataclass(frozen=True, slots=True)
class Response:
    """One declared answer."""

    status: int
    description: str
    schemas: Mapping[str, Schema]

    @property
    def content_type(self) -> str | None:
        """The media type that is declared first; None when the answer has no body."""
        return next(iter(self.schemas), None)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the REST contract. `permission` is None when it is public."""

    operation_id: str
    method: str
    path: str
    controller: str | None
    tag: str | None
    permission: str | None
    public: bool
    parameters: tuple[Parameter, ...]
    body: Body | None
    responses: Mapping[int, Response]
    extensions: Mapping[str, Any]
    document: Mapping[str, Any] = field(repr=False)

    @property
    def success(self) -> Response:
        """The first declared answer of the class 2xx."""
        return next(answer for status, answer in self.responses.items() if status in SUCCESS)

    @property
    def argument_names(self) -> frozenset[str]:
        """The keywords that the handler takes, `body` included."""
        names = {parameter.argument for parameter in self.parameters}
        return frozenset(names | {"body"} if self.body else names)

    def read_parameters(
        self,
        path: Mapping[str, str],
        query: Mapping[str, Sequence[str]],
        headers: Mapping[str, Sequence[str]],
    ) -> dict[str, Any]:
        """Give the handler's keywords of decoded texts; header names in lower case.

        Raise ContractMismatch, and NotFound when a path parameter cannot name anything.
        """
        errors: list[dict[str, str]] = []
        arguments: dict[str, Any] = {}
        known = {parameter.name for parameter in self.parameters if parameter.location == "query"}
        errors.extend(
            {"parameter": shorten(name, 64), "detail": "No such parameter."}
            for name in query
            if name not in known
        )
        for parameter in self.parameters:
            if parameter.location == "path":
                texts: Sequence[str] | None = [path[parameter.name]]
            elif parameter.location == "query":
                texts = query.get(parameter.name)
            else:
                texts = headers.get(parameter.name.lower())
            arguments[parameter.argument] = _read_one(parameter, texts, errors)
        if errors:
            raise ContractMismatch("The parameters do not match the contract.", errors=errors)
        return arguments

    def check_parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Give the handler's keywords of values that are typed already (a WebSocket command's).

        `given` is by the contract's names. Raise ContractMismatch.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        errors = [
            {"parameter": shorten(name, 64), "detail": "No such parameter."}
            for name in given
            if name not in known
        ]
        arguments: dict[str, Any] = {}
        for name, parameter in known.items():
            if name not in given and parameter.required:
                errors.append({"parameter": name, "detail": "Required."})
            elif name in given:
                errors.extend(_mismatches(parameter, given[name]))
            arguments[parameter.argument] = given.get(name, parameter.default)
        if errors:
            raise ContractMismatch("The parameters do not match the contract.", errors=errors)
        return arguments

    def read_body(self, encoded: bytes) -> Any:
        """Decode, validate and give the JSON body; its raw members are RawJson.

        Raise MalformedJson, ContractMismatch.
        """
        if self.body is None:
            raise ContractMismatch("This operation takes no body.")
        value = decode_json(encoded)
        schema = self.body.schemas[JSON]
        if not schema.is_valid(value):
            errors = [
                {"pointer": pointer, "detail": detail}
                for pointer, detail in schema.errors(value, size=len(encoded))
            ]
            raise ContractMismatch("The body does not match the contract.", errors=errors)
        if self.body.raw_members and isinstance(value, dict):
            return cut_raw_members(encoded, value, self.body.raw_members)
        return value


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the WebSocket contract. `channels` has the channels that carry it."""

    name: str
    payload: Schema
    channels: frozenset[str]
    examples: tuple[Any, ...]
    document: Mapping[str, Any] = field(repr=False)


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


def _read_one(
    parameter: Parameter, texts: Sequence[str] | None, errors: list[dict[str, str]]
) -> Any:
    if texts is None:
        if parameter.required:
            errors.append({"parameter": parameter.name, "detail": "Required."})
        return parameter.default
    try:
        value = parameter.read(texts)
    except NotOfType as error:
        mismatches = [{"parameter": parameter.name, "detail": str(error)}]
        value = None
    else:
        mismatches = _mismatches(parameter, value)
    if mismatches and parameter.location == "path":
        raise NotFound
    errors.extend(mismatches)
    return value


def _mismatches(parameter: Parameter, value: Any) -> list[dict[str, str]]:
    if parameter.schema.is_valid(value):
        return []
    return [
        {"parameter": parameter.name, "detail": detail}
        for _, detail in parameter.schema.errors(value)
    ]


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
        responses=MappingProxyType(responses),
        extensions=MappingProxyType({k: v for k, v in declared.items() if k.startswith("x-")}),
        document=declared,
    )


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
    if JSON not in declared["content"]:
        raise ContractError([f"{path[1]} {path[2]}: a body that is not {JSON} is not supported"])
    _, schema = documents.follow(_OPENAPI, declared["content"][JSON]["schema"])
    raw = {
        name
        for name, member in schema.get("properties", {}).items()
        if documents.follow(_OPENAPI, member)[1].get("x-raw-json") is True
    }
    place = _place(given, path)
    return Body(
        required=declared.get("required", False),
        schemas={
            content_type: documents.compile(_OPENAPI, (*place, "content", content_type, "schema"))
            for content_type in declared["content"]
        },
        raw_members=frozenset(raw),
    )


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
    "Body",
    "Contract",
    "ContractError",
    "ContractMismatch",
    "Message",
    "Operation",
    "Response",
    "argument_name",
]
