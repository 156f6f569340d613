"""The referee finds what the contract does not declare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from server.problems import ContractViolation
from server.referee import JudgedRequest, JudgedResponse, Referee, close_responses

THING = {"thing_id": "t", "name": "n", "created_at": "2026-11-21T09:00:00.000Z"}
PROBLEM = {
    "type": "about:blank",
    "title": "T",
    "status": 404,
    "detail": "d",
    "instance": "/",
    "code": "c",
}
BEARER = {"Authorization": "Bearer x"}
JSON = "application/json"
PROBLEM_JSON = "application/problem+json"


def judge(
    referee: Referee,
    request: JudgedRequest,
    status: int,
    body: object,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Let the referee see one exchange."""
    content = b"" if body is None else orjson.dumps(body)
    given = {"Content-Type": JSON} if headers is None else headers
    referee.check(request, JudgedResponse(status, given, content))


def test_what_is_declared_passes(referee: Referee) -> None:
    """Success, problem, and no content."""
    get = JudgedRequest("GET", "/things/t", BEARER)
    judge(referee, get, 200, THING)
    judge(referee, get, 200, THING | {"parameters": {"any": [1, None]}})
    judge(referee, get, 404, PROBLEM, {"Content-Type": PROBLEM_JSON})
    judge(referee, JudgedRequest("DELETE", "/things/t", BEARER), 204, None, {})
    judge(referee, JudgedRequest("GET", "/things?limit=5&tag=a&tag=b", BEARER), 200, {"x": 1})


@pytest.mark.parametrize(
    ("status", "body", "named"),
    [
        (200, THING | {"secret": 1}, "secret"),
        (200, {"thing_id": "t"}, "name"),
        (200, THING | {"name": 1}, "string"),
        (200, THING | {"created_at": "yesterday"}, "date-time"),
        (200, [], "object"),
        (201, THING, "201"),
        (202, None, "202"),
        (418, None, "418"),
    ],
)
def test_an_answer_that_is_not_declared_is_a_violation(
    referee: Referee, status: int, body: object, named: str
) -> None:
    """A field too many, one too few, a wrong type, a status: each is named."""
    with pytest.raises(ContractViolation) as violation:
        judge(referee, JudgedRequest("GET", "/things/t", BEARER), status, body)
    assert named in str(violation.value.context)
    assert named not in violation.value.detail


def test_a_problem_is_closed_too(referee: Referee) -> None:
    """An undeclared member of a problem is a violation."""
    request = JudgedRequest("GET", "/things/t", BEARER)
    with pytest.raises(ContractViolation):
        judge(referee, request, 404, PROBLEM | {"stack": "..."}, {"Content-Type": PROBLEM_JSON})
    with pytest.raises(ContractViolation):
        judge(referee, request, 404, PROBLEM, {"Content-Type": "text/html"})


@pytest.mark.parametrize(
    "request_",
    [
        JudgedRequest("GET", "/things?limit=0", BEARER),
        JudgedRequest("GET", "/things?limit=x", BEARER),
        JudgedRequest("GET", "/things"),
        JudgedRequest("POST", "/things", {**BEARER, "Content-Type": JSON}, b'{"nome":1}'),
        JudgedRequest("POST", "/things", {**BEARER, "Content-Type": "text/plain"}, b"{}"),
    ],
)
def test_success_for_a_request_that_is_not_valid_is_a_violation(
    referee: Referee, request_: JudgedRequest
) -> None:
    """A server that accepts what its contract refuses is found."""
    post = request_.method == "post"
    with pytest.raises(ContractViolation):
        judge(referee, request_, 201 if post else 200, THING if post else {})


def test_what_the_pipeline_answers_at_its_edge_needs_no_declaration(referee: Referee) -> None:
    """404 on unknown paths, 405 with Allow, 307 with Location, 413, 414, 431: problems all."""
    problem = {"Content-Type": PROBLEM_JSON}
    unknown = JudgedRequest("GET", "/nope")
    judge(referee, unknown, 404, PROBLEM, problem)
    judge(referee, JudgedRequest("PUT", "/things"), 405, PROBLEM, {**problem, "Allow": "GET"})
    judge(referee, JudgedRequest("GET", "/things/"), 307, None, {"Location": "/things"})
    for status in (413, 414, 431):
        judge(referee, JudgedRequest("GET", "/things", BEARER), status, PROBLEM, problem)
    for request, status, body, headers in (
        (unknown, 200, {}, {"Content-Type": JSON}),
        (unknown, 404, {}, {"Content-Type": JSON}),
        (unknown, 404, {}, problem),
        (unknown, 500, PROBLEM, problem),
        (JudgedRequest("PUT", "/things"), 405, PROBLEM, problem),
        (JudgedRequest("GET", "/things/"), 307, None, {}),
    ):
        with pytest.raises(ContractViolation):
            judge(referee, request, status, body, headers)


def test_closing_leaves_free_form_and_the_document_alone() -> None:
    """Only schemas with properties that say nothing of others are closed, in a copy."""
    schemas: dict[str, Any] = {
        "Open": {"properties": {"inner": {"properties": {}}}},
        "Said": {"properties": {}, "additionalProperties": True},
        "Free": {"x-raw-json": True},
        "Map": {"additionalProperties": {"properties": {}}},
    }
    document: dict[str, Any] = {"components": {"schemas": schemas}}
    closed = close_responses(document)["components"]["schemas"]
    assert closed["Open"]["additionalProperties"] is False
    assert closed["Open"]["properties"]["inner"]["additionalProperties"] is False
    assert closed["Said"]["additionalProperties"] is True
    assert closed["Free"] == {"x-raw-json": True}
    assert closed["Map"]["additionalProperties"]["additionalProperties"] is False
    assert "additionalProperties" not in schemas["Open"]
