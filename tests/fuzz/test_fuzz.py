"""Schemathesis against the server as users run it: every phase, every check."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymongo import MongoClient

from server.contract import Contract
from server.resources import openapi_path
from tests.servers import ROOT, ServerProcess

# The examples of the contract log in with it.
PASSWORD = "correct horse battery staple"
QUEUED_TASKS = 600
LEASE_OPERATIONS = (
    "renew_lease",
    "append_lease_logs",
    "complete_lease",
    "fail_lease",
    "release_lease",
)
AGENT_OPERATIONS = (
    "get_agent",
    "update_agent",
    "control_agent",
    "heartbeat_agent",
    "claim_leases",
    "unregister_agent",
)
TASK_OPERATIONS = ("get_task", "get_task_logs", "cancel_task")
LISTS = {"list_agents": "agents", "list_tasks": "tasks", "list_events": "events"}


@dataclass(frozen=True)
class Target:
    """A running server with something in it."""

    url: str
    admin_key: str
    agent_key: str
    given: dict[str, Any]


@pytest.fixture
def target(
    tmp_path: Path, mongodb_uri: str, mongodb_client: MongoClient[dict[str, Any]]
) -> Iterator[Target]:
    """A server of its own, with agents, and with tasks that every agent can claim."""
    database = f"test_{uuid.uuid4().hex}"
    server = ServerProcess(
        tmp_path / "data",
        MONGODB_URI=mongodb_uri,
        MONGODB_DATABASE=database,
        ADMIN_PASSWORD=PASSWORD,
        RATE_LIMIT_ENABLED="false",
        LOG_LEVEL="error",
    )
    try:
        url = server.start()
        key = server.data.find_operator_key()
        assert key is not None
        yield _fill(url, key)
    finally:
        server.stop()
        mongodb_client.drop_database(database)


def _fill(url: str, key: str) -> Target:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as client:

        def post(path: str, **body: Any) -> Any:
            answer = client.post(f"/api/v1/{path}", json=body)
            assert answer.is_success, answer.text
            return answer.json()

        one, two = [post("agents", name=name, slots=64) for name in ("one", "two")]
        tasks = [post("tasks", name=f"task {n}")["task_id"] for n in range(QUEUED_TASKS)]
        leases = post(f"agents/{one['agent_id']}/leases", max_leases=len(LEASE_OPERATIONS))
        given: dict[str, Any] = {
            name: {"path": {"lease_id": lease["lease_id"]}, "body": {"fence": lease["fence"]}}
            for name, lease in zip(LEASE_OPERATIONS, leases, strict=True)
        }
        for name in AGENT_OPERATIONS:
            agent = two if name == "unregister_agent" else one
            given[name] = {"path": {"agent_id": agent["agent_id"]}}
        for name in TASK_OPERATIONS:
            given[name] = {"path": {"task_id": tasks[-1]}}
        for name, path in LISTS.items():
            links = client.get(f"/api/v1/{path}?limit=1").links
            given[name] = {"cursor": links["next"]["url"].partition("cursor=")[2]}
    return Target(url, key, one["api_key"], given)


def fuzz(target: Target, key: str, tmp_path: Path, *options: str) -> dict[str, dict[str, int]]:
    """Run Schemathesis; it has to find nothing. The number of answers by operation and status."""
    tally = tmp_path / "tally.json"
    environment = {
        **os.environ,
        "AGENTZERO_FUZZ_KEY": key,
        "AGENTZERO_FUZZ_GIVEN": json.dumps(target.given),
        "AGENTZERO_FUZZ_TALLY": str(tally),
        # Hypothesis keeps no examples between runs, and leaves nothing in the checkout.
        "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path / "hypothesis"),
    }
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(openapi_path())]
    done = subprocess.run(
        [*command, "--url", target.url, *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-30_000:]}\n{done.stderr[-3_000:]}"
    print(done.stdout[-1_500:])  # noqa: T201 - shown when a later assertion fails
    answers: dict[str, dict[str, int]] = json.loads(tally.read_text())
    return answers


def fuzz_logout(target: Target, tmp_path: Path) -> dict[str, dict[str, int]]:
    """Logging out needs a session to end, which the key of the whole run is not."""
    credentials = {"username": "admin", "password": PASSWORD}
    tokens = httpx.post(f"{target.url}/api/v1/auth/login", json=credentials).json()
    return fuzz(
        target,
        tokens["access_token"],
        tmp_path,
        "--include-operation-id=logout",
        "--phases=examples",
    )


def assert_every_operation_succeeded(answers: dict[str, dict[str, int]]) -> None:
    """A refusal proves little: each operation gave a success, too."""
    succeeded = {
        name for name, statuses in answers.items() if any(s.startswith("2") for s in statuses)
    }
    missed = {
        name: answers.get(name, {})
        for name in Contract.load(openapi_path()).operations.keys() - succeeded
    }
    assert missed == {}


@pytest.mark.timeout(400)
def test_fuzzing_as_admin_finds_nothing(target: Target, tmp_path: Path) -> None:
    """All phases and checks with the operator's key; every operation reaches a 2xx."""
    answers = fuzz(target, target.admin_key, tmp_path, "--max-examples=25")
    assert_every_operation_succeeded(answers | fuzz_logout(target, tmp_path))


@pytest.mark.more
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("role", ["admin", "agent"])
def test_long_fuzzing_finds_nothing(target: Target, tmp_path: Path, role: str) -> None:
    """Many more examples, of another seed, for who may do everything and for who may do little."""
    key = {"admin": target.admin_key, "agent": target.agent_key}[role]
    answers = fuzz(target, key, tmp_path, "--max-examples=300", "--seed=1")
    if role == "admin":
        assert_every_operation_succeeded(answers | fuzz_logout(target, tmp_path))
