"""`x-cache` and `x-secret`: what is malformed or unsafe stops start-up, and is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from handlers.context import Context
from server.answer_rules import CacheRule, answer_problems, find_secrets, read_cache_rule
from server.resources import openapi_path
from tests.contracts import our_contract

CONTRACT = our_contract()


async def blind(context: Context) -> list[str]:
    """A handler that asks nothing of its call."""
    return [context.services.version]


async def seeing(context: Context) -> list[str]:
    """A handler whose answer depends on who asks."""
    return [context.caller.principal_id]


async def tracing(context: Context) -> list[str]:
    """A handler whose answer depends on the call."""
    return [context.request_id]


def problems(operation_id: str, function: Any = blind, **extensions: Any) -> str:
    """What start-up says of the operation with these declarations."""
    declared = {f"x-{name}": value for name, value in extensions.items()}
    operation = replace(CONTRACT.operations[operation_id], extensions=declared)
    return "; ".join(answer_problems(operation, function, CONTRACT.openapi))


AGENTS = {"seconds": 1, "events": ["agent.*"]}


@pytest.mark.parametrize(
    ("operation_id", "cache", "said"),
    [
        ("list_agents", True, "x-cache takes events, immutable, seconds, vary"),
        ("list_agents", AGENTS | {"public": True}, "x-cache takes"),
        ("list_agents", {"events": ["agent.*"]}, "seconds from 1 to 5"),
        ("list_agents", AGENTS | {"seconds": 0}, "seconds from 1 to 5"),
        ("list_agents", AGENTS | {"seconds": 6}, "seconds from 1 to 5"),
        ("list_agents", AGENTS | {"seconds": True}, "seconds from 1 to 5"),
        ("list_agents", AGENTS | {"seconds": 1.5}, "seconds from 1 to 5"),
        ("list_agents", {"seconds": 1}, "needs the events"),
        ("list_agents", {"seconds": 1, "events": []}, "needs the events"),
        ("list_agents", {"seconds": 1, "events": "agent.*"}, "needs the events"),
        ("list_agents", {"seconds": 1, "events": ["agent.flown"]}, "'agent.flown', which there"),
        ("list_agents", {"seconds": 1, "events": [1]}, "the event 1, which there is not"),
        ("list_users", {"seconds": 1, "events": ["user.*"]}, "user.*, of which a node hears too"),
        ("list_agents", AGENTS | {"vary": "Accept"}, "only vary by principal"),
        ("list_agents", {"immutable": True, "seconds": 1}, "`immutable: true` alone"),
        ("list_agents", {"immutable": False}, "`immutable: true` alone"),
        ("heartbeat_agent", AGENTS, "x-cache on what is no GET"),
        ("get_openapi_yaml", AGENTS | {"vary": "principal"}, "the operation is public"),
    ],
)
def test_a_malformed_or_unsafe_cache_stops_startup(
    operation_id: str, cache: Any, said: str
) -> None:
    """Each with what is wrong about it."""
    assert said in problems(operation_id, cache=cache)


@pytest.mark.parametrize(
    ("function", "varying", "said"),
    [
        (blind, {}, ""),
        (blind, {"vary": "principal"}, ""),
        (seeing, {}, "the answer depends on the context's caller"),
        (seeing, {"vary": "principal"}, ""),
        (tracing, {}, "the answer depends on the context's request_id"),
        (tracing, {"vary": "principal"}, "the answer depends on the context's request_id"),
    ],
)
def test_an_answer_that_depends_on_the_caller_has_to_say_so(
    function: Any, varying: dict[str, str], said: str
) -> None:
    """One that depends on the call itself can't be kept at all."""
    expected = said and f"x-cache, and {said}"
    assert problems("list_agents", function, cache=AGENTS | varying) == expected


def test_secrets_are_not_kept() -> None:
    """Both declarations at once stop start-up."""
    assert "x-cache and x-secret at once" in problems("list_agents", cache=AGENTS, secret=True)
    assert "x-secret and If-None-Match at once" in problems("list_agents", secret=True)


@pytest.mark.parametrize(
    ("operation_id", "named"),
    [
        ("login", "access_token, refresh_token"),
        ("refresh", "access_token, refresh_token"),
        ("create_api_key", "api_key"),
        ("rotate_api_key", "api_key"),
        ("register_agent", "api_key"),
        ("create_ws_ticket", "ticket"),
        ("create_signing_key", "secret"),
        ("reset_user_password", "password"),
    ],
)
def test_an_answer_with_a_secret_has_to_say_so(operation_id: str, named: str) -> None:
    """A property that sounds like one is enough; what it is called is said."""
    assert f"answers {named}" in problems(operation_id)
    assert "answers" not in problems(operation_id, secret=True)
    assert CONTRACT.operations[operation_id].holds_secrets


def test_x_secret_has_one_value() -> None:
    """False would look as if somebody had decided something."""
    assert "x-secret is true or absent" in problems("list_agents", secret=False)


SECRET = {"type": "object", "properties": {"refresh_token": {"type": "string"}}}
SCHEMAS: list[dict[str, Any]] = [
    SECRET,
    {"type": "array", "items": SECRET},
    {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": SECRET}}}},
    {"type": "object", "additionalProperties": SECRET},
    {"oneOf": [{"type": "string"}, SECRET]},
    {"$ref": "#/components/schemas/Hidden"},
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_secret_is_found_wherever_it_stands(schema: dict[str, Any]) -> None:
    """In lists, maps, alternatives and references, also to itself."""
    hidden = {
        "type": "object",
        "properties": {
            "refresh_token": {"type": "string"},
            "next": {"$ref": "#/components/schemas/Hidden"},
        },
    }
    answered = {"responses": {"200": {"content": {"application/json": {"schema": schema}}}}}
    assert find_secrets(answered, {"components": {"schemas": {"Hidden": hidden}}}) == {
        "refresh_token"
    }


def test_the_product_keeps_what_docs_say() -> None:
    """docs/caching.md has a row for each operation that is kept, and no other."""
    kept = {
        name: rule
        for name, operation in CONTRACT.operations.items()
        if (rule := read_cache_rule(operation)) is not None
    }
    assert kept["list_agents"] == CacheRule(1.0, ("agent.*",))
    page = (openapi_path().parent / "docs" / "caching.md").read_text("utf-8")
    rows = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert kept.keys() == {row for row in rows if row in CONTRACT.operations}
