"""A change that would break clients of a released contract is refused, a harmless one is not."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from server import cli, resources
from server.compatibility import RULES, Release, find_breaks
from server.documents import load_yaml

ROOT = Path(__file__).resolve().parents[2]
RELEASED = ROOT / "contracts" / "released"
RELEASED_DIGESTS = {"v1.0.0": "c8f1a23378b9643315734d8df6d8e36fe975b795880e1832c29446a182ab6253"}
"""SHA-256 of the two contracts, one after the other, that clients have."""
OPENAPI = """
openapi: 3.0.3
info: {title: Small, version: 1.0.0}
security: [{bearer: []}]
paths:
  /open:
    get:
      operationId: get_open
      security: []
      responses: {'200': {description: Open.}}
  /things/{thing_id}:
    parameters:
      - {name: thing_id, in: path, required: true, schema: {type: string}}
    put:
      operationId: put_thing
      deprecated: true
      x-sunset: '2028-01-01'
      x-permission: tasks:write
      x-ownership: shared
      x-idempotent: true
      parameters:
        - {name: limit, in: query, schema: {type: integer, minimum: 1, maximum: 200, default: 50}}
        - {name: tag, in: query, explode: false, schema: {type: array, items: {type: string}}}
      requestBody:
        content:
          application/json: {schema: {$ref: '#/components/schemas/ThingWrite'}}
          text/plain: {schema: {type: string}}
      responses:
        '200':
          description: The thing.
          headers: {ETag: {schema: {type: string}}}
          content: {application/json: {schema: {$ref: '#/components/schemas/Thing'}}}
        '409': {description: Conflict.}
components:
  securitySchemes: {bearer: {type: http, scheme: bearer}}
  schemas:
    ThingWrite:
      type: object
      additionalProperties: false
      required: [name]
      properties:
        name: {type: string, minLength: 1, maxLength: 64}
        size: {type: number, minimum: 0, maximum: 10}
        kind: {type: string, enum: [small, large]}
        day: {type: string}
        labels: {type: object}
        shape: {oneOf: [{type: string}, {type: integer}]}
        parts: {type: array, items: {$ref: '#/components/schemas/ThingWrite'}}
    Thing:
      allOf:
        - {$ref: '#/components/schemas/Named'}
        - type: object
          required: [size, kind]
          properties:
            size: {type: integer, minimum: 0, maximum: 10}
            kind: {type: string, enum: [small, large]}
            mood: {type: string, enum: [good], x-open-enum: true}
            made_at: {type: string, format: date-time}
            shape: {oneOf: [{type: string}, {type: integer}]}
            counts: {type: object, additionalProperties: {type: integer}}
    Named:
      type: object
      required: [name]
      properties: {name: {type: string, maxLength: 64}}
"""
ASYNCAPI = """
asyncapi: 3.0.0
info: {title: Small, version: 1.0.0}
x-subprotocol: small.v1
x-limits: {events: {frame_bytes: 65536, bookmark_seconds: 10}}
x-close-codes: {'4100': {meaning: The token expired., client: Refresh it.}}
channels:
  live:
    address: /ws
    x-permission: events:read
    bindings: {ws: {query: {type: object, properties: {cursor: {type: string}}}}}
    messages:
      ask: {$ref: '#/components/messages/ask'}
      happened: {$ref: '#/components/messages/happened'}
operations:
  ask:
    action: receive
    channel: {$ref: '#/channels/live'}
    messages: [{$ref: '#/channels/live/messages/ask'}]
    reply: {messages: [{$ref: '#/channels/live/messages/happened'}]}
components:
  messages:
    ask:
      payload:
        type: object
        additionalProperties: false
        required: [type]
        properties: {type: {const: ask}, id: {type: string, maxLength: 64}}
    happened:
      payload:
        type: object
        required: [type, data]
        properties:
          type: {type: string, enum: [thing.made], x-open-enum: true}
          data: {$ref: './openapi.yaml#/components/schemas/Thing'}
"""
GONE: Any = object()
PUT = ("paths", "/things/{thing_id}", "put")
WRITE = ("components", "schemas", "ThingWrite")
WRITTEN = (*WRITE, "properties")
THING = ("components", "schemas", "Thing", "allOf", 1)
GIVEN = (*THING, "properties")
LIVE = ("channels", "live")
HAPPENED = ("components", "messages", "happened", "payload")
Edit = tuple[tuple[Any, ...], Any]

# By rule: each pair is a place in a contract and what stands there afterwards.
REFUSED: list[tuple[str, Edit]] = [
    ("operation-removed", (PUT, GONE)),
    ("operation-removed", (("paths", "/open"), GONE)),
    ("operation-renamed", ((*PUT, "operationId"), "replace_thing")),
    ("access-changed", ((*PUT, "security"), [])),
    ("access-changed", (("paths", "/open", "get", "security"), GONE)),
    ("credential-removed", (("components", "securitySchemes", "bearer"), GONE)),
    ("permission-changed", ((*PUT, "x-permission"), "agents:write")),
    ("ownership-tightened", ((*PUT, "x-ownership"), "private")),
    ("signature-demanded", ((*PUT, "x-signed"), True)),
    ("idempotency-removed", ((*PUT, "x-idempotent"), GONE)),
    ("sunset-advanced", ((*PUT, "x-sunset"), "2027-12-31")),
    ("parameter-removed", ((*PUT, "parameters", 0), GONE)),
    ("parameter-required", ((*PUT, "parameters", 0, "required"), True)),
    (
        "parameter-required",
        (
            (*PUT, "parameters", 0),
            {"name": "new", "in": "header", "required": True, "schema": {}},
        ),
    ),
    ("parameter-encoding-changed", ((*PUT, "parameters", 1, "explode"), True)),
    ("default-changed", ((*PUT, "parameters", 0, "schema", "default"), 20)),
    ("body-removed", ((*PUT, "requestBody"), GONE)),
    ("body-required", ((*PUT, "requestBody", "required"), True)),
    ("media-type-removed", ((*PUT, "requestBody", "content", "text/plain"), GONE)),
    (
        "media-type-removed",
        ((*PUT, "responses", "200", "content"), {"application/yaml": {"schema": {}}}),
    ),
    ("answer-removed", ((*PUT, "responses", "409"), GONE)),
    ("success-added", ((*PUT, "responses", "202"), {"description": "Later."})),
    ("header-removed", ((*PUT, "responses", "200", "headers", "ETag"), GONE)),
    ("property-removed", ((*WRITTEN, "day"), GONE)),
    ("property-removed", ((*GIVEN, "mood"), GONE)),
    ("property-removed", (("components", "schemas", "Named", "properties"), GONE)),
    ("property-required", ((*WRITE, "required"), ["name", "kind"])),
    ("property-optional", ((*THING, "required"), ["size"])),
    ("type-narrowed", ((*WRITTEN, "size", "type"), "integer")),
    ("type-widened", ((*GIVEN, "size", "type"), "number")),
    ("type-widened", ((*GIVEN, "size", "nullable"), True)),
    ("type-widened", ((*GIVEN, "counts", "additionalProperties"), True)),
    ("value-removed", ((*WRITTEN, "kind", "enum"), ["small"])),
    ("value-removed", ((*WRITTEN, "day", "enum"), ["monday"])),
    ("value-added", ((*GIVEN, "kind", "enum"), ["small", "large", "huge"])),
    ("value-added", ((*GIVEN, "kind", "enum"), GONE)),
    ("range-narrowed", ((*WRITTEN, "size", "maximum"), 9)),
    ("range-narrowed", ((*PUT, "parameters", 0, "schema", "minimum"), 2)),
    ("range-widened", ((*GIVEN, "size", "maximum"), GONE)),
    ("range-widened", ((*GIVEN, "size", "minimum"), -1)),
    ("length-narrowed", ((*WRITTEN, "name", "maxLength"), 63)),
    ("length-narrowed", ((*WRITTEN, "day", "minLength"), 1)),
    ("length-narrowed", ((*WRITTEN, "parts", "maxItems"), 100)),
    ("restriction-changed", ((*WRITTEN, "day", "pattern"), "^[a-z]+$")),
    ("restriction-changed", ((*WRITTEN, "day", "format"), "date")),
    ("restriction-changed", ((*WRITTEN, "parts", "uniqueItems"), True)),
    ("format-changed", ((*GIVEN, "made_at", "format"), "date")),
    ("object-closed", ((*WRITTEN, "labels", "additionalProperties"), False)),
    ("alternative-removed", ((*WRITTEN, "shape", "oneOf", 1), GONE)),
    ("alternative-added", ((*GIVEN, "shape", "oneOf", 0), {"type": "boolean"})),
    ("channel-removed", (LIVE, GONE)),
    ("address-changed", ((*LIVE, "address"), "/websocket")),
    ("permission-changed", ((*LIVE, "x-permission"), "system:read")),
    ("property-removed", ((*LIVE, "bindings", "ws", "query", "properties", "cursor"), GONE)),
    ("message-removed", ((*LIVE, "messages", "happened"), GONE)),
    (
        "length-narrowed",
        (("components", "messages", "ask", "payload", "properties", "id", "maxLength"), 32),
    ),
    ("property-optional", ((*HAPPENED, "required"), ["type"])),
    ("close-code-removed", (("x-close-codes", "4100"), GONE)),
    ("limit-lowered", (("x-limits", "events", "frame_bytes"), 32768)),
    ("subprotocol-changed", (("x-subprotocol",), "small.v2")),
]
HARMLESS: dict[str, Edit] = {
    "a path": (("paths", "/new"), {"get": {"operationId": "new", "responses": {"200": {}}}}),
    "a method": ((*PUT[:2], "delete"), {"operationId": "gone", "responses": {"204": {}}}),
    "another name of a path's parameter in prose": ((*PUT, "summary"), "Write it"),
    "an optional parameter": (
        (*PUT, "parameters", 2),
        {"name": "new", "in": "query", "schema": {"type": "string"}},
    ),
    "an optional member that is sent": ((*WRITTEN, "colour"), {"type": "string"}),
    "a member that is given": ((*GIVEN, "colour"), {"type": "string"}),
    "a value that is sent": ((*WRITTEN, "kind", "enum"), ["small", "large", "huge"]),
    "fewer values that are given": ((*GIVEN, "kind", "enum"), ["small"]),
    "a value of an open enumeration": ((*GIVEN, "mood", "enum"), ["good", "bad"]),
    "a wider range of what is sent": ((*WRITTEN, "size", "maximum"), 100),
    "longer texts": (("components", "schemas", "Named", "properties", "name", "maxLength"), 128),
    "a narrower range of what is given": ((*GIVEN, "size", "maximum"), 5),
    "fewer conditions": ((*WRITTEN, "name", "minLength"), GONE),
    "no longer required": ((*WRITE, "required"), GONE),
    "always given now": ((*THING, "required"), ["size", "kind", "mood"]),
    "another shape that is taken": ((*WRITTEN, "shape", "oneOf", 2), {"type": "boolean"}),
    "a shape that is not given any more": ((*GIVEN, "shape", "oneOf", 1), GONE),
    "a refusal": ((*PUT, "responses", "412"), {"description": "Changed."}),
    "a redirect": ((*PUT, "responses", "304"), {"description": "Not modified."}),
    "a header": ((*PUT, "responses", "200", "headers", "Link"), {"schema": {"type": "string"}}),
    "deprecation": (("paths", "/open", "get", "deprecated"), True),
    "a later sunset": ((*PUT, "x-sunset"), "2029-01-01"),
    "looser ownership": ((*PUT, "x-ownership"), "none"),
    "a description": (("info", "description"), "Small things."),
    "an example": ((*GIVEN, "kind", "example"), "small"),
    "a channel": (("channels", "more"), {"address": "/ws/more"}),
    "a message": ((*LIVE, "messages", "told"), {"$ref": "#/components/messages/happened"}),
    "a new event": ((*HAPPENED, "properties", "type", "enum"), ["thing.made", "thing.gone"]),
    "a close code": (("x-close-codes", "4101"), {"meaning": "Revoked.", "client": "Stop."}),
    "a higher limit": (("x-limits", "events", "frame_bytes"), 131072),
    "another pace of bookmarks": (("x-limits", "events", "bookmark_seconds"), 5),
}


def small(*edits: Edit) -> Release:
    """The small contracts with edits; an edit belongs to where its place is."""
    documents = [load_yaml(text.encode()) for text in (OPENAPI, ASYNCAPI)]
    for place, value in edits:
        fitting = [one for way in (place, place[:-1]) for one in documents if reaches(one, way)]
        edit(fitting[0], place, value)
    return Release(*documents)


def reaches(node: Any, place: Iterable[Any]) -> bool:
    """Whether the place exists in the document."""
    for key in place:
        if isinstance(node, list):
            if key >= len(node):
                return False
        elif not isinstance(node, dict) or key not in node:
            return False
        node = node[key]
    return True


def edit(node: Any, place: tuple[Any, ...], value: Any) -> None:
    """Put the value there, or take away what is there."""
    *way, last = place
    for key in way:
        node = node[key]
    if value is GONE:
        del node[last]
    elif isinstance(node, list) and last == len(node):
        node.append(copy.deepcopy(value))
    else:
        node[last] = copy.deepcopy(value)


def named(one: Edit) -> str:
    """What pytest calls an edit."""
    return "/".join(map(str, one[0]))


@pytest.mark.parametrize(("rule", "change"), [pytest.param(*c, id=named(c[1])) for c in REFUSED])
def test_breaking_change_is_refused(rule: str, change: Edit) -> None:
    """By its rule, and read out as a sentence that names the place."""
    breaks = find_breaks(small(), small(change))
    assert rule in {one.rule for one in breaks}
    assert all(RULES[one.rule] in str(one) and one.place in str(one) for one in breaks)


def test_every_rule_has_an_example() -> None:
    """A rule that nothing breaks may as well not be there."""
    assert {rule for rule, _ in REFUSED} == set(RULES)


@pytest.mark.parametrize("change", [pytest.param(one, id=name) for name, one in HARMLESS.items()])
def test_harmless_change_is_none(change: Edit) -> None:
    """What the policy allows within a major version passes."""
    assert find_breaks(small(), small(change)) == []


def test_splitting_a_schema_up_is_no_change() -> None:
    """`allOf` of the parts is the whole."""
    whole = load_yaml(OPENAPI.encode())
    properties = {"name": {"type": "string", "maxLength": 64}}
    parts = whole["components"]["schemas"]["Thing"]["allOf"]
    properties |= parts[1]["properties"]
    whole["components"]["schemas"]["Thing"] = {
        "type": "object",
        "required": ["name", "size", "kind"],
        "properties": properties,
    }
    assert find_breaks(small(), Release(whole, load_yaml(ASYNCAPI.encode()))) == []


def test_renaming_a_schema_is_no_change() -> None:
    """Only what goes over the wire counts."""
    renamed = [load_yaml(t.replace("ThingWrite", "Writing").encode()) for t in (OPENAPI, ASYNCAPI)]
    assert find_breaks(small(), Release(*renamed)) == []


def test_renaming_a_path_parameter_is_a_change() -> None:
    """Methods of generated clients take it by name."""
    document = load_yaml(OPENAPI.replace("thing_id", "id").encode())
    rules = {one.rule for one in find_breaks(small(), Release(document))}
    assert {"parameter-removed", "parameter-required"} <= rules
    assert "operation-removed" not in rules


def released() -> list[Path]:
    """The copies of released contracts, oldest first."""
    found = [one for one in RELEASED.iterdir() if re.fullmatch(r"v\d+\.\d+\.\d+", one.name)]
    return sorted(found, key=lambda one: [int(part) for part in one.name[1:].split(".")])


def version_of(release: Release) -> list[int]:
    """`info.version`, comparable."""
    return [int(part) for part in release.openapi["info"]["version"].split(".")]


@pytest.mark.parametrize("folder", released(), ids=lambda folder: folder.name)
def test_contract_breaks_no_client_of_a_release(folder: Path) -> None:
    """Within a major version; docs/versioning.md says what to do instead."""
    old, own = Release.read(folder), Release.read(resources.openapi_path().parent)
    if version_of(old)[0] == version_of(own)[0]:
        assert [str(one) for one in find_breaks(old, own)] == []


def test_contract_that_changed_has_a_number_of_its_own() -> None:
    """Whoever has the last release can tell it from this one."""
    last, own = Release.read(released()[-1]), Release.read(resources.openapi_path().parent)
    is_same = (last.openapi, last.asyncapi) == (own.openapi, own.asyncapi)
    assert is_same or version_of(own) > version_of(last), "raise info.version in both contracts"


@pytest.mark.parametrize(("version", "digest"), RELEASED_DIGESTS.items())
def test_released_copy_stays_as_clients_have_it(version: str, digest: str) -> None:
    """A break can't be hidden by a new copy of an old release."""
    names = ("openapi.yaml", "asyncapi.yaml")
    both = b"".join((RELEASED / version / name).read_bytes() for name in names)
    assert hashlib.sha256(both).hexdigest() == digest


def run(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and output of `agentzero contract`."""
    result = CliRunner().invoke(cli.app, ["contract", *map(str, arguments)])
    return result.exit_code, result.output


def write(folder: Path, openapi: str) -> Path:
    """A folder with both contracts."""
    folder.mkdir()
    (folder / "openapi.yaml").write_text(openapi)
    (folder / "asyncapi.yaml").write_text(ASYNCAPI)
    return folder


def test_command_names_what_would_break(tmp_path: Path) -> None:
    """Exit code 1 and a line for each; 0 for none; 2 when there is nothing to compare."""
    old = write(tmp_path / "old", OPENAPI)
    new = write(
        tmp_path / "new",
        OPENAPI.replace("maxLength: 64}\n        size", "maxLength: 32}\n        size"),
    )
    assert run("diff", old, old) == (0, "No breaking change.\n")
    code, said = run("diff", old, new)
    assert code == 1
    assert "length-narrowed: PUT /things/{} body/name (maxLength 32)" in said
    code, said = run("diff", tmp_path / "none", new)
    assert code == 2
    assert "openapi.yaml" in said
    (new / "asyncapi.yaml").write_text("channels: [")
    assert run("diff", old, new)[0] == 2


def test_command_compares_with_the_own_contract() -> None:
    """When no second folder is named."""
    assert run("diff", resources.openapi_path().parent) == (0, "No breaking change.\n")


def test_command_keeps_a_released_copy_once(tmp_path: Path) -> None:
    """A released version is replaced only when that is said."""
    version = load_yaml(resources.openapi_path().read_bytes())["info"]["version"]
    code, _ = run("release", tmp_path)
    copied = tmp_path / f"v{version}" / "openapi.yaml"
    assert code == 0
    assert copied.read_bytes() == resources.openapi_path().read_bytes()
    assert run("release", tmp_path)[0] == 2
    assert run("release", tmp_path, "--replace")[0] == 0
