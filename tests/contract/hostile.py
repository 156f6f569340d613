"""Hostile requests, made from any contract: one generator per bar, for every operation.

`Attack.send` needs an httpx client whose base URL is the server and whose credential may do
everything.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from urllib.parse import urlencode

import httpx

from server.contract import JSON, Contract, Operation

OPERATORS: tuple[Any, ...] = (
    {"$gt": ""},
    {"$ne": None},
    {"$regex": ".*"},
    {"$where": "sleep(2000)||1"},
    {"$expr": {"$eq": [1, 1]}},
    [],
    ["a", {"$gt": ""}],
    None,
)
AMBIGUOUS_JSON: tuple[bytes, ...] = (
    b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":1e999}', b'{"a":1,"a":2}',
    b'{"a":' * 33 + b"1" + b"}" * 33, b"[" * 1000 + b"]" * 1000, b"[" * 100_000,
    b'{"a":' + b"9" * 4301 + b"}", b'{"a":9223372036854775808}', b'{"a":"\\ud800"}',
    b'\xef\xbb\xbf{"a":1}', b'{"a":"\xff"}', b'{"a":1}x', b"{}{}", b"", b" ",
    b"{", b"{'a':1}", b"nul",
)  # fmt: skip
HOSTILE_KEYS: tuple[str, ...] = (
    "$x", "$where", "a.b", "", "\0", "__proto__", "_id", "a\r\nb", "\u2028",
    ".".join(["a"] * 256),
)  # fmt: skip
ANY_VERSION: Mapping[str, str] = {"If-Match": "*"}
"""Meets the precondition that some changes have."""
Slot = tuple[str | int, ...]
REFUSED = frozenset({400, 422})


@dataclass(frozen=True, slots=True)
class Attack:
    """One request, and the statuses that withstand it."""

    name: str
    method: str
    target: str
    withstood: frozenset[int]
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    async def send(self, client: httpx.AsyncClient) -> httpx.Response:
        """Send it; fail unless it is withstood, without delay and as a problem."""
        headers = {**ANY_VERSION, **self.headers}
        if self.body is not None:
            headers.setdefault("Content-Type", JSON)
        # As the target is: httpx would tidy a URL up before it sends it.
        extensions = {"target": self.target.encode("ascii")}
        answer = await client.request(
            self.method, "/", content=self.body, headers=headers, extensions=extensions
        )
        assert answer.status_code in self.withstood, f"{self.name}: {answer.status_code}"
        if answer.status_code >= 400:
            assert answer.headers["Content-Type"] == "application/problem+json", self.name
            assert len(answer.content) < 8192, self.name
        return answer


def path_of(operation: Operation, value: str = "unknown") -> str:
    """The operation's path with every parameter set."""
    path = operation.path
    for parameter in operation.parameters:
        if parameter.location == "path":
            path = path.replace("{" + parameter.name + "}", value)
    return path


def required_query(operation: Operation) -> dict[str, Any]:
    """The examples of what the query has to have."""
    needed = {one.name for one in operation.parameters if one.location == "query" and one.required}
    declared = operation.document.get("parameters", ())
    return {one["name"]: one["example"] for one in declared if one.get("name") in needed}


def example_target(operation: Operation) -> str:
    """The path, and the query that the operation can't be without."""
    query = urlencode(required_query(operation))
    return f"{path_of(operation)}?{query}" if query else path_of(operation)


def example_body(operation: Operation) -> Any:
    """The example of the request body that the contract gives."""
    return copy.deepcopy(operation.document["requestBody"]["content"][JSON]["example"])


def example_bytes(operation: Operation) -> bytes | None:
    """The example, encoded; None when the operation takes no body."""
    return None if operation.body is None else json.dumps(example_body(operation)).encode()


def operator_attacks(contract: Contract, operation: Operation) -> Iterator[Attack]:
    """A query operator in each declared slot of the body and the query."""
    path = path_of(operation)
    for parameter in operation.parameters:
        if parameter.location == "query":
            yield Attack(
                f"{parameter.name}[$ne]", operation.method, f"{path}?{parameter.name}[$ne]=1",
                frozenset({400}), example_bytes(operation),
            )  # fmt: skip
    if operation.body is None:
        return
    for slot, schema in body_slots(contract, operation):
        for value in OPERATORS:
            if value == [] and schema.get("type") == "array":
                continue
            if schema.get("type") == "object" and isinstance(value, dict):
                continue
            body = example_body(operation)
            put(body, slot, value)
            name = f"{operation.operation_id} {'/'.join(map(str, slot))} <- {value}"
            yield Attack(name, operation.method, path, REFUSED, json.dumps(body).encode())


def key_attacks(contract: Contract, operation: Operation) -> Iterator[Attack]:
    """Hostile keys in every object that is not free-form."""
    if operation.body is None:
        return
    slots: list[tuple[Slot, Mapping[str, Any]]] = [((), {})]
    slots += [(s, d) for s, d in body_slots(contract, operation) if d.get("type") == "object"]
    for slot, _ in slots:
        for key in HOSTILE_KEYS:
            body = example_body(operation)
            put(body, (*slot, key), "x")
            name = f"{operation.operation_id} /{'/'.join(map(str, slot))} key {key[:20]!r}"
            encoded = json.dumps(body).encode()
            yield Attack(name, operation.method, path_of(operation), frozenset({400}), encoded)


def json_attacks(operation: Operation) -> Iterator[Attack]:
    """JSON without one meaning."""
    if operation.body is None:
        return
    for encoded in AMBIGUOUS_JSON:
        if encoded or operation.body.required:
            name = f"{operation.operation_id} {encoded[:20]!r}"
            yield Attack(name, operation.method, path_of(operation), frozenset({400}), encoded)


def path_attacks(operation: Operation) -> Iterator[Attack]:
    """The same operation under another spelling of its path. Send them without a credential."""
    path = path_of(operation)
    query = urlencode(required_query(operation))
    body = example_bytes(operation)
    # What PUT makes is named by the end of its path: `name;x=1` is a name, if no good one.
    behind = {401, 404, 405, 422} if operation.method == "PUT" else {401, 404, 405}
    spellings = {
        "two slashes": "/" + path,
        "inner slashes": path.replace("/", "//")[1:] + "/x",
        "dot": "/." + path,
        "dot dot": "/x/.." + path,
        "encoded dot dot": "/x/%2e%2e" + path,
        "encoded slash": "/" + path[1:].replace("/", "%2f"),
        "encoded letter": path.replace("a", "%61", 1),
        "upper case": path.upper(),
        "semicolon": path + ";x=1",
        "NUL": path + "%00",
        "space": path + "%20",
        "line break": path + "%0d%0aX-Injected:%201",
        "backslash": path.replace("/", "%5c"),
        "two trailing slashes": path + "//",
        "dot at the end": path + "/.",
        "bad escape": path + "%zz",
        "half UTF-8": path + "%e2%82",
        "overlong slash": path + "%c0%af",
        "full-width slash": path.replace("/", "%ef%bc%8f"),
    }
    for name, target in spellings.items():
        if target == path:
            continue
        yield Attack(
            f"{operation.operation_id} {name}",
            operation.method,
            f"{target}?{query}" if query else target,
            # What begins with no slash is no target of HTTP at all; `/tasks/batch;x=1` is the path
            # of a task, which has other methods.
            frozenset(behind if target.startswith("/") else {400}),
            body,
        )


def method_attacks(contract: Contract, operation: Operation) -> Iterator[Attack]:
    """Other methods on the path, and headers that ask for another method."""
    path = path_of(operation)
    declared = methods_of(contract, operation)
    for method in (
        "HEAD",
        "OPTIONS",
        "TRACE",
        "PATCH",
        "PUT",
        "DELETE",
        "GET",
        "PROPFIND",
        "FINISH",
    ):
        if method not in declared:
            yield Attack(f"{method} {path}", method, path, frozenset({405}))
    for header in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        # TRACE is nothing that any operation has: it is answered as what was sent.
        yield Attack(
            f"{header} {path}", "TRACE", path, frozenset({405}), headers={header: operation.method}
        )


def methods_of(contract: Contract, operation: Operation) -> set[str]:
    """Those of the operation's path: where GET is, there is HEAD."""
    declared = {one.method for one in contract.operations.values() if one.path == operation.path}
    return declared | ({"HEAD"} if "GET" in declared else set())


def size_attacks(operation: Operation, *, max_body_bytes: int) -> Iterator[Attack]:
    """One more than each limit."""
    path = path_of(operation)
    body = example_bytes(operation)
    method = operation.method
    if operation.max_body_bytes is None:
        yield Attack("body", method, path, frozenset({413}), b" " * (max_body_bytes + 1))
    url = f"{path}?x="
    url += "y" * (8 * 1024 + 1 - len(url))
    yield Attack("URL", method, url, frozenset({414}), body)
    headers = {f"X-{n}": "1" for n in range(101)}
    yield Attack("headers", method, path, frozenset({431}), body, headers)


def body_slots(
    contract: Contract, operation: Operation
) -> Iterator[tuple[Slot, Mapping[str, Any]]]:
    """Every declared place in the body with its schema, free-form ones left out."""
    schema = operation.document["requestBody"]["content"][JSON]["schema"]
    yield from _slots(contract.openapi, schema, ())


def _slots(
    document: Mapping[str, Any], schema: Mapping[str, Any], at: tuple[str | int, ...]
) -> Iterator[tuple[Slot, Mapping[str, Any]]]:
    while "$ref" in schema:
        target: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        schema = target
    if schema.get("x-raw-json"):
        return
    if at:
        yield at, schema
    for name, member in schema.get("properties", {}).items():
        yield from _slots(document, member, (*at, name))
    if "items" in schema:
        yield from _slots(document, schema["items"], (*at, 0))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from _slots(document, schema["additionalProperties"], (*at, "key"))


def put(body: Any, slot: Sequence[str | int], value: Any) -> None:
    """Set the place in the body, making what leads there."""
    for part, following in pairwise(slot):
        empty: Any = [] if isinstance(following, int) else {}
        if isinstance(part, int):
            if not body:
                body.append(empty)
            body = body[part]
        else:
            body = body.setdefault(part, empty)
    last = slot[-1]
    if isinstance(last, int):
        body[:] = [value]
    else:
        body[last] = value
