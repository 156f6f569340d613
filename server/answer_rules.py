"""What the contract declares of an operation's answers: `x-cache` and `x-secret`.

`x-cache: {seconds: 1, events: ["agent.*"]}` keeps an answer until one of these events, and never
for longer than so many seconds; `{immutable: true}` until the server ends. `vary: principal` keeps
one for each caller. `x-secret: true`: answers hold secrets; never kept, tagged or compressed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hive.events import EVENT_TYPES, matches
from server.operations import Operation

MAX_SECONDS: Final = 5
IMMUTABLE_SECONDS: Final = 365 * 86_400.0
HEARD_NOUNS: Final = frozenset({"agent", "task"})
"""Whose changes a node hears of as soon as it has made them; of others it hears by the log only."""
PRINCIPAL: Final = "principal"

_OF_THE_CALL = frozenset(
    {"principal", "caller", "actor", "request_id", "address", "call_id", "signed"}
)
_SECRET = re.compile(r"(?:.*_)?(?:api_key|token|secret|ticket|password|private_key)")
_RULES: Final = frozenset({"seconds", "events", "immutable", "vary"})


@dataclass(frozen=True, slots=True)
class CacheRule:
    """How long an answer may be given again, and what ends that before.

    `events` are patterns; none means that the answer does not change while the server runs.
    """

    seconds: float
    events: tuple[str, ...] = ()
    by_principal: bool = False

    @property
    def is_immutable(self) -> bool:
        """Whether another release of the server could answer otherwise, but this one never."""
        return not self.events


def read_cache_rule(operation: Operation) -> CacheRule | None:
    """The rule of an operation; None when its answers are not kept. Raise ValueError."""
    declared = operation.extensions.get("x-cache")
    if declared is None:
        return None
    if not isinstance(declared, Mapping) or not _RULES.issuperset(declared):
        raise ValueError(f"x-cache takes {', '.join(sorted(_RULES))}")
    if declared.get("vary", PRINCIPAL) != PRINCIPAL:
        raise ValueError("x-cache can only vary by principal")
    by_principal = "vary" in declared
    if "immutable" in declared:
        if declared["immutable"] is not True or declared.keys() & {"seconds", "events"}:
            raise ValueError("x-cache is `immutable: true` alone, or has seconds and events")
        return CacheRule(IMMUTABLE_SECONDS, by_principal=by_principal)
    seconds, events = declared.get("seconds"), declared.get("events")
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 1 <= seconds <= MAX_SECONDS:
        raise ValueError(f"x-cache needs seconds from 1 to {MAX_SECONDS}")
    if not isinstance(events, list) or not events:
        raise ValueError("x-cache needs the events that end it")
    for pattern in events:
        _check_pattern(pattern)
    return CacheRule(float(seconds), tuple(events), by_principal)


def answer_problems(
    operation: Operation, function: Callable[..., Any], document: Mapping[str, Any]
) -> Iterator[str]:
    """Say what is wrong with both declarations of an operation. `document` is the contract."""
    if operation.extensions.get("x-secret", True) is not True:
        yield "x-secret is true or absent"
    secrets = sorted(find_secrets(operation.document, document))
    if secrets and not operation.holds_secrets:
        yield f"answers {', '.join(secrets)} and has no x-secret"
    if operation.holds_secrets and operation.is_conditional:
        yield "x-secret and If-None-Match at once"
    try:
        rule = read_cache_rule(operation)
    except ValueError as error:
        yield str(error)
        return
    if rule is not None:
        yield from _cache_problems(operation, rule, function)


def find_secrets(declared: Mapping[str, Any], document: Mapping[str, Any]) -> set[str]:
    """Name the properties of an operation's answers that sound like secrets."""
    found: set[str] = set()
    for response in declared.get("responses", {}).values():
        for media in _follow(response, document).get("content", {}).values():
            found |= _secret_properties(media.get("schema", {}), document, set())
    return found


def _cache_problems(
    operation: Operation, rule: CacheRule, function: Callable[..., Any]
) -> Iterator[str]:
    if operation.method != "GET":
        yield "x-cache on what is no GET"
    if operation.holds_secrets:
        yield "x-cache and x-secret at once"
    if any(one.location == "cookie" and not one.for_pipeline for one in operation.parameters):
        yield "x-cache on what depends on a cookie"
    if rule.by_principal and operation.public:
        yield "x-cache varies by principal and the operation is public"
    used = _OF_THE_CALL.intersection(function.__code__.co_names)
    if rule.by_principal:
        # One answer of a principal serves all its calls.
        used -= {"principal", "caller"}
    if used:
        yield f"x-cache, and the answer depends on the context's {', '.join(sorted(used))}"


def _check_pattern(pattern: object) -> None:
    if not isinstance(pattern, str) or not any(matches(pattern, one) for one in EVENT_TYPES):
        raise ValueError(f"x-cache names the event {pattern!r}, which there is not")
    if pattern != "*" and pattern.partition(".")[0] not in HEARD_NOUNS:
        raise ValueError(f"x-cache names {pattern}, of which a node hears too late")


def _secret_properties(schema: Any, document: Mapping[str, Any], seen: set[str]) -> set[str]:
    if not isinstance(schema, Mapping) or schema.get("$ref", "") in seen:
        return set()
    if "$ref" in schema:
        seen = seen | {schema["$ref"]}
        schema = _follow(schema, document)
    properties = schema.get("properties", {})
    found = {name for name, one in properties.items() if _is_secret(name, one)}
    parts = [*properties.values(), schema.get("items"), schema.get("additionalProperties")]
    for keyword in ("oneOf", "anyOf", "allOf"):
        parts += schema.get(keyword, ())
    for part in parts:
        found |= _secret_properties(part, document, seen)
    return found


def _is_secret(name: str, schema: Mapping[str, Any]) -> bool:
    return _SECRET.fullmatch(name) is not None and schema.get("type", "string") == "string"


def _follow(given: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = given.get("$ref")
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return given
    place: Any = document
    for part in reference.removeprefix("#/").split("/"):
        place = place[part.replace("~1", "/").replace("~0", "~")]
    return _follow(place, document)
