"""What Schemathesis has to be told besides openapi.yaml, and a tally of what it got.

`AGENTZERO_FUZZ_GIVEN` is a JSON object by operationId of what exists on the server: a `cursor`,
`path` parameters, members of the `body`. `AGENTZERO_FUZZ_TALLY` is the file that gets the number of
answers by operationId and status. `AGENTZERO_FUZZ_OWN` is a JSON array of the identifiers of who
fuzzes.
"""

from __future__ import annotations

import atexit
import copy
import itertools
import json
import os
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis.checks import CHECKS
from schemathesis.specs.openapi.checks import positive_data_acceptance as unconditional

from server.compatibility import Release
from server.json_body import MAX_INTEGER, MIN_INTEGER

LONGEST_WAIT_SECONDS = 0.02
IDEMPOTENCY_KEY = "Idempotency-Key"
AGENTS_OWN_WORK = frozenset({"heartbeat_agent", "claim_leases", "acknowledge_message"})
VALID_KEY = re.compile(r'("([!#-\[\]-~]|\\["\\])+"|[!#-~][!-~]*)')
GIVEN = json.loads(os.environ.get("AGENTZERO_FUZZ_GIVEN", "{}"))
OWN = frozenset(json.loads(os.environ.get("AGENTZERO_FUZZ_OWN", "[]")))
answers: defaultdict[str, Counter[str]] = defaultdict(Counter)


@schemathesis.hook
def before_load_schema(context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """Say in full JSON Schema what OpenAPI 3.0 has no words for."""
    del context
    for schema in raw_schema["components"]["schemas"].values():
        if "x-key-pattern" in schema:
            schema["patternProperties"] = {schema["x-key-pattern"]: schema["additionalProperties"]}
            schema["additionalProperties"] = False
    # Any version, so that one change is made; others are drawn.
    raw_schema["components"]["parameters"]["IfMatch"]["example"] = "*"
    shown = Release(copy.deepcopy(raw_schema))
    for path, item in raw_schema["paths"].items():
        for method, operation in item.items():
            if isinstance(operation, dict):
                _name_fields(operation, shown.openapi["paths"][path][method], shown)
                _give(operation, **GIVEN.get(operation["operationId"], {}))


def _name_fields(operation: dict[str, Any], original: dict[str, Any], shown: Release) -> None:
    """Name the fields that the items of a list have: it has to be one of them."""
    parameters = operation.get("parameters", [])
    for index, parameter in enumerate(parameters):
        if parameter.get("$ref", "").endswith("/Fields"):
            schema = original["responses"]["200"]["content"]["application/json"]["schema"]
            names = list(shown.schema(schema["items"])["properties"])
            declared = shown.follow(original["parameters"][index])
            items = {"type": "string", "enum": names}
            parameters[index] = {
                **declared,
                "schema": {**declared["schema"], "items": items},
                "example": names[:2],
            }


def _give(
    operation: dict[str, Any],
    *,
    cursor: str | None = None,
    path: dict[str, str] | None = None,
    body: dict[str, Any] | None = None,
) -> None:
    """Name what exists. Cursors are signed: only one that the server gave is valid, if any."""
    if cursor is not None:
        cursors = {"type": "string", "enum": [cursor]}
        operation["parameters"] = [
            one for one in operation["parameters"] if not one.get("$ref", "").endswith("/Cursor")
        ] + [{"name": "cursor", "in": "query", "schema": cursors}] * bool(cursor)
    for name, value in (path or {}).items():
        schema = {"type": "string", "minLength": 1}
        operation.setdefault("parameters", []).append(
            {"name": name, "in": "path", "required": True, "schema": schema, "example": value}
        )
    if body is not None:
        operation["requestBody"]["content"]["application/json"]["example"].update(body)


@schemathesis.hook
def filter_body(context: schemathesis.HookContext, body: Any) -> bool:
    """Leave out integers over 64 bits: JSON Schema allows them in free-form values, we do not."""
    del context
    return _has_no_wide_integer(body)


def _has_no_wide_integer(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_has_no_wide_integer, value.values()))
    if isinstance(value, list):
        return all(map(_has_no_wide_integer, value))
    return not isinstance(value, int) or MIN_INTEGER <= value <= MAX_INTEGER


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]
) -> None:
    """Claim with a short wait where a long one was to be waited: both are valid.

    A valid `Idempotency-Key` is one that was not used before: what a repetition gets was true when
    the first one was answered, and need not be any more. tests/edge has the repetitions.

    Whoever fuzzes changes neither its own key nor its own user or agent, which lists show: it would
    end itself.
    """
    del context, kwargs
    if _may_end_somebody(case):
        for name, value in (case.path_parameters or {}).items():
            if value in OWN:
                case.path_parameters[name] = "somebody-else"
    _make_keys_unique(case)
    _leave_cursor_to_its_list(case)
    _wait_shortly(case)
    body = case.body
    if case.operation.definition.raw.get("operationId") == "claim_leases" and isinstance(
        body, dict
    ):
        wait = body.get("wait_seconds")
        if isinstance(wait, int | float) and LONGEST_WAIT_SECONDS < wait <= 30:
            body["wait_seconds"] = LONGEST_WAIT_SECONDS


def _wait_shortly(case: schemathesis.Case[Any]) -> None:
    """As with claims, for what waits by its query."""
    wait = (case.query or {}).get("wait_seconds")
    if isinstance(wait, int | float) and LONGEST_WAIT_SECONDS < wait <= 30:
        case.query["wait_seconds"] = LONGEST_WAIT_SECONDS


def _may_end_somebody(case: schemathesis.Case[Any]) -> bool:
    harmless = case.operation.definition.raw.get("operationId") in AGENTS_OWN_WORK
    return not harmless and case.method.upper() not in {"GET", "HEAD"}


def _leave_cursor_to_its_list(case: schemathesis.Case[Any]) -> None:
    """A cursor goes with the path, the filters and the order that it was given for: with none."""
    given = GIVEN.get(case.operation.definition.raw.get("operationId"), {})
    query = case.query or {}
    if query.get("cursor") != given.get("cursor", ""):
        return
    elsewhere = dict(case.path_parameters or {}) != given.get("path", {})
    if elsewhere or query.keys() - {"cursor", "limit", "fields"}:
        case.query.pop("cursor", None)


_keys_made = itertools.count()


def _make_keys_unique(case: schemathesis.Case[Any]) -> None:
    headers: Any = case.headers or {}
    key = headers.get(IDEMPOTENCY_KEY)
    if isinstance(key, str) and VALID_KEY.fullmatch(key):
        number = f"{next(_keys_made)}-{os.getpid()}"
        headers[IDEMPOTENCY_KEY] = f'"{number}"' if key.startswith('"') else number


# The next one is in its place: conditions are what it does not know.
CHECKS.unregister(unconditional.__name__)


@schemathesis.check
def positive_data_acceptance(
    context: schemathesis.CheckContext,
    response: schemathesis.Response,
    case: schemathesis.Case[Any],
) -> bool | None:
    """A valid request is carried out, except where a condition in its header forbids it.

    OpenAPI has no words for conditions. Only the refusals of the conditions that the request has
    are let through, where the contract declares them; of all else the original check decides.
    """
    refusals = _refusals_by_condition(case)
    if response.status_code in refusals & _declared_statuses(case):
        return None
    return unconditional(context, response, case)


def _refusals_by_condition(case: schemathesis.Case[Any]) -> set[int]:
    headers: Any = case.headers or {}
    if "If-Match" in headers:
        return {412}
    if "If-None-Match" in headers:
        return {304}
    # Where the contract declares it, a condition is demanded.
    return {428}


def _declared_statuses(case: schemathesis.Case[Any]) -> set[int]:
    return {int(status) for status in case.operation.definition.raw["responses"]}


@schemathesis.hook
def after_call(
    context: schemathesis.HookContext, case: schemathesis.Case[Any], response: schemathesis.Response
) -> None:
    """Count the answer, unless the case is another method on the path."""
    del context
    if case.method.upper() == case.operation.method.upper():
        name = case.operation.definition.raw["operationId"]
        answers[name][str(response.status_code)] += 1


# Its own reader of the whole family is replaced.
@schemathesis.deserializer(
    "text/yaml", "text/x-yaml", "application/x-yaml", "text/vnd.yaml", "application/yaml"
)
def read_text(context: schemathesis.DeserializationContext, response: schemathesis.Response) -> str:
    """The contracts are declared as text, which they are to whoever downloads them."""
    del context
    return response.content.decode()


@atexit.register
def _write_tally() -> None:
    path = os.environ.get("AGENTZERO_FUZZ_TALLY")
    if path:
        Path(path).write_text(json.dumps(answers, indent=1, sort_keys=True))
