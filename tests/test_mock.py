"""The mock server: every operation of the contract answers with its own example."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import yaml

from server import resources
from server.mock import accept_any_token, make_mock_app

METHODS = ("get", "put", "post", "delete", "patch")
EXAMPLES = {"agent_id": "agt_1", "task_id": "tsk_1", "lease_id": "lse_1"}


@pytest.fixture(scope="module")
def contract() -> Any:
    """The contract as it is written."""
    return yaml.safe_load(resources.openapi_path().read_text(encoding="utf-8"))


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of the mock server, in process."""
    transport = httpx.ASGITransport(make_mock_app(resources.openapi_path()))
    async with httpx.AsyncClient(transport=transport, base_url="http://mock") as client:
        yield client


def resolve(contract: Any, node: Any) -> Any:
    """What a `$ref` points to, or the node itself."""
    while "$ref" in node:
        target = contract
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def operations(contract: Any) -> Iterator[tuple[str, str, Any]]:
    """Method, path and operation, for all."""
    for path, item in contract["paths"].items():
        for method in METHODS:
            if method in item:
                yield method, path, item[method]


def example_body(contract: Any, operation: Any) -> Any:
    """The first example of the request body, or None without one."""
    if "requestBody" not in operation:
        return None
    content = resolve(contract, operation["requestBody"])["content"].get("application/json")
    if content is None:
        return None
    if "example" in content:
        return content["example"]
    return resolve(contract, next(iter(content["examples"].values())))["value"]


async def test_every_operation_answers_with_its_example(
    contract: Any, client: httpx.AsyncClient
) -> None:
    """The contract stays loadable by Connexion, and its examples fit its own schemas."""
    client.headers["Authorization"] = "Bearer anything"
    wrong = []
    for method, path, operation in operations(contract):
        url = re.sub(r"\{(\w+)\}", lambda match: EXAMPLES.get(match[1], "x"), path)
        query = {
            one["name"]: one["example"]
            for one in operation.get("parameters", ())
            if one.get("required") and one["in"] == "query"
        }
        body = example_body(contract, operation)
        answer = await client.request(method, url, json=body, params=query)
        lowest = min(operation["responses"])
        if str(answer.status_code) != lowest:
            wrong.append(f"{operation['operationId']}: {answer.status_code} {answer.text[:200]}")
    assert wrong == []


async def test_a_bearer_token_is_asked_for_and_believed(client: httpx.AsyncClient) -> None:
    """A client that forgets its token learns it from the mock already."""
    assert (await client.get("/api/v1/agents")).status_code == 401
    authorization = {"Authorization": "Bearer anything"}
    agents = await client.get("/api/v1/agents", headers=authorization)
    assert agents.json()[0]["agent_id"].startswith("agt_")
    assert (await client.get("/api/v1/agents?limit=0", headers=authorization)).status_code == 400
    assert accept_any_token("x")["sub"] == "mock"
