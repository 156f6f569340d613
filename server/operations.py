"""One operation and one message of the contracts, with what they were compiled into.

An operation turns raw text and bytes into typed arguments, or raises `ContractMismatch` with a
bounded list of what does not match.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from hive.errors import HiveError, NotFound, PreconditionRequired
from hive.ports import ItemFields
from server.documents import MAX_ERRORS, Schema, shorten
from server.json_body import cut_raw_members, cut_raw_paths, decode_json
from server.parameters import NotOfType, Parameter

JSON = "application/json"
SUCCESS = frozenset(range(200, 300))


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
    raw_paths: frozenset[tuple[str, ...]] = frozenset()
    """Where free-form values are further inside; a step is a member, or `*` for each item."""


@dataclass(frozen=True, slots=True)
class Response:
    """One declared answer. `secret_members` of its body (`format: password`) are shown once."""

    status: int
    description: str
    schemas: Mapping[str, Schema]
    headers: frozenset[str] = frozenset()
    secret_members: frozenset[str] = frozenset()

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
    item_fields: ItemFields | None = None
    """Of the objects in the array that it answers with."""
    content_type: str | None = None
    """Of a body that is taken as it is: its bytes are the argument `content`, none without one."""

    @property
    def success(self) -> Response:
        """The first declared answer of the class 2xx."""
        return next(answer for status, answer in self.responses.items() if status in SUCCESS)

    @property
    def ownership(self) -> str | None:
        """One of `hive.permissions.OWNERSHIPS`."""
        return self.extensions.get("x-ownership")

    @property
    def rate_class(self) -> str:
        """One of `hive.rate_limits.CLASSES`; binding makes sure of it."""
        return str(self.extensions.get("x-rate-limit"))

    @property
    def signed(self) -> bool:
        """Whether it takes a signature (RFC 9421) of whoever has signing on."""
        return bool(self.extensions.get("x-signed", False))

    @property
    def deprecated(self) -> bool:
        """Whether another operation takes its place (`server/deprecations.py`)."""
        return bool(self.document.get("deprecated", False))

    @property
    def selects_fields(self) -> bool:
        """Whether clients say what they want to see of the items of this list."""
        return any((one.location, one.name) == ("query", "fields") for one in self.parameters)

    @property
    def is_conditional(self) -> bool:
        """Whether its answer has a validator that clients can ask again with."""
        return any(one.name == "If-None-Match" for one in self.parameters)

    @property
    def precondition(self) -> str | None:
        """`required` when a change needs `If-Match`."""
        return self.extensions.get("x-precondition")

    @property
    def holds_secrets(self) -> bool:
        """Whether its answers hold secrets (`x-secret`): never kept, tagged or compressed."""
        return bool(self.extensions.get("x-secret", False))

    @property
    def is_blind(self) -> bool:
        """Whether its handler does not learn who asks: one kept answer is for everybody."""
        return "vary" not in self.extensions.get("x-cache", {"vary": None})

    @property
    def is_idempotent(self) -> bool:
        """Whether it is carried out once under an `Idempotency-Key`."""
        return bool(self.extensions.get("x-idempotent", False))

    @property
    def mutates(self) -> bool:
        """Whether it may change something: its audit record is durable before the answer."""
        return self.method not in ("GET", "HEAD")

    @property
    def audited(self) -> bool:
        """Whether its calls are recorded; `x-audit: none` says that they are not."""
        return bool(self.extensions.get("x-audit") != "none")

    @property
    def max_body_bytes(self) -> int | None:
        """How large its body may be at most; None for the limit that all others have."""
        declared: int | None = self.extensions.get("x-max-body-bytes")
        return declared

    @property
    def argument_names(self) -> frozenset[str]:
        """The keywords that the handler takes, `body` included."""
        names = {one.argument for one in self.parameters if not one.for_pipeline}
        names |= {"content"} if self.content_type else set()
        return frozenset(names | {"body"} if self.body else names)

    def read_parameters(
        self,
        path: Mapping[str, str],
        query: Mapping[str, Sequence[str]],
        headers: Mapping[str, Sequence[str]],
        cookies: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """Give the handler's keywords of decoded texts; header names in lower case.

        Raise ContractMismatch, PreconditionRequired, and NotFound when a path parameter cannot
        name anything.
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
            elif parameter.location == "cookie":
                texts = cookies.get(parameter.name)
            else:
                texts = headers.get(parameter.name.lower())
            value = _read_one(parameter, texts, errors)
            if not parameter.for_pipeline:
                arguments[parameter.argument] = value
        if errors:
            raise ContractMismatch("The parameters do not match the contract.", errors=errors)
        self._require_precondition(arguments)
        return arguments

    def check_parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Give the handler's keywords of values that are typed already (a WebSocket command's).

        `given` is by the contract's names. It has no cookies, which are for browsers, and nothing
        for the pipeline of requests. Raise ContractMismatch, PreconditionRequired.
        """
        known = {
            one.name: one
            for one in self.parameters
            if one.location != "cookie" and not one.for_pipeline
        }
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
        for argument in self.argument_names - arguments.keys() - {"body"}:
            arguments[argument] = None
        if errors:
            raise ContractMismatch("The parameters do not match the contract.", errors=errors)
        self._require_precondition(arguments)
        return arguments

    def _require_precondition(self, arguments: Mapping[str, Any]) -> None:
        if self.precondition is not None and arguments.get("if_match") is None:
            raise PreconditionRequired

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
            value = cut_raw_members(encoded, value, self.body.raw_members)
        if self.body.raw_paths:
            value = cut_raw_paths(encoded, value, self.body.raw_paths)
        return value


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the WebSocket contract. `channels` has the channels that carry it."""

    name: str
    payload: Schema
    channels: frozenset[str]
    examples: tuple[Any, ...]
    document: Mapping[str, Any] = field(repr=False)


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
