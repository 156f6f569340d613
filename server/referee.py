"""The referee: openapi-core judges requests and answers, independently of the compiled validators.

Too slow for every request (about 2 ms), it sits in the tests' client, and in a running server when
`AGENTZERO_CONTRACT_REFEREE=1`. It closes the response schemas that the contract leaves open, so a
field that is not declared is found before a client relies on it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from openapi_core import Config, OpenAPI
from openapi_core.datatypes import RequestParameters
from openapi_core.exceptions import OpenAPIError
from openapi_core.templating.paths.exceptions import PathError
from openapi_core.templating.responses.exceptions import ResponseNotFound
from openapi_core.validation.response import V30ResponseHeadersValidator as HeadersOnly
from werkzeug.datastructures import Headers, ImmutableMultiDict

from server.answers import Answer
from server.documents import Documents, load_yaml, shorten
from server.problems import PROBLEM_JSON, ContractViolation
from server.rest import RestHandler

# The pipeline may give these for any request, before an operation is known or reached.
EDGE_STATUSES = frozenset({307, 405, 413, 414, 431})
_NAME = "openapi.yaml"
YAML = "application/yaml"
JSON_LINES = "application/x-ndjson"
OCTETS = "application/octet-stream"
_OK = frozenset({*range(200, 300), 304})


@dataclass(slots=True)
class JudgedRequest:
    """A request as openapi-core's protocol has it; `target` is path and query."""

    method: str
    target: str
    header_fields: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    host_url: str = "http://localhost"
    parameters: RequestParameters = field(init=False)

    def __post_init__(self) -> None:
        self.method = self.method.lower()
        query = ImmutableMultiDict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))
        self.parameters = RequestParameters(query=query, header=Headers(dict(self.header_fields)))

    @property
    def path(self) -> str:
        """The path without the query."""
        return urlsplit(self.target).path

    @property
    def content_type(self) -> str:
        """In lower case."""
        return str(self.parameters.header.get("Content-Type", "")).lower()


@dataclass(frozen=True, slots=True)
class JudgedResponse:
    """An answer as openapi-core's protocol has it."""

    status_code: int
    header_fields: Mapping[str, str]
    data: bytes

    @property
    def headers(self) -> Headers:
        """Case-insensitive."""
        return Headers(dict(self.header_fields))

    @property
    def content_type(self) -> str:
        """In lower case."""
        return str(self.headers.get("Content-Type", "")).lower()


class Referee:
    """Judges exchanges by the contract in the file."""

    def __init__(self, openapi: Path) -> None:
        document = close_responses(load_yaml(openapi.read_bytes()))
        # Whichever host and port it serves at, it is the same contract.
        document["servers"] = [{"url": "/"}]
        config = Config(
            spec_validator_cls=None,
            extra_media_type_deserializers={
                PROBLEM_JSON: json.loads,
                YAML: bytes.decode,
                JSON_LINES: bytes.decode,
            },
        )
        self._openapi = OpenAPI.from_dict(document, config=config)
        # What answers HEAD has the headers of GET and no body.
        self._headers = OpenAPI(
            self._openapi.spec, config=replace(config, response_validator_cls=HeadersOnly)
        )
        self._problem = Documents({_NAME: (b"", document)}).compile(
            _NAME, ("components", "schemas", "Problem")
        )

    def check(self, request: JudgedRequest, response: JudgedResponse) -> None:
        """Raise ContractViolation when the answer is not one that the contract declares.

        An answer of success to a request that is not valid is a violation, too.
        """
        openapi = self._openapi
        if request.method == "head":
            request, openapi = replace(request, method="get"), self._headers
        elif response.content_type == OCTETS and not response.data:
            # An empty file; or one that the server sends in pieces, and does not see as a whole.
            openapi = self._headers
        try:
            openapi.validate_response(request, response)
            if response.status_code in _OK:
                self._openapi.validate_request(request)
        except (PathError, ResponseNotFound) as error:
            if response.status_code not in EDGE_STATUSES | (
                {404} if isinstance(error, PathError) else set()
            ):
                raise _violation(request, response, _explain(error)) from error
            if problems := self._edge_problems(response):
                raise _violation(request, response, problems) from error
        except OpenAPIError as error:
            raise _violation(request, response, _explain(error)) from error

    def check_exchange(self, handler: RestHandler, body: bytes, answer: Answer) -> None:
        """Judge an exchange inside the server."""
        given = handler.request
        request = JudgedRequest(given.method or "", given.uri or "", dict(given.headers), body)
        headers = {
            **answer.headers,
            **({"Content-Type": answer.content_type} if answer.content_type else {}),
        }
        self.check(request, JudgedResponse(answer.status, headers, answer.body))

    def check_httpx(self, response: Any) -> None:
        """Judge an exchange of an httpx client."""
        sent = response.request
        request = JudgedRequest(
            sent.method,
            # httpx tidies a URL up, unless it is told what to send.
            sent.extensions.get("target", sent.url.raw_path).decode("ascii"),
            dict(sent.headers),
            # A request that follows a redirect has its body as a stream only.
            sent.read(),
        )
        self.check(
            request, JudgedResponse(response.status_code, dict(response.headers), response.content)
        )

    def _edge_problems(self, response: JudgedResponse) -> list[str]:
        if response.status_code == 307:  # noqa: PLR2004
            return [] if "Location" in response.headers else ["a redirect without Location"]
        if not response.data and response.headers.get("Content-Length", "0") != "0":
            return []  # The answer to HEAD has the problem's headers only.
        if response.status_code == 405 and "Allow" not in response.headers:  # noqa: PLR2004
            return ["405 without Allow"]
        if response.content_type != PROBLEM_JSON:
            return [f"{response.content_type or 'nothing'} instead of {PROBLEM_JSON}"]
        if not response.data:
            return []
        return [
            f"{pointer} {detail}"
            for pointer, detail in self._problem.errors(json.loads(response.data))
        ]


def close_responses(document: dict[str, Any]) -> dict[str, Any]:
    """Give a copy in which an object schema with properties admits no others unless it says so."""
    closed = copy.deepcopy(document)
    for schema in closed.get("components", {}).get("schemas", {}).values():
        _close(schema)
    responses = list(closed.get("components", {}).get("responses", {}).values())
    for item in closed.get("paths", {}).values():
        for operation in item.values():
            if isinstance(operation, dict):
                responses.extend(operation.get("responses", {}).values())
    for response in responses:
        for media in response.get("content", {}).values():
            _close(media.get("schema", {}))
    return closed


def _close(schema: Any) -> None:
    if not isinstance(schema, dict):
        return
    if "properties" in schema:
        schema.setdefault("additionalProperties", False)
    for member in schema.get("properties", {}).values():
        _close(member)
    for keyword in ("items", "additionalProperties", "not"):
        _close(schema.get(keyword))
    for keyword in ("anyOf", "oneOf"):
        for member in schema.get(keyword, ()):
            _close(member)


def _violation(
    request: JudgedRequest, response: JudgedResponse, reasons: list[str]
) -> ContractViolation:
    where = f"{request.method.upper()} {request.target} -> {response.status_code}"
    return ContractViolation(
        reason=f"{where}: {'; '.join(reasons)}",
        body=shorten(response.data.decode("utf-8", "replace")),
    )


def _explain(error: BaseException) -> list[str]:
    """Everything that openapi-core knows, innermost last: its own text names only the kind."""
    reasons = [shorten(str(error) or repr(error))]
    cause = error.__cause__ or error.__context__
    for detail in getattr(cause, "schema_errors", ()):
        place = "/".join(map(str, detail.absolute_path))
        reasons.append(f"at /{place}: {shorten(detail.message)}")
    if cause is not None and not getattr(cause, "schema_errors", None):
        reasons.extend(_explain(cause))
    return reasons
